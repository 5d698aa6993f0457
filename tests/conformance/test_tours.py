"""The vendor's own clients, in Python and in Node, on a tour of the simulated provider."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fleet.sim.settings import SimSettings
from tests.conformance.conftest import Sims
from tests.support.node import modules, node
from tests.support.sim import MODELS, ROOT
from tests.tours.tour import STOPS

KEY = "sk-tour"
#: What only the fleet's own API has.
NOT_SIMULATED = {"fleet-headers", "idempotency", "files", "batch", "batch-errors", "batch-cancel"}
#: What Python's tour does in several stops, Node's does in one.
PYTHON_ONLY = {"json-schema", "async", "previous", "response-errors"}
SIMULATED = [name for name in STOPS if name not in NOT_SIMULATED]


@pytest.fixture
def url(sims: Sims) -> str:
    """A simulated provider that wants a key."""
    settings = SimSettings(speed=100, api_key=KEY, invalid_output=dict.fromkeys(MODELS, 0.0), queued_s=0.5)
    return sims(settings).url


def toured(url: str, *command: str) -> dict[str, str]:
    """Stop by stop, what the tour said of it."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "OPENAI_BASE_URL": url,
            "OPENAI_API_KEY": KEY,
        },
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    said = {stop: word for word, stop in map(str.split, done.stdout.splitlines())}
    assert done.returncode == ("FAILED" in said.values()), done.stdout + done.stderr
    assert "FAILED" not in said.values(), done.stdout + done.stderr
    return said


def test_python(url: str) -> None:
    assert list(toured(url, sys.executable, "-m", "tests.tours.tour", "--model", MODELS[0], *SIMULATED)) == SIMULATED


def test_node(url: str) -> None:
    modules()
    wanted = [name for name in SIMULATED if name not in PYTHON_ONLY]
    assert list(toured(url, node(), "tests/tours/tour.mjs", "--model", MODELS[0], *wanted)) == wanted


@pytest.mark.parametrize("command", [[sys.executable, "-m", "tests.tours.tour"], ["node", "tests/tours/tour.mjs"]])
def test_a_tour_fails_loudly(command: list[str], url: str) -> None:
    if command[0] == "node":
        modules()
        command = [node(), *command[1:]]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    # The simulated provider has no files.
    failed = run("--model", MODELS[0], "files", "models")
    assert (failed.returncode, failed.stdout) == (1, "FAILED files\nok models\n")
    assert "Unknown request URL" in failed.stderr
    assert run("--model", MODELS[0], "nowhere").returncode == 2
