"""The API as one process: the application of a runtime, and serving it until SIGTERM.

It owns the address that is listened on, and refuses one that others can reach while the fleet has no key, unless it is to let
nobody in until there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from fastapi.telemetry import TelemetryConfig
from starlette.requests import Request

from fleet.api import batches, completions, files, jobs, models, pages, problems, responses
from fleet.api.answers import Desk
from fleet.api.auth import Admin, Gatekeeper, Reader
from fleet.api.bodies import AT_ONCE
from fleet.api.events import Feeds
from fleet.api.extracts import Extracts
from fleet.api.live import Watches
from fleet.api.observed import Observed
from fleet.api.sheet import sheet_of
from fleet.api.traffic import Traffic
from fleet.api.visitors import Reception
from fleet.audit import Audit
from fleet.batches import Batches
from fleet.client import FleetClient
from fleet.control import Control
from fleet.errors import BadInputError
from fleet.health import Health, beating
from fleet.keys import Keys
from fleet.loopback import is_loopback
from fleet.metrics_endpoint import MetricsEndpoint, shown
from fleet.recording import recording
from fleet.runtime import NAMESPACE, Runtime
from fleet.sessions import Sessions
from fleet.steps import StepCounter
from queues.bridge import Background

logger = logging.getLogger(__name__)

#: Longest that requests under way may take when the process was asked to end.
DRAIN_S = 10
#: What is for everybody.
OPEN: dict[str, Any] = {"security": []}
#: FastAPI would make spans, metrics and logs of its own, which know nothing of jobs and may quote bodies; see fleet.api.observed.
SILENT: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
DESCRIPTION = "Durable, rate-limited, budgeted work for language models, on the cheapest tier that will do."


def build(runtime: Runtime, *, loopback: bool) -> FastAPI:
    """The application. `loopback`: whether only this machine can reach it."""
    desk = Desk(runtime, Control(runtime))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await desk.aclose()

    app = FastAPI(
        title="tierfleet",
        version="1",
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        telemetry=SILENT,
    )
    client, counter, keys = FleetClient(runtime), StepCounter(runtime), Keys(runtime.link, NAMESPACE)
    app.state.client = client
    app.state.control = Control(runtime)
    app.state.desk = desk
    app.state.audit = Audit(runtime.link, NAMESPACE)
    app.state.batches = Batches(client, app.state.control)
    app.state.turns = asyncio.Semaphore(AT_ONCE)
    app.state.feeds = Feeds(runtime.store, runtime.jobs)
    app.state.gatekeeper = Gatekeeper(keys, loopback=loopback)
    app.state.reception = Reception(keys, Sessions(runtime.link, NAMESPACE, keys), app.state.gatekeeper)
    app.state.counter = counter
    app.state.extracts = Extracts(client)
    app.state.watches = Watches(lambda job_id: sheet_of(client, counter, job_id))
    app.state.traffic = traffic = Traffic()
    app.add_middleware(traffic.around)
    problems.install(app)
    for routes in (jobs, models, completions, responses, files, batches, pages):
        app.include_router(routes.router)

    @app.get("/healthz", tags=["process"], openapi_extra=OPEN)
    async def healthz() -> dict[str, str]:
        """Whether the process serves."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["process"], responses=problems.declared(503), openapi_extra=OPEN)
    async def readyz() -> dict[str, str]:
        """Whether it can do its work: the store answers."""
        await problems.in_time(runtime.store.now())
        return {"status": "ok"}

    @app.get("/openapi.json", include_in_schema=False)
    async def description(_: Reader) -> dict[str, Any]:
        """The API's description; to whoever reaches it without a key nothing is said, not even this."""
        return app.openapi()

    @app.get("/metrics", tags=["process"], responses=problems.declared(401, 403, 503), response_class=Response)
    async def metrics(request: Request, _: Admin) -> Response:
        """What stands where in the fleet, and how this process answers, for Prometheus."""
        seen = [traffic.registry, *await problems.in_time(runtime.lookout.look())]
        body, content_type = shown(seen, request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    return app


async def serve(runtime: Runtime, host: str, port: int, *, await_key: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. `await_key`: where others can reach it, let nobody in until the fleet has a key.

    Raises:
        BadInputError: others could reach it, and the fleet has no key.
        RedisError: the store does not answer.
    """
    await runtime.jobs.index_earlier()
    loopback = is_loopback(host)
    if not loopback and not await Keys(runtime.link, NAMESPACE).all():
        if not await_key:
            raise BadInputError(
                f"The fleet has no key, so nobody could be let in at {host}; `fleet keys create` makes the first one. Or serve "
                "on 127.0.0.1, or with --await-key, which lets nobody in until there is one."
            )
        logger.warning(
            "The fleet has no key, so nobody is let in at %s; `fleet keys create` makes the first one.", host
        )
    app = build(runtime, loopback=loopback)
    beside = Background()
    if (address := runtime.environment.metrics_address) is not None:
        beside.add(MetricsEndpoint(*address, [app.state.traffic.registry]).serve)
    health = Health(runtime.environment.fleet_health)
    health.begin()
    config = uvicorn.Config(
        Observed(app),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    beside.start(asyncio.get_running_loop())
    try:
        async with recording(runtime.environment, "api"), beating(health):
            await Server(config, health).serve()
    finally:
        await beside.stop(DRAIN_S)
        await runtime.aclose()


class Server(uvicorn.Server):
    """Uvicorn's, which says when it takes requests, and when it was asked to end."""

    def __init__(self, config: uvicorn.Config, health: Health) -> None:
        super().__init__(config)
        self._health = health

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._health.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._health.ending()
        super().handle_exit(sig, frame)
