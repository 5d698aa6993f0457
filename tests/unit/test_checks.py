"""What counts as an answer, and the reason when one does not: it names the rule and holds nothing of the answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import pytest

from fleet import checks
from fleet.examiners import BrokenCheckError, Examiners
from fleet.expansion import DEEPEST
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


def check(given: Completion, schema: dict[str, Any] | None) -> Any:
    """What comes of it."""

    async def checked() -> Any:
        examiners = Examiners()
        try:
            return await checks.check(given, schema, examiners)
        finally:
            examiners.close()

    return asyncio.run(checked())


@pytest.mark.parametrize(
    "text",
    ['{"topic": "bug"}', '\n {"topic": "bug"} \n', '```json\n{"topic": "bug"}\n```', '```\n{"topic":\n"bug"}\n ```\n'],
)
def test_json_is_taken_bare_or_in_a_fence(text: str) -> None:
    assert check(completion(text), SCHEMA) == {"topic": "bug"}


def test_without_a_schema_any_text_is_an_answer_as_it_is() -> None:
    assert check(completion(' {"not": parsed '), None) == ' {"not": parsed '


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
        check(completion(text), SCHEMA)
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
        check(completion('{"topic": "bug"}', finish), schema)


def test_an_answer_beyond_all_measure_is_refused_unread() -> None:
    with pytest.raises(checks.Rejected, match="over 2,000,000 characters"):
        check(completion("x" * 2_000_001), None)


@pytest.mark.parametrize("pair", ["[]", '{"a": }'])
def test_an_answer_nested_deeper_than_can_be_written_again_is_refused(pair: str) -> None:
    left, right = pair[:-1], pair[-1]
    fine = left * (DEEPEST - 1) + "[]" + right * (DEEPEST - 1)
    assert check(completion(fine), {"type": ["array", "object"]}) == json.loads(fine)
    with pytest.raises(checks.Rejected, match="nested too deep: more than 100") as rejected:
        check(completion(left + fine + right), {})
    assert rejected.value.flaw == "schema"
    wide = json.dumps([[{}] * 300] * 2)
    assert check(completion(wide), {}) == json.loads(wide), "many brackets are no depth"


def test_without_a_schema_depth_is_text() -> None:
    assert check(completion("[" * 500), None) == "[" * 500


@pytest.mark.parametrize("text", ["[1]", '{"a": [[2]]}'])
def test_an_answer_is_held_to_a_slow_schema_elsewhere_with_the_same_words(text: str) -> None:
    quick: dict[str, Any] = {"type": "object", "properties": {"a": {"items": {"items": {"maximum": 1}}}}}
    said = []
    for schema in (quick, quick | {"unevaluatedProperties": True}):
        with pytest.raises(checks.Rejected) as rejected:
            check(completion(text), schema)
        said.append((str(rejected.value), rejected.value.flaw))
    assert said[0] == said[1]
    assert check(completion('{"b": 1}'), {"unevaluatedProperties": True}) == {"b": 1}


@pytest.mark.parametrize(
    "schema", [{"$ref": "#/nowhere"}, {"$ref": "#/nowhere", "unevaluatedItems": True}, {"type": "text"}]
)
def test_a_schema_that_cannot_be_checked_is_a_broken_check_and_no_error_of_ours(schema: dict[str, Any]) -> None:
    """Of jobs that were accepted when nobody looked."""
    with pytest.raises(BrokenCheckError, match=r"it raised|the schema cannot be applied: \w+"):
        check(completion("1"), schema)
    with pytest.raises(checks.Rejected, match="the schema cannot be applied") as rejected:
        checks.parse("1", schema)
    assert rejected.value.flaw == "check_broken"


def test_a_number_that_is_too_big_to_be_checked_is_the_answers_fault() -> None:
    with pytest.raises(checks.Rejected, match="too big"):
        check(completion("1" * 400), {"multipleOf": 0.5})


def test_what_a_schema_says_of_its_dialect_and_address_fetches_nothing_and_changes_nothing() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-03/schema#",
        "$id": "http://192.0.2.1/schema",
        "properties": {"below": {"$ref": "#"}, "n": {"const": 1}},
    }
    with pytest.raises(checks.Rejected, match=r"below\.n breaks the schema's rule const"):
        check(completion('{"below": {"n": 2}}'), schema)


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
