"""The commands that are one process of a fleet: worker, coordinator, api, sim, flower."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from fleet import logs
from fleet.config import Environment
from fleet.documents import nearest
from fleet.errors import BadInputError
from fleet.flower_door import OAuth, access
from fleet.health import Health
from fleet.runtime import Runtime, checked_config
from fleet.sim.server import serve
from fleet.sim.settings import SimSettings
from fleet.store import COORDINATOR

commands = typer.Typer()


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
    table: Annotated[
        Path | None, typer.Option(help="Correctness table by which prompts that name a case are answered.")
    ] = None,
) -> None:
    """The simulated provider: OpenAI-compatible, with limits, latency, faults and a charge log."""
    environment = Environment()
    logs.set_up(environment.fleet_log_format)
    config = checked_config(environment)
    serve(SimSettings(host=host, port=port, charges=charges, speed=speed, seed=seed, table=table), config)


@commands.command()
def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
    await_key: Annotated[
        bool,
        typer.Option("--await-key", help="Listen although the fleet has no key: nobody is let in until it has one."),
    ] = False,
) -> None:
    """The HTTP API of the fleet at FLEET_REDIS_URL."""
    environment = Environment()
    logs.set_up(environment.fleet_log_format)
    # FastAPI is slow to import, and no other command needs it.
    from fleet.api.server import serve as serve_api  # noqa: PLC0415

    uvloop.run(serve_api(Runtime.from_environment(environment), host, port, await_key=await_key))


@commands.command()
def flower(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5555,
) -> None:
    """Flower on the fleet at FLEET_REDIS_URL: a live view of workers, queues and tasks.

    Beyond loopback it takes FLEET_FLOWER_BASIC_AUTH=user:password, or OAuth by Flower's own variables (FLOWER_AUTH, …).
    """
    environment = Environment()
    runtime = Runtime.from_environment(environment)
    who = access(host, environment.fleet_flower_basic_auth, OAuth())
    logs.set_up(environment.fleet_log_format)
    # Tornado's line for each request says at whose pages somebody looked.
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    # No other command needs Tornado.
    from fleet.flower_server import serve as serve_flower  # noqa: PLC0415

    serve_flower(runtime, who, host, port, environment.fleet_state)


def serve_tier(tier: str, concurrency: int) -> None:
    """Be a worker of `tier` until SIGTERM."""
    environment = Environment()
    logs.set_up(environment.fleet_log_format)
    # Said here, where it ends the command with a sentence.
    Health(environment.fleet_health).begin()
    # Importing it connects a Celery app to the environment, which only a worker wants.
    from fleet.worker import app  # noqa: PLC0415

    arguments = ["worker", "-Q", tier, "-c", str(concurrency), "-n", f"{tier}.{os.getpid()}@%h", "--without-gossip"]
    # Without the banner, and without what Celery prints past every logger as it ends: they are no lines of a log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    app.worker_main(["--quiet", *arguments, "--without-mingle"])
