"""Schemas that ask the simulated model for more than there is time or memory for: refused, or answered with less."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fleet.sim import answers, functions
from fleet.sim.asked import ApiError, checked_schema
from fleet.sim.effort import BASE_UNITS, MATCHING_UNITS, Effort

Schema = dict[str, Any]


def forks(levels: int, properties: int = 1) -> Schema:
    defs: Schema = {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(levels)}
    leaf = {
        "type": "object",
        "required": [f"p{at}" for at in range(properties)],
        "properties": {f"p{at}": {"$ref": "#"} for at in range(properties)},
    }
    return {"$defs": defs | {f"d{levels}": leaf}, "$ref": "#/$defs/d0"}


HOSTILE: list[Schema] = [
    forks(26),
    forks(12, properties=100),
    {"type": "object", "required": ["a", "b", "c", "d"], "properties": {name: {"$ref": "#"} for name in "abcd"}},
    {"type": "object", "properties": {f"p{at}": {"$ref": "#"} for at in range(300)}},
    {"type": "array", "minItems": 10**12, "items": {"type": "integer"}},
    {"type": "array", "minItems": 10**12, "items": {"type": "string"}},
    {"type": "array", "minItems": 10**12, "items": {"const": "x" * 20_000}},
    {"type": "array", "minItems": 10**12, "items": {"enum": ["x" * 20_000]}},
    {"type": "array", "minItems": 10**12, "items": {"type": "object"}},
    {"type": "array", "minItems": 10**9, "items": {"$ref": "#"}},
    {"type": "string", "minLength": 10**15},
    {"type": "object", "minProperties": 10**12},
    {"type": "object", "properties": {f"p{at}": {"const": "x" * 20_000} for at in range(900)}},
    {"type": "string", "pattern": ".*.*.*="},
    {"type": "string", "pattern": "a*a*a*a*a*a*a*b"},
    {"type": "string", "pattern": "^" + "(?:a|aa)" * 40 + "b"},
    {"type": "object", "properties": {f"p{at}": {"type": "string", "pattern": ".*.*="} for at in range(500)}},
    {"type": "array", "minItems": 5_000, "items": {"type": "string", "format": "uuid"}},
]


@pytest.mark.parametrize("schema", HOSTILE)
@pytest.mark.parametrize("name", ["output", "plan"])
def test_an_answer_comes_to_an_end_whatever_is_asked_for(schema: Schema, name: str) -> None:
    """Each of these would take years, or all memory."""
    prompt = "Sort these, aaaa aaaa:\n" + "a" * 3_000 + "\n" + "- a line of it\n" * 200
    text = answers.answer("", prompt, schema, name, 1_000)
    assert text == answers.answer("", prompt, schema, name, 1_000)
    json.loads(text)
    assert len(text) < 40 * BASE_UNITS


def test_a_plan_is_not_tried_on_what_takes_long() -> None:
    slow: Schema = {
        "type": "object",
        "required": ["steps", "why"],
        "properties": {
            "steps": {"type": "array", "items": {"type": "object", "properties": {"id": {"pattern": ".*.*.*.*="}}}},
            "why": {"type": "string", "pattern": ".*.*.*.*.*.*="},
        },
    }
    prompt = "Goal: sort them.\n\n- {}"
    assert set(json.loads(answers.answer("", prompt, slow, "plan", 1_000))) == {"steps", "why"}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (forks(26), "too much to check"),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}},
            'the reference "#/$defs/b" leads to no schema',
        ),
        ({"type": "object", "properties": 5}, "not a JSON schema"),
    ],
)
def test_what_no_answer_can_be_held_to_is_refused_as_a_vendor_does(schema: Schema, why: str) -> None:
    with pytest.raises(ApiError) as refused:
        checked_schema({"name": "x", "schema": schema}, "text.format")
    assert (refused.value.status, refused.value.body["error"]["code"]) == (400, "invalid_json_schema")
    assert "Invalid schema for response_format 'x': " in str(refused.value)
    assert why in str(refused.value)
    tool = {"type": "function", "function": {"name": "x", "parameters": {"type": "object"} | schema}}
    with pytest.raises(ApiError) as refused:
        functions.read({"tools": [tool]})
    assert refused.value.body["error"]["code"] == "invalid_function_parameters"


def test_a_reference_by_a_name_of_its_own_is_answered() -> None:
    schema = {
        "$defs": {"a": {"$anchor": "there", "type": "string"}},
        "type": "object",
        "properties": {"x": {"$ref": "#there"}},
    }
    assert set(json.loads(answers.answer("", "What?", schema, "output", 100))) == {"x"}


def test_effort_is_spent_once() -> None:
    effort = Effort(10)
    assert [effort.affords(units) for units in (11, 6, 5, 4, 1)] == [False, True, False, True, False]
    assert effort.is_spent
    assert Effort(10).at_most(7, 3) == 3
    assert Effort(-1).at_most(7) == 0
    assert MATCHING_UNITS > 100 * 1_000, "a few patterns over all that is tried on them"
