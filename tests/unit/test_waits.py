"""What is said of subtasks that wait: the first reason that holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.waits import waits
from queues.limits import Standing
from queues.survey import TierSurvey

OPEN = Standing(
    requests_per_minute=3_000,
    tokens_per_minute=None,
    in_flight=None,
    requests=100,
    tokens=0,
    calls=5,
    next_s=0.0,
    paused_s=0.0,
    outage_s=None,
)
BUSY = TierSurvey(ready=50, out=100, workers=2, capacity=50)
FULL = {"ready": 40, "queued": 50, "running": 50}
NO_CAP = (None, 0, 0)


AT_WORK = TierSurvey(ready=50, out=20, workers=2, capacity=50)


@pytest.mark.parametrize(
    ("standing", "survey", "quota", "reason", "says"),
    [
        (replace(OPEN, outage_s=7.0, paused_s=9.0), BUSY, NO_CAP, "outage", "tried again in 7 s"),
        (replace(OPEN, paused_s=9.0, next_s=9.0), BUSY, NO_CAP, "rate", "asked for a pause; it ends in 9 s"),
        (replace(OPEN, next_s=3.0), BUSY, NO_CAP, "rate", "at its limit of 3,000 requests a minute"),
        (replace(OPEN, in_flight=5), BUSY, NO_CAP, "rate", "5 calls in flight"),
        (OPEN, BUSY, (1_000, 400, 590), "budget", "hold what is left of the budget"),
        (OPEN, TierSurvey(ready=50, out=100, workers=0, capacity=0), NO_CAP, "workers", "fleet worker --tier nano"),
        (OPEN, TierSurvey(ready=50, out=130, workers=2, capacity=50), NO_CAP, "fairness", "shared with other jobs"),
        (OPEN, BUSY, (10_000, 400, 590), "workers", "all 50 places"),
        (OPEN, AT_WORK, NO_CAP, "rate", "start as its limit of 3,000 requests a minute allows"),
    ],
)
def test_the_first_reason_that_holds_is_given(
    standing: Standing, survey: TierSurvey, quota: tuple[int | None, int, int], reason: str, says: str
) -> None:
    (wait,) = waits("nano", FULL, survey, "openai/m", standing, quota, calls=50)
    assert (wait.reason, wait.subtasks) == (reason, 90)
    assert says in wait.text


def test_a_budget_that_is_shared_with_other_jobs_is_named_as_such() -> None:
    shared = [(None, 9_000, 900), (10_000, 9_000, 995)]
    (wait,) = waits("nano", FULL, BUSY, "openai/m", OPEN, (None, 0, 500), calls=50, shared=shared)
    assert (wait.reason, "a budget shared with other jobs" in wait.text) == ("budget", True)


def test_subtasks_behind_others_wait_for_them_and_running_ones_for_nothing() -> None:
    counts = {"waiting": 3, "running": 2, "final": 9}
    (wait,) = waits("nano", counts, BUSY, "openai/m", OPEN, NO_CAP, calls=2, later=4)
    assert (wait.reason, wait.subtasks) == ("dependencies", 7)


@pytest.mark.parametrize(
    ("standing", "quota", "reason"),
    [
        (replace(OPEN, paused_s=9.0), NO_CAP, "rate"),
        (OPEN, (1_000, 400, 590), "budget"),
        (OPEN, NO_CAP, None),
    ],
)
def test_running_subtasks_that_make_no_call_wait_where_something_keeps_them_from_it(
    standing: Standing, quota: tuple[int | None, int, int], reason: str | None
) -> None:
    found = waits("nano", {"running": 8}, BUSY, "openai/m", standing, quota, calls=5)
    assert [(wait.reason, wait.subtasks) for wait in found] == ([] if reason is None else [(reason, 3)])


def test_lines_of_a_batch_wait_for_it_and_not_for_others_of_the_job() -> None:
    found = waits("nano", {"waiting": 7}, AT_WORK, "openai/small", OPEN, NO_CAP, calls=0, later=2, batched=5)
    assert [(wait.subtasks, wait.reason) for wait in found] == [(5, "batch"), (4, "dependencies")]


def test_nothing_is_said_of_what_is_about_to_go_on() -> None:
    unlimited = replace(OPEN, requests_per_minute=None)
    assert waits("nano", FULL, AT_WORK, "openai/m", unlimited, NO_CAP, calls=50) == []
