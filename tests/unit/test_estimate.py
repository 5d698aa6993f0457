"""How large a job is before it runs: subtasks, prompts and likely answers, and where each step starts and may climb."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import likely
from fleet.checks import parse
from fleet.estimate import Work, measure
from fleet.jobs import JobSpec
from fleet.sim.answers import answer as simulated
from fleet.tokens import estimate_tokens
from tests.support.bench import config

CONFIG = config()
TOPIC = {"type": "object", "required": ["topic"], "properties": {"topic": {"enum": ["bug", "billing", "other"]}}}
STEPS: list[dict[str, Any]] = [
    {
        "id": "classify",
        "each": "items",
        "kind": "topic",
        "prompt": "Topic of {{ item.text }}?",
        "output": TOPIC,
    },
    {
        "id": "summarise",
        "each": "items",
        "needs": ["classify"],
        "when": "classify.topic != 'other'",
        "prompt": "{{ classify.topic }}: {{ item.text }}",
        "max_output_tokens": 400,
        "max_tier": "mini",
    },
    {"id": "brief", "needs": ["summarise"], "prompt": "Brief of {{ summarise | length }}", "max_output_tokens": 800},
]


def works(samples: list[Any], items: int, **fields: Any) -> dict[str, Work]:
    spec = JobSpec.model_validate({"name": "x", "goal": "g", "steps": STEPS} | fields)
    return {work.step: work for work in measure(spec, samples, items, CONFIG)}


def test_each_step_has_its_subtasks_and_the_ladder_that_it_may_climb() -> None:
    found = works([{"text": "word " * 100}] * 3, 1_000)
    assert [(one.step, one.ladder, one.subtasks) for one in found.values()] == [
        ("classify", ("nano", "mini", "flagship"), 1_000),
        ("summarise", ("mini",), 1_000),
        ("brief", ("mini", "flagship"), 1),
    ]
    assert found["classify"].input_tokens == estimate_tokens("Topic of " + "word " * 100 + "?")
    assert found["classify"].kind == "topic"


def test_a_prompt_over_an_answer_that_does_not_exist_yet_is_rendered_over_a_stand_in() -> None:
    assert works([{"text": "word"}], 1)["summarise"].input_tokens == estimate_tokens("billing: word")
    loop = [{"id": "a", "prompt": "A"}, {"id": "b", "needs": ["a"], "prompt": "{{ a }}"}]
    free = works([], 0, steps=loop)["b"]
    assert free.input_tokens == pytest.approx(2_000 * likely.TYPICAL_OUTPUT, rel=0.01)


def test_one_that_cannot_be_rendered_counts_template_and_item() -> None:
    step = [{"id": "a", "each": "items", "prompt": "{{ item.missing.deep }} text"}]
    short, long = (works([{"text": "word " * n}], 1, steps=step)["a"].input_tokens for n in (1, 1_000))
    assert long - short >= 990


def test_what_gathers_all_outputs_says_so_and_the_review_is_a_line_of_its_own() -> None:
    found = works([{"text": "word"}], 10, review={"prompt": "Brief.", "max_output_tokens": 500, "rounds": 2})
    assert found["brief"].gathers == ("summarise",)
    review = found["review"]
    assert (review.ladder, review.subtasks, review.gathers, review.rounds) == (("flagship",), 1, ("brief",), 2)
    assert review.input_tokens == estimate_tokens("gBrief.")


def test_a_condition_over_the_items_alone_is_looked_at_and_one_over_answers_is_not() -> None:
    step = {"id": "a", "each": "items", "prompt": "A", "when": "item.n > 2"}
    found = works([{"n": n} for n in range(10)], 100, steps=[step])["a"]
    assert (found.conditional, found.holds) == (True, (7, 10))
    assert works([{"text": ""}], 5)["summarise"].holds == (0, 0)
    broken = step | {"when": "item.missing.deep"}
    assert works([{"n": 1}], 5, steps=[broken])["a"].holds == (0, 0)


def test_who_else_is_asked_about_answers() -> None:
    judge = {"judge": {"tier": "mini", "prompt": "Fine? {{ output }}", "share": 0.5}}
    step = {"id": "a", "each": "items", "tier": "nano", "prompt": "A", "check": judge}
    found = works([{"text": ""}], 1_000, steps=[step], holdout={"share": 0.1, "at_most": 20})["a"]
    assert found.checked
    assert [(look.tier, look.share, look.audit) for look in found.looks] == [
        ("mini", 0.5, False),
        ("flagship", 0.02, False),
    ]
    above = step | {"tier": "flagship", "check": None}
    assert works([{"text": ""}], 10, steps=[above], holdout={})["a"].looks == ()


def test_no_items_and_no_samples_are_no_crash() -> None:
    assert [one.subtasks for one in works([], 0).values()] == [0, 0, 1]


schemas = st.recursive(
    st.sampled_from(
        [
            {"type": "string"},
            {"type": "integer"},
            {"type": "number"},
            {"type": "boolean"},
            {"enum": ["a", "bb"]},
            {"const": 7},
            {"type": ["string", "null"]},
        ]
    ),
    lambda inner: st.one_of(
        st.builds(lambda its: {"type": "array", "items": its}, inner),
        st.builds(
            lambda its: {"type": "object", "properties": its, "required": list(its), "additionalProperties": False},
            st.dictionaries(st.sampled_from(["one", "two", "three"]), inner, max_size=3),
        ),
    ),
    max_leaves=6,
)


@given(schemas)
def test_a_stand_in_keeps_the_schema_that_it_stands_for(schema: dict[str, Any]) -> None:
    import json  # noqa: PLC0415

    parse(json.dumps(likely.answer(schema, 500)), schema)


def test_a_stand_in_is_about_as_long_as_an_answer() -> None:
    real = estimate_tokens(simulated("", "Topic of: I was charged twice", TOPIC, "classify", 500))
    assert likely.output_tokens(TOPIC, 2_000) == pytest.approx(real, rel=0.5)
    assert likely.output_tokens(None, 2_000) == 500
    assert likely.output_tokens({"type": "object", "properties": {"a": {"$ref": "#/x"}, "b": True}}, 50) < 50
