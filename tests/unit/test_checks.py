"""What counts as an answer, and the reason when one does not: it names the rule and holds nothing of the answer."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from fleet import checks
from fleet.prices import Usage
from fleet.providers.base import Completion

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["topic"],
    "properties": {
        "topic": {"enum": ["billing", "bug"]},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 5}},
    },
}
SECRET = "canary"


def completion(text: str, finish: Literal["stop", "length", "refusal", "empty"] = "stop") -> Completion:
    return Completion(text, finish, Usage(), usage_reported=True, model="m", request_id=None)


@pytest.mark.parametrize(
    "text",
    ['{"topic": "bug"}', '\n {"topic": "bug"} \n', '```json\n{"topic": "bug"}\n```', '```\n{"topic":\n"bug"}\n ```\n'],
)
def test_json_is_taken_bare_or_in_a_fence(text: str) -> None:
    assert checks.check(completion(text), SCHEMA) == {"topic": "bug"}


def test_without_a_schema_any_text_is_an_answer_as_it_is() -> None:
    assert checks.check(completion(' {"not": parsed '), None) == ' {"not": parsed '


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"Sure, {SECRET}!", "the answer is not JSON: Expecting value at character 0"),
        (f'{{"topic": "bug"}} {SECRET}', "the answer is not JSON: Extra data at character 17"),
        (f'{{"topic": "{SECRET}', "the answer is not JSON: Unterminated string starting at at character 10"),
        (f'{{"topic": "{SECRET}"}}', 'topic breaks the schema\'s rule enum: ["billing", "bug"]'),
        (f'{{"notes": ["{SECRET}"], "topic": "bug"}}', "notes.0 breaks the schema's rule maxLength: 5"),
        (f'{{"{SECRET}": 1, "topic": "bug"}}', "the answer breaks the schema's rule additionalProperties: false"),
        ("{}", 'the answer breaks the schema\'s rule required: ["topic"]'),
        (f'["{SECRET}"]', 'the answer breaks the schema\'s rule type: "object"'),
        ("", "the answer is not JSON: Expecting value at character 0"),
        ("[" * 100_000, "the answer is not JSON: too deep"),
    ],
)
def test_the_reason_names_the_rule_and_not_the_answer(text: str, reason: str) -> None:
    with pytest.raises(checks.Rejected) as rejected:
        checks.check(completion(text), SCHEMA)
    assert str(rejected.value) == reason
    assert SECRET not in str(rejected.value)
    assert rejected.value.__cause__ is None


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("length", "the answer was cut off at max_output_tokens"),
        ("refusal", "the model refused to answer"),
        ("empty", "the answer was empty"),
    ],
)
@pytest.mark.parametrize("schema", [SCHEMA, None])
def test_an_answer_that_is_not_whole_is_none(
    finish: Literal["length", "refusal", "empty"], reason: str, schema: dict[str, Any] | None
) -> None:
    with pytest.raises(checks.Rejected, match=reason):
        checks.check(completion('{"topic": "bug"}', finish), schema)


def test_an_answer_beyond_all_measure_is_refused_unread() -> None:
    with pytest.raises(checks.Rejected, match="over 2,000,000 characters"):
        checks.check(completion("x" * 2_000_001), None)


def test_an_answer_nested_deeper_than_the_schema_can_be_followed_is_refused() -> None:
    tree = {"type": "array", "items": {"$ref": "#"}}
    with pytest.raises(checks.Rejected, match="too deep"):
        checks.parse("[" * 900 + "]" * 900, tree)


@pytest.mark.parametrize("target", ["#/definitions/a", "#nobody"])
def test_a_schema_that_cannot_be_applied_is_no_fault_of_the_answer(target: str) -> None:
    with pytest.raises(checks.Rejected, match="the schema cannot be applied") as rejected:
        checks.parse('{"a": 1}', {"type": "object", "properties": {"a": {"$ref": target}}})
    assert rejected.value.flaw == "check_broken"


@pytest.mark.parametrize(
    "text", ['{"n": NaN}', '{"n": Infinity}', '{"n": -Infinity}', '{"n": 1e999}', '{"n": ' + "1" * 5_000 + "}"]
)
def test_numbers_that_json_does_not_have_are_no_json(text: str) -> None:
    with pytest.raises(checks.Rejected, match="not JSON"):
        checks.parse(text, {"type": "object"})
