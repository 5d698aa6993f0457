"""What was paid for is in the books, whatever comes between an answer and its verdict; an outcome costs what its calls cost."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as StoreConnectionError

from fleet import checks, context, executor, failures, judging, looks, validity
from fleet.control import Control
from fleet.janitor import Janitor
from fleet.jobs import JobStatus
from fleet.ledger import LedgerEntry
from fleet.outcomes import Trail
from fleet.replay import replay
from fleet.routes import Routes
from fleet.store import Job
from tests.support.bench import BREAKS, GOOD, Bench, bench, config, on_bench
from tests.support.lanes import LanesSim, lanes_config
from tests.support.scripted import Reply, scripted
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

TOPICS = {"type": "object", "additionalProperties": False, "required": ["topic"]} | {
    "properties": {"topic": {"type": "string", "enum": ["billing", "bug", "other"]}}
}
SORT = {"id": "sort", "each": "items", "tier": "nano", "prompt": "Topic? {{ item }}", "output": TOPICS}
ONE = {"id": "one", "tier": "nano", "prompt": "Say.", "max_output_tokens": 4_000}
TICKETS = ["I was charged twice", "The export crashes", "Hello"]
WRONG = {"reason": "it is wrong", "accept": False}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "BACKOFF_S", 0.005)
    monkeypatch.setattr(context, "GIVE_BACK_S", 0.0)


async def balanced(fleet: Bench, job: Job, calls: int) -> list[LedgerEntry]:
    """The ledger, in which every call stands once under a number of its own, and of which the outcomes are the sum."""
    ledger = await fleet.ledger(job.id)
    assert len(ledger) == calls
    assert await fleet.money(job.id) == (sum(entry.cost_nano_usd for entry in ledger), 0)
    outcomes = {f"{job.id}/{id_}": outcome for id_, outcome in (await fleet.outcomes(job)).items()}
    for id_, outcome in outcomes.items():
        its = [entry for entry in ledger if entry.subtask == id_]
        assert round(outcome.cost_usd * 1e9) == sum(entry.cost_nano_usd for entry in its), id_
        assert outcome.usage.total == sum(entry.usage.total for entry in its)
        assert sorted(entry.attempt for entry in its) == [*range(1, len(its) + 1)]
        assert outcome.asked == len(its)
    return ledger


def breaks(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, number: int, error: Exception) -> list[int]:
    """Have a function raise when it is called for the `number`th time; how often it did."""
    real: Callable[..., Any] = getattr(where, name)
    count, raised = itertools.count(1), []

    def breaking(*args: Any, **named: Any) -> Any:
        if next(count) == number:
            raised.append(number)
            raise error
        return real(*args, **named)

    monkeypatch.setattr(where, name, breaking)
    return raised


PLACES = {
    "the check": (checks, "check"),
    "whether anybody looks": (looks, "due"),
    "what routing learns": (Routes, "taught"),
    "the verdict of an audit": (judging, "verdict_of"),
    "what travels on": (Trail, "dump"),
    "the end": (Trail, "document"),
}


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("place", PLACES)
def test_an_error_of_our_own_between_an_answer_and_its_verdict_loses_no_money(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    async def scenario(fleet: Bench) -> None:
        raised = breaks(monkeypatch, *PLACES[place], number, ZeroDivisionError())
        job = await fleet.run(await fleet.submit(items=TICKETS, steps=[SORT], budget_usd=1))
        assert raised == [number]
        ledger = await balanced(fleet, job, len(fleet.provider.answered))
        charged = {one["call_id"]: one["cost_nano_usd"] for one in sim.charges() if one["call_id"].startswith(job.id)}
        assert {entry.call_id: entry.cost_nano_usd for entry in ledger} == charged, (
            "as the vendor said, not at its worst"
        )
        assert await fleet.runtime.store.unsettled(job.id) == []

    rule: dict[str, Any] = {"audit": {"share": 1.0}, "holdout": {"share": 1.0, "at_most": 100}}
    on_bench(scenario, valkey, tmp_path, config(nano=BREAKS, **rule), sim=sim.url)


def test_the_entry_says_what_came_between(valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with (
            scripted("an answer") as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet,
        ):
            breaks(monkeypatch, checks, "check", 1, ZeroDivisionError())
            job = await fleet.run(await fleet.submit(steps=[ONE]))
            (entry,) = await balanced(fleet, job, 1)
            assert (entry.status, entry.reason, entry.flaw) == ("failed", "internal: ZeroDivisionError", "check_broken")
            assert (entry.usage.total, entry.usage_reported) == (120, True)
            assert (await fleet.outcomes(job))["one"].error == "internal error: ZeroDivisionError"

    asyncio.run(scenario())


@pytest.mark.parametrize("step", ["one", "review"])
def test_what_a_model_says_that_cannot_be_written_is_booked(valkey: Valkey, tmp_path: Path, step: str) -> None:
    half = "\ud800"
    said = {f"a {half}": 1} if step == "one" else {"verdict": "accept", "result": half, "rework": [], "gaps": []}
    verdict = Reply(json.dumps(said, ensure_ascii=False))
    answers: dict[str, list[Any]] = {"one": [said, {"a": 1}, {"a": "b"}], "review": [{"a": "b"}, verdict]}

    async def scenario() -> None:
        async with (
            scripted(*answers[step]) as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet,
        ):
            output = {"type": "object", "additionalProperties": {"type": "string"}}
            review = {"prompt": "Brief."} if step == "review" else None
            job = await fleet.run(await fleet.submit(steps=[ONE | {"output": output}], review=review))
            entries = [(entry.status, entry.flaw) for entry in await balanced(fleet, job, len(answers[step]))]
            if step == "one":
                assert entries == [("rejected", "schema"), ("rejected", "schema"), ("ok", None)]
            else:
                assert entries == [("ok", None), ("failed", None)]

    asyncio.run(scenario())


def test_an_answer_that_cannot_even_be_billed_is_booked_at_its_worst(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(fleet: Bench) -> None:
        breaks(monkeypatch, executor, "answered", 1, ZeroDivisionError())
        job = await fleet.run(await fleet.submit(steps=[ONE]))
        (entry,) = await balanced(fleet, job, 1)
        assert (entry.status, entry.reason) == ("failed", "internal: ZeroDivisionError")
        assert entry.cost_nano_usd == entry.reserved_nano_usd > 0

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_an_intent_that_an_error_left_behind_is_booked_as_its_subtask_ends(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(fleet: Bench) -> None:
        async def left(*_: Any) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(fleet.context.executor, "_made", left)
        job = await fleet.run(await fleet.submit(steps=[ONE]))
        (entry,) = await balanced(fleet, job, 1)
        assert entry.cost_nano_usd == entry.reserved_nano_usd > 0

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_store_that_fails_between_an_answer_and_its_verdict_loses_neither_money_nor_count(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def scenario(fleet: Bench) -> None:
        breaks(monkeypatch, looks, "due", number, StoreConnectionError("away"))
        job = await fleet.run(await fleet.submit(items=TICKETS, steps=[SORT]))
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}
        ledger = await balanced(fleet, job, 4)
        assert [entry.reason for entry in ledger if entry.status == "failed"] == ["internal: ConnectionError"]

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_schema_that_cannot_be_applied_is_no_other_tiers_to_try(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with (
            scripted('{"a": "b"}') as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet,
        ):
            breaks(monkeypatch, validity.Rules, "problem", 1, TypeError())
            job = await fleet.run(await fleet.submit(steps=[ONE | {"output": TOPICS}]))
            (entry,) = await balanced(fleet, job, 1)
            assert (entry.status, entry.flaw) == ("rejected", "check_broken")
            outcome = (await fleet.outcomes(job))["one"]
            assert (outcome.status, outcome.error_kind) == ("failed", "check_broken")

    asyncio.run(scenario())


def test_a_pause_at_a_cap_forgets_no_call(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            scripted(Reply("half of an", finish="length"), "an answer") as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet,
        ):
            job_id = await fleet.submit(steps=[ONE], budget_usd="0.0015")
            job = await fleet.run(job_id)
            assert job.status is JobStatus.PAUSED, "what is left is too little for all of the output"
            assert len(script.calls) == 1
            await Control(fleet.runtime).resume(job_id, budget_usd=Decimal(1))
            job = await fleet.run(job_id)
            assert job.status is JobStatus.COMPLETED
            cut, whole = await balanced(fleet, job, 2)
            assert (cut.status, whole.status) == ("rejected", "ok")

    asyncio.run(scenario())


def test_a_review_that_is_given_back_numbers_its_calls_on(valkey: Valkey, tmp_path: Path) -> None:
    verdict = {"verdict": "accept", "result": "A brief.", "rework": [], "gaps": []}

    async def scenario() -> None:
        async with (
            scripted("a line", Reply("half of", finish="length"), verdict) as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet,
        ):
            review = {"prompt": "Brief.", "max_output_tokens": 4_000}
            step = ONE | {"max_output_tokens": 100}
            job = await fleet.run(job_id := await fleet.submit(steps=[step], review=review, budget_usd="0.02"))
            assert job.status is JobStatus.PAUSED, "what is left is too little for all of the output"
            await Control(fleet.runtime).resume(job_id, budget_usd=Decimal(1))
            job = await fleet.run(job_id)
            assert job.status is JobStatus.COMPLETED
            reviews = [entry for entry in await balanced(fleet, job, 3) if entry.role == "review"]
            assert [(entry.attempt, entry.status) for entry in reviews] == [(1, "rejected"), (2, "ok")]

    asyncio.run(scenario())


def test_calls_without_an_answer_that_may_be_on_the_bill_are_in_the_outcome(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            scripted(Reply(status=504), Reply(status=503), "an answer") as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet,
        ):
            job = await fleet.run(await fleet.submit(steps=[ONE]))
            unknown, refused, _ = await balanced(fleet, job, 3)
            assert unknown.cost_nano_usd > 0 == refused.cost_nano_usd
            assert (await fleet.outcomes(job))["one"].attempts == 1

    asyncio.run(scenario())


def test_what_a_worker_booked_before_it_died_is_in_the_outcome_and_its_numbers_are_taken(
    valkey: Valkey, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with (
            scripted(Reply(status=504), "an answer") as script,
            bench(valkey, tmp_path, config(claim_s=1.0), openai_base_url=script.url) as fleet,
        ):
            job_id = await fleet.submit(steps=[ONE])
            message = await fleet.run_until(job_id, "fleet.run_subtask.v1")
            booked, real = asyncio.Event(), fleet.context.executor._trying.after

            async def standing_still(*_: Any) -> Any:
                booked.set()
                await asyncio.Event().wait()

            fleet.context.executor._trying.after = standing_still  # type: ignore[method-assign,assignment]
            dying = asyncio.create_task(fleet.runner.run(message.id, "nano"))
            await booked.wait()
            fleet.context.executor._trying.after = real  # type: ignore[method-assign]
            dying.cancel()
            await asyncio.wait({dying})
            await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, message.id)  # its claim runs out
            job = await fleet.run(job_id)
            assert job.status is JobStatus.COMPLETED
            await balanced(fleet, job, 2)

    asyncio.run(scenario())


def test_a_job_that_was_cancelled_says_what_was_spent_on_what_never_ended(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=TICKETS, steps=[SORT])
        message = await fleet.run_until(job_id, "fleet.run_subtask.v1")
        await fleet.perform(message, "nano")
        await Control(fleet.runtime).cancel(job_id)
        job = await fleet.run(job_id)
        (entry,) = await balanced(fleet, job, 1)
        assert (entry.status, entry.cost_nano_usd > 0) == ("rejected", True)
        await Janitor(fleet.context).wind_up(job_id)
        await balanced(fleet, job, 1)

    on_bench(scenario, valkey, tmp_path, config(nano=BREAKS), sim=sim.url)


def test_what_an_audit_found_wrong_and_nothing_better_came_for_is_accepted_in_the_comparison_too(
    valkey: Valkey, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with (
            scripted("an answer", WRONG, Reply(status=400)) as script,
            bench(valkey, tmp_path, config(audit={"share": 1.0}), openai_base_url=script.url) as fleet,
        ):
            job = await fleet.run(await fleet.submit(steps=[ONE]))
            ledger = await balanced(fleet, job, 3)
            assert [(entry.role, entry.status) for entry in ledger] == [
                ("work", "rejected"),
                ("audit", "rejected"),
                ("work", "failed"),
            ]
            outcomes = await fleet.outcomes(job)
            assert (outcomes["one"].status, outcomes["one"].tier) == ("ok", "nano")
            receipt = await fleet.client.receipt(job)
            (measured,) = receipt.flagship_measured
            assert receipt.accepted == receipt.tiers["nano"].accepted == measured.accepted == 1
            assert measured.tier == "nano"
            assert receipt.flagship_alone_nano_usd == 100 * 2_000 + 20 * 10_000
            assert [(one.audited, one.right) for one in receipt.quality] == [(1, 0)]
            assert replay(receipt, ledger, outcomes.values(), (), fleet.runtime.config).complaints == ()

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(3))
def test_on_a_bad_day_under_a_short_budget_the_outcomes_still_add_up_to_the_ledger(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim, seed: int
) -> None:
    dice = random.Random(seed)
    tell = {
        "id": "tell",
        "each": "items",
        "needs": ["sort"],
        "tier": "nano",
        "prompt": "Tell of {{ item }}: {{ sort }}",
    }
    steps = [SORT, tell | {"max_output_tokens": 300, "check": {"min_length": 5}}]
    deadline = {"deadline": "100s"} if dice.random() < 0.5 else {}
    rule: dict[str, Any] = {"audit": {"share": dice.choice([0.0, 0.5, 1.0])}, "call_tries": 3}
    faults = ("error_5xx", "refusal", "truncation", "malformed_json", "flex_unavailable", "reset_in_body")

    async def scenario(fleet: Bench) -> None:
        share, budget = dice.choice([0.0, 0.5]), Decimal("0.001")
        holdout = {"share": share, "at_most": 100} if share else None
        job_id = await fleet.submit(items=TICKETS * 3, steps=steps, budget_usd=budget, holdout=holdout, **deadline)
        job = await fleet.run(job_id)
        while job.status is JobStatus.PAUSED:
            budget *= 2
            await Control(fleet.runtime).resume(job_id, budget_usd=budget)
            job = await fleet.run(job_id)
        assert job.status.final
        ledger = await balanced(fleet, job, len(fleet.provider.asked))
        receipt, outcomes = await fleet.client.receipt(job), await fleet.outcomes(job)
        assert sum(one.accepted for one in receipt.flagship_measured) == receipt.accepted
        assert replay(receipt, ledger, outcomes.values(), (), fleet.runtime.config).complaints == ()

    with vendor.faults(**{name: dice.choice([0.0, 0.1, 0.3]) for name in faults}):
        on_bench(scenario, valkey, tmp_path, lanes_config(nano=dice.choice([GOOD, BREAKS]), **rule), sim=vendor.sim.url)
