"""Examples in the READMEs of the vendor's own clients run against the simulated provider as they are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fleet.config import FleetConfig
from fleet.sim.settings import SimSettings
from tests.conformance.conftest import Sims
from tests.support.node import with_modules
from tests.tours import readme

KEY = "sk-readme"
#: The simulated provider has no files.
PYTHON = [name for name in readme.PYTHON if name != "File uploads/0"]
#: What an example prints where it asks for what the simulated provider has not, and says so.
PRINTED = {"Handling errors/0": "404"}


@pytest.fixture
def url(sims: Sims) -> str:
    """A simulated provider with the models that the examples name."""
    model = {"context_tokens": 400_000, "price": {"input": "1", "output": "4"}}
    config = FleetConfig.model_validate(
        {
            "models": dict.fromkeys(readme.MODELS, model),
            "tiers": {tier: {"model": readme.MODELS[0]} for tier in ("nano", "mini", "flagship")},
        }
    )
    return sims(SimSettings(speed=100, api_key=KEY, invalid_output=dict.fromkeys(readme.MODELS, 0.0)), config).url


def check(example: readme.Example, done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == ("print(" in example.code or "console.log(" in example.code)
    assert PRINTED.get(example.name, "") in done.stdout
    assert readme.models_of(example) <= set(readme.MODELS)


@pytest.mark.parametrize("name", PYTHON)
def test_python(name: str, url: str, tmp_path: Path) -> None:
    example = readme.examples(readme.python_readme(), "python", "py")[name]
    check(example, readme.run_python(example, readme.with_files(tmp_path), url, KEY))


@pytest.mark.parametrize("name", readme.NODE)
def test_node(name: str, url: str, tmp_path: Path) -> None:
    example = readme.examples(readme.node_readme(), "ts", "js")[name]
    check(example, readme.run_node(example, with_modules(tmp_path), url, KEY))
