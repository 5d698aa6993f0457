"""Examples in the READMEs of the vendor's own clients run against the simulated provider as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.config import FleetConfig
from fleet.sim.settings import SimSettings
from tests.conformance.conftest import Sims
from tests.support.node import modules, with_modules
from tests.tours import readme
from tests.tours.target import PICTURE_BYTES

KEY = "sk-readme"
#: What the examples name.
MODELS = ("gpt-5.5", "gpt-4o")

#: Whole programs about what an OpenAI-compatible server of ours has; the others are about fine-tuning, audio, realtime,
#: webhooks, identities and other vendors, or are pieces of a program.
PYTHON = (
    "Usage/0",
    "Usage/1",
    "Vision/1",
    "Async usage/0",
    "With aiohttp/0",
    "Streaming responses/0",
    "Streaming responses/1",
    "Nested params/0",
    "Handling errors/0",
    "Retries/0",
    "Timeouts/0",
    "Accessing raw response data (e.g. headers)/0",
    "Managing HTTP resources/0",
    "Managing HTTP resources/1",
    "Determining the installed version/0",
)
#: Needs files, which the simulated provider has not.
PYTHON_FILES = ("File uploads/0",)


@pytest.fixture
def url(sims: Sims) -> str:
    """A simulated provider with the models that the examples name."""
    price = {"input": "1", "output": "4"}
    config = FleetConfig.model_validate(
        {
            "models": {name: {"context_tokens": 400_000, "price": price} for name in MODELS},
            "tiers": {"nano": {"model": MODELS[0]}},
        }
    )
    return sims(SimSettings(speed=100, api_key=KEY, invalid_output=dict.fromkeys(MODELS, 0.0)), config).url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the examples read."""
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "image.png").write_bytes(PICTURE_BYTES)
    return tmp_path


@pytest.mark.parametrize("name", PYTHON)
def test_python(name: str, url: str, folder: Path) -> None:
    example = readme.examples(readme.python_readme(), "python", "py")[name]
    assert readme.models_of(example) <= set(MODELS)
    done = readme.run_python(example.code, folder, url, KEY)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
