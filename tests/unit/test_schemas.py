"""Which JSON schemas answers are held to: none by which a check could take for ever."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.jobs import Step
from fleet.schemas import MAX_SCHEMA_CHARS, check_schema, check_short
from fleet.stored import read

FOR_EVER = [r"^(a+)+$", r"(a*)*b", r"^(a|a)*$", r"(.*,){30,}x", r"^((ab)+c?)+$", r"(x+x+)+y", r"(?:(?:a|b)+c)*"]
IN_TIME = [
    r"^[a-z]+$",
    r"^\d{4}-\d{2}-\d{2}$",
    r"^(foo|bar)$",
    r"^[\w.]+@[\w.]+$",
    r"^(\d{1,3}\.){3}\d{1,3}$",
    r"^(a|b)?c+$",
]


@pytest.mark.parametrize("pattern", FOR_EVER)
def test_a_pattern_that_can_take_for_ever_is_refused(pattern: str) -> None:
    schemas: list[dict[str, Any]] = [{"pattern": pattern}, {"prefixItems": [{"patternProperties": {pattern: {}}}]}]
    for schema in schemas:
        with pytest.raises(ValueError, match="for ever"):
            check_schema(schema)


@pytest.mark.parametrize("pattern", ["(", "a{4294967296}", "(?<=a+)b", "[z-a]"])
def test_what_is_no_pattern_is_refused_whatever_it_is(pattern: str) -> None:
    with pytest.raises(ValueError, match="a JSON schema"):
        check_schema({"pattern": pattern})


@pytest.mark.parametrize("pattern", IN_TIME)
def test_other_patterns_are_not(pattern: str) -> None:
    check_schema({"pattern": pattern})


def test_a_schema_from_outside_is_short_and_one_that_is_kept_is_read_as_it_is() -> None:
    with pytest.raises(ValueError, match="characters"):
        check_short({"enum": ["x" * MAX_SCHEMA_CHARS]})
    kept: dict[str, Any] = {"id": "a", "prompt": "x", "output": {"pattern": FOR_EVER[0]}}
    assert read(Step, kept).output == kept["output"]
