"""A whole fleet with its API as processes, before a simulated provider: for clients that are programs of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet.keys import Keys
from fleet.runtime import NAMESPACE
from fleet.sim.settings import SimSettings
from queues.link import Link
from tests.support.processes import FleetProcess
from tests.support.sim import MODELS, fleet_config, running_sim
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until

NO_ALIASES: Mapping[str, str] = {}
TIERS = ("nano", "mini", "flagship")


@dataclass(frozen=True)
class Served:
    """The API: its address without a path, a key of the default tenant that may do everything, and all processes."""

    url: str
    key: str
    processes: list[FleetProcess]


@contextlib.contextmanager
def served(folder: Path, valkey: Valkey, aliases: Mapping[str, str] = NO_ALIASES) -> Iterator[Served]:
    """A fleet that keeps its files in `folder`, until the block ends; `aliases`: other names of its tiers."""
    config, port = fleet_config().model_copy(update={"aliases": dict(aliases)}), free_port()
    processes: list[FleetProcess] = []
    with running_sim(folder / "sim", SimSettings(speed=1000, invalid_output=dict.fromkeys(MODELS, 0.0)), config) as sim:
        try:
            for words in (("coordinator",), *(("worker", "--tier", tier) for tier in TIERS)):
                processes.append(FleetProcess(valkey, folder, config, sim.url, *words).ready(valkey, words[-1]))
            api = FleetProcess(valkey, folder, config, sim.url, "api", "--port", str(port))
            processes.append(api)
            until(lambda: port in api.listens_on(), "the API to listen", api)
            yield Served(f"http://127.0.0.1:{port}", asyncio.run(_key(valkey.url)), processes)
        finally:
            for process in reversed(processes):
                process.stop()


async def _key(url: str) -> str:
    link = Link.from_url(url)
    try:
        return (await Keys(link, NAMESPACE).create("default", ("submit", "read", "admin"), "test", 0.0))[1]
    finally:
        await link.aclose()
