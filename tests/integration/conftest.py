"""Simulated providers that the tests of this ring share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fleet.sim.settings import Faults, SimSettings
from tests.support.bench import BREAKS, DEAR, GOOD, config
from tests.support.lanes import LanesSim, lanes_sim
from tests.support.sim import RunningSim, running_sim

OBEDIENT = {GOOD: 0.0, DEAR: 0.0, BREAKS: 1.0}


@pytest.fixture(scope="session")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSim]:
    """Its model `breaks` breaks every schema, the others none."""
    settings = SimSettings(speed=1000, invalid_output=OBEDIENT)
    with running_sim(tmp_path_factory.mktemp("sim"), settings, config()) as running:
        yield running


@pytest.fixture(scope="session")
def demanding_sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSim]:
    """Every review of it sends subtasks back as long as it may."""
    settings = SimSettings(speed=1000, invalid_output=OBEDIENT, rework=1)
    with running_sim(tmp_path_factory.mktemp("demanding"), settings, config()) as running:
        yield running


@pytest.fixture(scope="session")
def broken_sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSim]:
    """Answers every call with a 500 or 503, and wants a key."""
    settings = SimSettings(speed=1000, faults=Faults(error_5xx=1), api_key="right")
    with running_sim(tmp_path_factory.mktemp("broken"), settings, config()) as running:
        yield running


@pytest.fixture(scope="session")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanesSim]:
    """A simulated provider with flex and batches, which take 0.1 s."""
    with lanes_sim(tmp_path_factory.mktemp("vendor")) as running:
        yield running
