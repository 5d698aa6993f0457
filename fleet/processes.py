"""The commands that are one process of a fleet: worker, coordinator, api, sim, flower."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from fleet.config import Environment, shipped_file
from fleet.documents import nearest
from fleet.errors import BadInputError
from fleet.runtime import Runtime, checked_config
from fleet.sim.server import serve
from fleet.sim.settings import SimSettings
from fleet.store import COORDINATOR

commands = typer.Typer()

LOG_FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"


@commands.command()
def worker(
    tier: Annotated[str, typer.Option(help="The tier whose queue it consumes.")],
    concurrency: Annotated[
        int | None, typer.Option(help="Calls in flight; the tier's own when left out.", min=1)
    ] = None,
) -> None:
    """One worker of a tier."""
    runtime = Runtime.from_environment(Environment())
    if tier not in runtime.config.tiers:
        raise BadInputError(f'--tier is "{tier}"{nearest(tier, runtime.config.tiers)}.')
    serve_tier(tier, concurrency or runtime.tiers[tier].concurrency)


@commands.command()
def coordinator() -> None:
    """The coordinator: plans jobs, dispatches to the tier queues, puts back what got stuck."""
    runtime = Runtime.from_environment(Environment())
    serve_tier(COORDINATOR, runtime.tiers[COORDINATOR].concurrency)


@commands.command()
def sim(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 lets the system choose.", min=0, max=65535)] = 8765,
    charges: Annotated[Path | None, typer.Option(help="File that gets a line per billed call.")] = None,
    speed: Annotated[float, typer.Option(help="How many times faster than life.", min=0.01)] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of its faults.")] = 0,
) -> None:
    """The simulated provider: OpenAI-compatible, with limits, latency, faults and a charge log."""
    config = checked_config(Environment())
    serve(SimSettings(host=host, port=port, charges=charges, speed=speed, seed=seed), config)


@commands.command()
def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
) -> None:
    """The HTTP API of the fleet at FLEET_REDIS_URL."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    # FastAPI is slow to import, and no other command needs it.
    from fleet.api.server import serve as serve_api  # noqa: PLC0415

    uvloop.run(serve_api(Runtime.from_environment(Environment()), host, port))


@commands.command()
def flower(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5555,
) -> None:
    """Flower on the fleet at FLEET_REDIS_URL, on loopback."""
    Runtime.from_environment(Environment())
    arguments = ["flower", "--address=127.0.0.1", f"--port={port}", f"--conf={shipped_file('flowerconfig.py')}"]
    os.execv(sys.executable, [sys.executable, "-m", "celery", "-A", "fleet.worker", *arguments])  # noqa: S606


def serve_tier(tier: str, concurrency: int) -> None:
    """Be a worker of `tier` until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    # A line per task at INFO is a line too much at hundreds of calls a second; Flower and the ledger have them.
    for name in ("celery", "kombu", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Importing it connects a Celery app to the environment, which only a worker wants.
    from fleet.worker import app  # noqa: PLC0415

    arguments = ["worker", "-Q", tier, "-c", str(concurrency), "-n", f"{tier}.{os.getpid()}@%h", "--without-gossip"]
    app.worker_main([*arguments, "--without-mingle", "--loglevel", "INFO"])
