"""`GET /metrics` over HTTP on the event loop of a worker process: surveys the store when asked, and keeps nothing.

It owns the listening socket. A store that does not answer in time, or an address that is taken, costs the scrape and
never the worker. It knows no name of a metric. What autoscaling goes by is served beside.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry
from redis.exceptions import RedisError

from fleet.admissible import AdmissibleMetrics, AdmissibleWork
from fleet.metrics import Metrics
from queues.survey import Surveyor

logger = logging.getLogger(__name__)

#: Longest that a scrape waits for the store; Prometheus gives up after 10 s.
PATIENCE_S = 5.0
#: Longest that the end of the process waits for a scrape under way.
END_S = 1.0


class MetricsEndpoint:
    """Shows the metrics at one address."""

    def __init__(self, surveyor: Surveyor, work: AdmissibleWork, host: str, port: int) -> None:
        self._surveyor = surveyor
        self._work = work
        self._host = host
        self._port = port
        #: Scrapes at the same time take turns, so however many there are the store does one survey at a time.
        self._turn = asyncio.Lock()

    async def serve(self) -> None:
        """Serve until cancelled. Raises OSError when the address cannot be had."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_routes(self._work.routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=END_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
            logger.info("metrics at http://%s:%s/metrics", self._host, self._port)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(PATIENCE_S), self._turn:
                survey = await self._surveyor.survey()
                admissible = await self._work.of(survey)
        except (RedisError, TimeoutError) as error:
            return web.Response(status=503, text=f"The store does not answer ({type(error).__name__}).\n")
        shown = CollectorRegistry()
        for collector in (Metrics(survey), AdmissibleMetrics(admissible)):
            shown.register(collector)
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(shown), headers={"Content-Type": content_type})
