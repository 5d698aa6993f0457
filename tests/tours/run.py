"""Sending the tours to a server: each a process of its own, that knows nothing but an address, a key and a model."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.node import modules, node
from tests.support.sim import ROOT

TIMEOUT_S = 150.0


def python_tour(url: str, key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The tour of the Python client; arguments are `--model MODEL [STOP ...]`."""
    return _run([sys.executable, "-m", "tests.tours.tour", *arguments], url, key)


def node_tour(url: str, key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The tour of the Node client, with the same arguments; skips the test where there is no Node."""
    modules()
    return _run([node(), "tests/tours/tour.mjs", *arguments], url, key)


def stops_of(tour: subprocess.CompletedProcess[str]) -> list[str]:
    """The stops of a tour, all of which went well."""
    assert tour.returncode == 0, tour.stdout + tour.stderr
    lines = tour.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines), tour.stdout
    return [line.removeprefix("ok ") for line in lines]


def _run(command: list[str], url: str, key: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": url, "OPENAI_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
