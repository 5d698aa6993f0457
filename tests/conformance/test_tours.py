"""The vendor's own Python client on a tour of the simulated provider; both clients go before a whole fleet elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from fleet.sim.settings import SimSettings
from tests.conformance.conftest import Sims
from tests.support.sim import MODELS
from tests.tours.run import node_tour, python_tour, stops_of
from tests.tours.tour import STOPS

KEY = "sk-tour"
#: What only the fleet's own API has.
NOT_SIMULATED = {"fleet-headers", "idempotency", "batch", "batch-errors", "batch-cancel"}
SIMULATED = [name for name in STOPS if name not in NOT_SIMULATED]


@pytest.fixture
def url(sims: Sims) -> str:
    """A simulated provider that wants a key."""
    settings = SimSettings(speed=100, api_key=KEY, invalid_output=dict.fromkeys(MODELS, 0.0), queued_s=0.5)
    return sims(settings).url


def test_python(url: str) -> None:
    assert stops_of(python_tour(url, KEY, "--model", MODELS[0], *SIMULATED)) == SIMULATED


@pytest.mark.parametrize("tour", [python_tour, node_tour])
def test_a_tour_fails_loudly(tour: Callable[..., subprocess.CompletedProcess[str]], url: str) -> None:
    # The simulated provider is no fleet.
    failed = tour(url, KEY, "--model", MODELS[0], "fleet-headers", "models")
    assert (failed.returncode, failed.stdout) == (1, "FAILED fleet-headers\nok models\n")
    assert "x-fleet-job" in failed.stderr
    assert tour(url, KEY, "--model", MODELS[0], "nowhere").returncode == 2
