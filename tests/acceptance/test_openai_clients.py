"""The vendor's own clients, Python's and Node's, before a whole fleet: everywhere on a tour, and their READMEs as they are."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import with_modules
from tests.support.serving import Served, served
from tests.support.valkey import Valkey
from tests.tours import readme, tour
from tests.tours.run import node_tour, python_tour, stops_of

#: What Python's tour does in several stops, Node's does in one.
PYTHON_ONLY = {"json-schema", "async", "previous", "response-errors", "batch-errors"}
#: The model that the READMEs name, as a name of a tier.
ALIASES = {"gpt-5.5": "mini"}
#: What an example prints where it asks for what a fleet has not, and says so.
PRINTED = {"Handling errors/0": "404"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fleet")
    valkey = Valkey(tmp_path_factory.mktemp("valkey"))
    try:
        with served(folder, valkey, ALIASES) as running:
            yield running
    finally:
        valkey.stop()


def test_pythons_client_goes_everywhere(fleet: Served) -> None:
    assert stops_of(python_tour(f"{fleet.url}/v1", fleet.key, "--model", "nano")) == list(tour.STOPS)


def test_nodes_client_goes_everywhere(fleet: Served) -> None:
    stops = [name for name in tour.STOPS if name not in PYTHON_ONLY]
    assert sorted(stops_of(node_tour(f"{fleet.url}/v1", fleet.key, "--model", "nano"))) == sorted(stops)


@pytest.mark.parametrize("name", readme.PYTHON)
def test_an_example_of_pythons_readme_runs_as_it_is(name: str, fleet: Served, tmp_path: Path) -> None:
    example = readme.examples(readme.python_readme(), "python", "py")[name]
    _check(example, readme.run_python(example, readme.with_files(tmp_path), f"{fleet.url}/v1", fleet.key))


@pytest.mark.parametrize("name", readme.NODE)
def test_an_example_of_nodes_readme_runs_as_it_is(name: str, fleet: Served, tmp_path: Path) -> None:
    example = readme.examples(readme.node_readme(), "ts", "js")[name]
    _check(example, readme.run_node(example, with_modules(tmp_path), f"{fleet.url}/v1", fleet.key))


def _check(example: readme.Example, done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == ("print(" in example.code or "console.log(" in example.code)
    assert PRINTED.get(example.name, "") in done.stdout
