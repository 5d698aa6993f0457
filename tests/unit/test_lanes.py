"""Which lane a call takes, by the time that is left, its model and the configuration."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fleet.config import ModelConfig
from fleet.deadlines import MOST_S, Deadline
from fleet.errors import BadInputError
from fleet.jobs import JobSpec, Step
from fleet.lane_settings import LanesConfig
from fleet.lanes import (
    FLEX_WAITS_S,
    asked_as,
    audit_lane,
    cache_key,
    check_deadlines,
    due_s,
    lane_of,
    waits_for_flex,
)

LANES = LanesConfig(flex_from_s=100, batch_from_s=1_000, back_s=500)
PLAIN = ModelConfig(context_tokens=1_000)
FLEX = ModelConfig(context_tokens=1_000, service_tiers=("flex",))
BOTH = ModelConfig(context_tokens=1_000, service_tiers=("flex",), batch=True)
DEADLINE: TypeAdapter[float] = TypeAdapter(Deadline)


@pytest.mark.parametrize(
    ("left_s", "model", "batches", "lane"),
    [
        (None, BOTH, True, "standard"),
        (1_000, BOTH, True, "batch"),
        (999.9, BOTH, True, "flex"),
        (5_000, BOTH, False, "flex"),
        (5_000, FLEX, True, "flex"),
        (100, FLEX, True, "flex"),
        (99.9, FLEX, True, "standard"),
        (5_000, PLAIN, True, "standard"),
        (0, BOTH, True, "standard"),
        (-5_000, BOTH, True, "standard"),
        (5_000, ModelConfig(context_tokens=1_000, batch=True), True, "batch"),
    ],
)
def test_the_cheapest_lane_that_is_in_time(left_s: float | None, model: ModelConfig, batches: bool, lane: str) -> None:
    assert lane_of(left_s, model, LANES, timeout_s=50, batches=batches) == lane


def test_flex_is_taken_only_where_a_call_at_once_is_in_time_behind_it() -> None:
    assert lane_of(599, BOTH, LANES, timeout_s=300, batches=False) == "standard"
    assert lane_of(600, BOTH, LANES, timeout_s=300, batches=False) == "flex"
    assert audit_lane(599, FLEX, LANES, timeout_s=300) == "standard"
    assert audit_lane(None, FLEX, LANES, timeout_s=300) == "flex"
    assert waits_for_flex(1, 599, FLEX, LANES, timeout_s=300) is None


def test_a_model_without_flex_that_takes_over_is_asked_at_once() -> None:
    assert (asked_as("flex", FLEX), asked_as("flex", PLAIN), asked_as("standard", FLEX)) == (
        "flex",
        "standard",
        "standard",
    )


def test_flex_is_asked_again_a_few_times_and_only_while_there_is_time() -> None:
    assert [waits_for_flex(refused, 5_000, FLEX, LANES, timeout_s=50) for refused in range(len(FLEX_WAITS_S) + 1)] == [
        *FLEX_WAITS_S,
        None,
    ]
    assert waits_for_flex(1, 50, FLEX, LANES, timeout_s=10) is None
    assert waits_for_flex(1, None, FLEX, LANES, timeout_s=10) is None


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(5, 5), (0.5, 0.5), ("90s", 90), ("30m", 1_800), (" 24h ", 86_400), ("1.5h", 5_400), ("7d", 604_800)],
)
def test_deadlines_are_seconds_or_have_a_unit(given: object, seconds: float) -> None:
    assert DEADLINE.validate_python(given) == seconds


@pytest.mark.parametrize(
    "given",
    [
        0,
        -1,
        "0s",
        "h",
        "24",
        "24 hours",
        "1h30m",
        "-1h",
        "1e9h",
        "",
        "999999999d",
        MOST_S + 1,
        float("nan"),
        float("inf"),
        None,
        [],
    ],
)
def test_what_is_no_deadline_is_refused(given: object) -> None:
    with pytest.raises(ValidationError):
        DEADLINE.validate_python(given)


def test_a_step_has_its_turn_in_the_deadline_of_its_job() -> None:
    steps = [
        Step(id="a", prompt="x"),
        Step(id="b", prompt="x", needs=("a",)),
        Step(id="c", prompt="x", needs=("b",), deadline=5),
        Step(id="alone", prompt="x"),
        Step(id="late", prompt="x", needs=("a",), deadline=90),
    ]
    due = {step.id: due_s(step, steps, 30) for step in steps}
    assert due == {"a": 10, "b": 20, "c": 5, "alone": 30, "late": 30}
    assert due_s(steps[0], steps, None) is None
    assert due_s(steps[2], steps, None) == 5


@given(st.lists(st.sets(st.integers(0, 9), max_size=3), min_size=1, max_size=10), st.floats(1, 1e6))
def test_no_step_is_due_before_one_that_it_needs_or_after_the_job(needs: list[set[int]], job: float) -> None:
    steps = [
        Step(id=f"s{at}", prompt="x", needs=tuple(f"s{need}" for need in its if need < at))
        for at, its in enumerate(needs)
    ]
    due = {step.id: due_s(step, steps, job) or 0.0 for step in steps}
    for step in steps:
        assert 0 < due[step.id] <= job * (1 + 1e-9)
        assert all(due[need] < due[step.id] for need in step.needs)
        if not any(step.id in other.needs for other in steps):
            assert due[step.id] == pytest.approx(job)


def test_a_step_due_after_its_job_is_refused() -> None:
    spec = JobSpec(name="x", deadline="1h", steps=(Step(id="a", prompt="x", deadline="61m"),))  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match=r"steps\.a\.deadline is 3660 s"):
        check_deadlines(spec)
    check_deadlines(spec.model_copy(update={"deadline": None}))


def test_cache_keys_are_of_one_tenant_and_one_text_and_say_neither() -> None:
    key = cache_key("acme", "Be brief.", "Sort {{ item }}")
    assert key == cache_key("acme", "Be brief.", "Sort {{ item }}")
    others = {cache_key("other", "Be brief.", "Sort {{ item }}"), cache_key("acme", "Be brief.S", "ort {{ item }}")}
    assert key not in others
    assert len(others) == 2
    assert len(key) <= 64


def test_what_is_sent_in_a_batch_is_not_taken_back_at_once() -> None:
    with pytest.raises(ValidationError, match="batch_from_s has to be above back_s"):
        LanesConfig(batch_from_s=60, back_s=60)
