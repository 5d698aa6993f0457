"""`GET /metrics` over HTTP on the event loop of a process: what its instruments say, and a look at the fleet where it has one.

It owns the listening socket. A store that does not answer in time is a metric of its own (`tierfleet_store_up`), and an address
that is taken costs the metrics and never the process. It knows no other name of a metric; who has more to show than that hands
over its routes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import chain

from aiohttp import web
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from fleet.metrics import StoreMetrics

logger = logging.getLogger(__name__)

#: Longest that a scrape waits for the store; Prometheus gives up after 10 s, and some of them the loop may stand still.
PATIENCE_S = 4.0
#: Longest that the end of the process waits for a scrape under way.
END_S = 1.0
OPENMETRICS = "application/openmetrics-text"

#: Looks at the fleet; raises RedisError when the store does not answer.
Look = Callable[[], Awaitable[Sequence[Collector]]]


class Together(Collector):
    """Several collectors as one, in order."""

    def __init__(self, collectors: Sequence[Collector]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        yield from chain.from_iterable(collector.collect() for collector in self._collectors)


class MetricsEndpoint:
    """Shows the metrics of a process at one address."""

    def __init__(
        self,
        host: str,
        port: int,
        instruments: Sequence[Collector],
        look: Look | None = None,
        routes: Sequence[web.RouteDef] = (),
    ) -> None:
        """`look`: of a process that shows the whole fleet's metrics with its own; `routes`: what else is served here."""
        self._host = host
        self._port = port
        self._instruments = instruments
        self._look = look
        self._routes = routes
        #: Scrapes at the same time take turns, so however many there are the store is looked at once at a time.
        self._turn = asyncio.Lock()

    async def serve(self) -> None:
        """Serve until cancelled. Raises OSError when the address cannot be had."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_routes(self._routes)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=END_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
            logger.info("metrics at http://%s:%s/metrics", self._host, self._port)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = shown([*self._instruments, *await self._seen()], request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _seen(self) -> Sequence[Collector]:
        if self._look is None:
            return ()
        try:
            async with asyncio.timeout(PATIENCE_S), self._turn:
                return [StoreMetrics(answers=True), *await self._look()]
        except (RedisError, TimeoutError) as error:
            logger.warning("the store does not answer a scrape: %s", type(error).__name__)
            return [StoreMetrics(answers=False)]


def shown(collectors: Sequence[Collector], accept: str) -> tuple[bytes, str]:
    """The text of a process's metrics and its media type, for a scraper with this `Accept` header."""
    together = Together([ProcessCollector(registry=None), *collectors])
    # Nothing of what the scraper sent is passed on: the library fails at versions that it cannot read.
    encode, media_type = choose_encoder(OPENMETRICS if OPENMETRICS in accept else "")
    return encode(together), media_type
