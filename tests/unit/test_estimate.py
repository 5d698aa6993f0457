"""`fleet plan`: what a job would cost, before any model is asked."""

from __future__ import annotations

from typing import Any

from fleet.config import FleetConfig
from fleet.estimate import TYPICAL_OUTPUT, estimate
from fleet.jobs import JobSpec
from fleet.tokens import estimate_tokens
from tests.support.bench import config

CONFIG = config()
STEPS: list[dict[str, Any]] = [
    {
        "id": "classify",
        "each": "items",
        "kind": "topic",
        "prompt": "Topic of {{ item.text }}?",
        "max_output_tokens": 40,
    },
    {
        "id": "summarise",
        "each": "items",
        "needs": ["classify"],
        "prompt": "{{ classify }}: {{ item.text }}",
        "max_output_tokens": 400,
    },
    {"id": "brief", "needs": ["summarise"], "prompt": "Brief of {{ summarise | length }}", "max_output_tokens": 800},
]


def of(**fields: Any) -> JobSpec:
    return JobSpec.model_validate({"name": "x", "goal": "g", "steps": STEPS} | fields)


def test_each_step_is_counted_on_the_tier_it_starts_on() -> None:
    found = {line.step: line for line in estimate(of(), [{"text": "word " * 100}] * 3, 1_000, CONFIG)}
    assert [(line.step, line.tier, line.subtasks) for line in found.values()] == [
        ("classify", "nano", 1_000),
        ("summarise", "mini", 1_000),
        ("brief", "mini", 1),
    ]
    prompt = "Topic of " + "word " * 100 + "?"
    assert found["classify"].input_tokens == 1_000 * estimate_tokens(prompt)


def test_costs_are_the_prices_of_the_tokens_and_the_most_is_the_whole_output() -> None:
    (line, *_) = estimate(of(), [{"text": "word"}], 10, CONFIG)
    tokens = estimate_tokens("Topic of word?")
    assert line.most_nano_usd == 10 * (tokens * 200 + 40 * 1_000)
    assert line.typical_nano_usd == 10 * (tokens * 200 + round(40 * TYPICAL_OUTPUT) * 1_000)


def test_a_prompt_over_outputs_that_do_not_exist_yet_counts_template_and_item() -> None:
    short, long = (
        {line.step: line for line in estimate(of(), [{"text": "word " * n}], 1, CONFIG)}["summarise"].input_tokens
        for n in (1, 1_000)
    )
    assert long - short >= 990


def test_the_review_is_a_line_of_its_own_over_what_no_step_needs() -> None:
    review = {"prompt": "Brief.", "max_output_tokens": 500}
    *_, line = estimate(of(review=review), [{"text": "word"}], 10, CONFIG)
    assert (line.step, line.tier, line.model, line.subtasks) == ("review", "flagship", "dear", 1)
    assert line.input_tokens == estimate_tokens("gBrief.") + round(800 * TYPICAL_OUTPUT)


def test_rate_limits_alone_say_how_long_it_takes_at_least() -> None:
    document = CONFIG.model_dump(mode="json")
    document["models"]["good"]["limits"] = {"requests_per_minute": 60}
    limited = FleetConfig.model_validate(document)
    (line, *_) = estimate(of(), [{"text": "word"}], 600, limited)
    assert line.least_s == 600
    (free, *_) = estimate(of(), [{"text": "word"}], 600, CONFIG)
    assert free.least_s == 0


def test_no_items_and_no_samples_are_no_crash() -> None:
    assert [line.subtasks for line in estimate(of(), [], 0, CONFIG)] == [0, 0, 1]
