"""A step's own rule: which can be given, what keeps it, and the reason when an answer does not: it quotes nothing of it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fleet.jobs import Step
from fleet.rules import Check, Unfit, keep
from fleet.stored import read

SECRET = "canary"


def rule(**fields: Any) -> Check:
    return Check.model_validate(fields)


@pytest.mark.parametrize(
    ("check", "output"),
    [
        (rule(one_of=["billing", "bug"]), "bug"),
        (rule(one_of=[1, None, {"a": [2]}]), 1.0),
        (rule(one_of=[1, None, {"a": [2]}]), {"a": [2]}),
        (rule(min_length=3, max_length=3), "abc"),
        (rule(min_length=2), [1, 2]),
        (rule(max_length=0, field="notes"), {"notes": []}),
        (rule(field="a.b", one_of=["x"]), {"a": {"b": "x"}}),
    ],
)
def test_what_keeps_a_rule(check: Check, output: Any) -> None:
    assert keep(check, output) is None


@pytest.mark.parametrize(
    ("check", "output", "reason"),
    [
        (rule(one_of=["billing", "bug"]), SECRET, "the answer is none of the 2 values that it may be"),
        (rule(one_of=[1]), True, "the answer is none of the 1 values that it may be"),
        (rule(min_length=20), SECRET, "the answer has fewer than 20 characters"),
        (rule(max_length=3), SECRET, "the answer has more than 3 characters"),
        (rule(min_length=2, field="notes"), {"notes": [SECRET]}, "notes has fewer than 2 entries"),
        (rule(min_length=2, field="a.b"), {"a": {"c": SECRET}}, "the answer has no field a.b"),
        (rule(min_length=2, field="a.b"), {"a": SECRET}, "the answer has no field a.b"),
        (rule(min_length=2), {"a": SECRET}, "the answer has no length: it is neither a text nor a list"),
    ],
)
def test_what_breaks_one(check: Check, output: Any, reason: str) -> None:
    with pytest.raises(Unfit) as unfit:
        keep(check, output)
    assert str(unfit.value) == reason


def test_a_regular_expression_is_left_to_an_examiner() -> None:
    assert keep(rule(regex="^a"), "abc") == "abc"
    assert keep(rule(regex="^a", field="a"), {"a": 12}) == "12"
    with pytest.raises(Unfit):
        keep(rule(regex="^a", min_length=5), "abc")


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({}, "a check is one of"),
        ({"call": "a", "regex": "b"}, "a check is one of"),
        ({"regex": "b", "judge": {"tier": "mini", "prompt": "{{ output }}"}}, "a check is one of"),
        ({"call": "a", "field": "b"}, "field is for rules"),
        ({"min_length": 3, "max_length": 2}, "min_length (3) is above max_length (2)"),
        ({"regex": "(a+)+$"}, "can take for ever"),
        ({"regex": "(a|a)*$"}, "can take for ever"),
        ({"regex": "("}, "is no regular expression"),
        ({"regex": "a" * 1_001}, "at most 1000 characters"),
        ({"one_of": []}, "at least 1 item"),
        ({"judge": {"tier": "mini", "prompt": "{{ output }}", "share": 0}}, "greater than 0"),
        ({"judge": {"tier": "mini", "prompt": "{{ output }}", "share": float("nan")}}, "finite"),
        ({"import": "os:system"}, "Extra inputs are not permitted"),
    ],
)
def test_a_check_that_is_none_is_refused_with_the_reason(check: Any, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Step.model_validate({"id": "a", "prompt": "x", "check": check})
    assert said in str(refused.value)


def test_a_name_alone_is_short_for_a_call_and_what_is_kept_is_not_judged_again() -> None:
    step = Step.model_validate({"id": "a", "prompt": "x", "check": "short"})
    assert step.check == Check(call="short")
    assert read(Step, step.model_dump(mode="json", exclude_defaults=True)) == step
    assert read(Step, {"id": "a", "prompt": "x", "check": {"regex": "(a+)+"}}).check is not None
