"""What the books make of jobs that users cancelled and of calls without an answer."""

from __future__ import annotations

from typing import Any

from fleet.ledger import WORKER_LOST
from fleet.rounds import RUN_TASK
from tests.chaos.books import Books, JobEnd
from tests.chaos.crew import Incarnation
from tests.chaos.forks import Zygote
from tests.chaos.history import History, Life

COST = 7


def entry(job: str, fence: int, status: str = "ok", reason: str | None = None) -> dict[str, Any]:
    return {
        "call_id": f"{job}/a.{fence}", "subtask": f"{job}/a", "job": job, "fence": fence, "status": status,
        "reason": reason, "cost_nano_usd": COST, "usage_reported": True, "started_at": 1.0,
    }  # fmt: skip


def books(
    status: str, entries: list[dict[str, Any]], *, held: int = 0, winding: bool = False, error: str = ""
) -> Books:
    """Of a fleet with one job, all of whose calls were charged; its subtask and gate did not end."""
    lives = {
        "j/plan.1": Life("j/plan.1", state="final"),
        "j/a": Life("j/a", task=RUN_TASK, state="running", owners={1: "nano_1"}),
        "j/gate": Life("j/gate", state="waiting", members=1),
    }
    history = History(lives=lives, ledger={one["call_id"]: one for one in entries})
    charges = [{"call_id": one["call_id"], "cost_nano_usd": COST, "at": 1.0} for one in entries]
    jobs = {"j": JobEnd(status, error, None, COST * len(entries), held, ("j/a",), winding)}
    return Books(history, charges, jobs, {})


def test_subtasks_and_gates_of_a_cancelled_job_need_not_end() -> None:
    cancelled, completed = books("cancelled", []).figures(), books("completed", []).figures()
    assert (cancelled["subtasks_lost"], cancelled["gates_not_once"], cancelled["jobs_cancelled"]) == (0, 0, 1)
    assert (completed["subtasks_lost"], completed["gates_not_once"], completed["jobs_cancelled"]) == (1, 1, 0)


def test_the_money_of_a_cancelled_job_is_judged_and_it_has_to_be_wound_up() -> None:
    figures = books("cancelled", [], held=COST, winding=True).figures()
    assert (figures["wrong_books"], figures["jobs_unfinished"]) == (1, 1)


def test_an_entry_has_to_come_of_its_own_usage_and_prices() -> None:
    price = {"input": "0.007", "cached_input": "0", "cache_write": "0", "output": "1", "source": "config"}
    row = entry("j", 1) | {
        "role": "work", "tier": "nano", "model": "m", "provider": "p", "finished_at": 2.0, "price": price,
        "usage": {"input_tokens": 1},
    }  # fmt: skip
    assert books("completed", [row]).figures()["wrong_books"] == 0
    assert books("completed", [row | {"usage": {"input_tokens": 2}}]).figures()["wrong_books"] == 1


def test_a_call_lost_with_its_cancelled_job_is_paid_without_answer_and_not_twice() -> None:
    lost = entry("j", 1, "failed", WORKER_LOST)
    cancelled, failed = books("cancelled", [lost]).figures(), books("failed", [lost]).figures()
    assert (cancelled["calls_paid_twice"], cancelled["paid_without_answer"]) == (0, 1)
    assert (failed["calls_paid_twice"], failed["paid_without_answer"]) == (1, 0)


def test_a_call_that_was_made_again_before_the_cancellation_is_paid_twice() -> None:
    figures = books("cancelled", [entry("j", 1, "failed", WORKER_LOST), entry("j", 2)]).figures()
    assert (figures["calls_paid_twice"], figures["paid_without_answer"]) == (1, 0)


def test_what_a_process_lost_while_it_stood_still_is_not_what_its_kill_cost() -> None:
    lost = [entry("j", fence, "failed", WORKER_LOST) for fence in (1_000_000, 1_100_000, 1_200_000, 9_000_000)]
    judged = books("completed", lost)
    judged._history.lives["j/a"].owners |= {one["fence"]: "nano_1" for one in lost}
    judged._history.lease_ms = 500
    figures = judged.figures()
    assert (figures["calls_paid_twice"], figures["paid_twice_per_kill"]) == (4, 3)


def test_calls_that_failed_for_another_reason_are_paid_without_answer() -> None:
    figures = books("completed", [entry("j", 1, "failed", "timeout"), entry("j", 2)]).figures()
    assert (figures["calls_paid_twice"], figures["paid_without_answer"]) == (0, 1)


def test_a_job_that_killed_its_planners_is_told_apart() -> None:
    figures = books("failed", [], error="3 workers died at j/plan.1").figures()
    assert (figures["jobs_failed"], figures["jobs_given_up"]) == (1, 1)


def test_only_a_member_that_nobody_struck_died_at_its_failpoint() -> None:
    def ended(**fields: Any) -> bool:
        zygote = Zygote.__new__(Zygote)
        return Incarnation("nano_1", "nano", 1, zygote, **({"armed": True, "end": -9} | fields)).at_failpoint

    assert ended()
    assert not ended(struck=True)
    assert not ended(armed=False)
    assert not ended(end=0)
