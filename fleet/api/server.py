"""The API as one process: the application of a runtime, and serving it until SIGTERM.

It owns the address that is listened on. At one that others can reach it lets nobody in without a key, so as long as the fleet
has none, nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request

from fleet.api import batches, completions, files, jobs, models, problems, responses
from fleet.api.answers import Desk
from fleet.api.auth import Admin, Gatekeeper, is_loopback
from fleet.api.bodies import AT_ONCE
from fleet.api.events import Feeds
from fleet.audit import Audit
from fleet.batches import Batches
from fleet.client import FleetClient
from fleet.control import Control
from fleet.keys import Keys
from fleet.metrics import Metrics
from fleet.runtime import NAMESPACE, Runtime

logger = logging.getLogger(__name__)

#: Longest that requests under way may take when the process was asked to end.
DRAIN_S = 10
#: What is for everybody.
OPEN: dict[str, Any] = {"security": []}
DESCRIPTION = "Durable, rate-limited, budgeted work for language models, on the cheapest tier that will do."


def build(runtime: Runtime, *, loopback: bool) -> FastAPI:
    """The application. `loopback`: whether only this machine can reach it."""
    desk = Desk(runtime, Control(runtime))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await desk.aclose()

    app = FastAPI(
        title="tierfleet", version="1", description=DESCRIPTION, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.client = FleetClient(runtime)
    app.state.control = Control(runtime)
    app.state.desk = desk
    app.state.audit = Audit(runtime.link, NAMESPACE)
    app.state.batches = Batches(app.state.client, app.state.control)
    app.state.turns = asyncio.Semaphore(AT_ONCE)
    app.state.feeds = Feeds(runtime.store, runtime.jobs)
    app.state.gatekeeper = Gatekeeper(Keys(runtime.link, NAMESPACE), loopback=loopback)
    problems.install(app)
    for routes in (jobs, models, completions, responses, files, batches):
        app.include_router(routes.router)

    @app.get("/healthz", tags=["process"], openapi_extra=OPEN)
    async def healthz() -> dict[str, str]:
        """Whether the process serves."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["process"], responses=problems.declared(503), openapi_extra=OPEN)
    async def readyz() -> dict[str, str]:
        """Whether it can do its work: the store answers."""
        await runtime.store.now()
        return {"status": "ok"}

    @app.get("/metrics", tags=["process"], responses=problems.declared(401, 403, 503), response_class=Response)
    async def metrics(request: Request, _: Admin) -> Response:
        """What stands where in the fleet, for Prometheus."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(Metrics(await runtime.surveyor.survey())), headers={"Content-Type": content_type})

    return app


async def serve(runtime: Runtime, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        RedisError: the store does not answer.
    """
    await runtime.jobs.index_earlier()
    loopback = is_loopback(host)
    if not loopback and not await Keys(runtime.link, NAMESPACE).all():
        logger.warning(
            "The fleet has no key, so nobody is let in at %s; `fleet keys create` makes the first one.", host
        )
    config = uvicorn.Config(
        build(runtime, loopback=loopback),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    try:
        await uvicorn.Server(config).serve()
    finally:
        await runtime.aclose()
