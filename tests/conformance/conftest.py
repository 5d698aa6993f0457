"""Simulated providers for this ring: one per settings, started when first asked for, ended with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from fleet.config import FleetConfig
from fleet.sim.settings import SimSettings
from tests.support.lanes import LanesSim, lanes_sim
from tests.support.sim import RunningSim, running_sim

Sims = Callable[..., RunningSim]


@pytest.fixture(scope="session")
def sims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sims]:
    """`sims(settings, config)`: the simulated provider with these, the same one for the same ones."""
    running: dict[tuple[str, str], RunningSim] = {}
    with ExitStack() as stack:

        def start(settings: SimSettings | None = None, config: FleetConfig | None = None) -> RunningSim:
            key = (settings.model_dump_json() if settings else "", config.model_dump_json() if config else "")
            if key not in running:
                running[key] = stack.enter_context(running_sim(tmp_path_factory.mktemp("sim"), settings, config))
            return running[key]

        yield start


@pytest.fixture
def sim(sims: Sims) -> RunningSim:
    """A simulated provider without faults or limits, 100 times faster than life."""
    return sims()


@pytest.fixture(scope="session")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanesSim]:
    """A simulated provider with flex and batches, 1,000 times faster than life; its batches take 0.3 s."""
    with lanes_sim(tmp_path_factory.mktemp("vendor"), batch_s=300) as running:
        yield running
