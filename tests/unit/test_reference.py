"""docs/reference is what the code says, and the code says something of every key, variable, option and route."""

from __future__ import annotations

import re
from functools import cache

import pytest
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from fleet import reference
from fleet.config import Environment
from fleet.flower_door import OAuth
from tests.support.cli import ROOT

FOLDER = ROOT / "docs" / "reference"
MODELS = [*reference.CONFIGURATION.values(), *reference.JOB.values(), Environment, OAuth]
made = cache(reference.pages)


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert name in made(), f"nothing makes docs/reference/{name}"
    assert (FOLDER / name).read_text() == made()[name], "it is stale: `make docs` makes it again"


def test_no_page_is_missing() -> None:
    assert made().keys() == {path.name for path in FOLDER.iterdir()}, "`make docs` makes them"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_says_what_it_is(model: type[BaseModel] | type[BaseSettings]) -> None:
    silent = [name for name, said in reference.comments_of(model).items() if not said]
    assert not silent, f"{model.__name__} has keys without a `#:` comment: {', '.join(silent)}"


def test_no_row_of_a_table_is_silent() -> None:
    """Options have help, routes a docstring."""
    for name, page in made().items():
        for row in re.findall(r"^\| `.*", page, re.M):
            assert row.count(" | ") >= 1 and not re.fullmatch(r"\| `[^|]*`(?: \|\s*)+", row), f"{name}: {row}"


def test_commands_and_variables_of_the_contract_are_there() -> None:
    for command in ("run", "up", "worker", "jobs retry", "keys create", "webhooks redeliver", "doctor", "top"):
        assert f"\n## fleet {command}\n" in made()["commands.md"]
    for variable in ("FLEET_CONFIG", "FLEET_REDIS_URL", "OPENAI_API_KEY", "FLOWER_AUTH"):
        assert f"| `{variable}` |" in made()["environment.md"]
