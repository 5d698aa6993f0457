"""Accepted subtasks that are also asked of the flagship: what that leaves, and that the accepted answer stands whatever comes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fleet.counterfactual import Counterfactual
from fleet.holdout import drawn
from fleet.jobs import JobStatus, Outcome
from fleet.ledger import WORKER_LOST, LedgerEntry
from fleet.quality_config import HoldoutConfig
from fleet.results import write_books
from fleet.runner import MAX_KILLS, NotOurs
from tests.integration.test_lost_workers import Vanishing, a_lease_passes, lease
from tests.support.bench import BREAKS, DEAR, Bench, books, config, on_bench
from tests.support.scripted import Reply, scripted
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

TOPIC = {
    "type": "object",
    "additionalProperties": False,
    "required": ["topic"],
    "properties": {"topic": {"type": "string", "enum": ["billing", "bug", "other"]}},
}
TICKETS = [f"Ticket {i}: the export crashes with error 500" for i in range(6)]
CLASSIFY = {"id": "classify", "each": "items", "tier": "nano", "prompt": "Topic? {{ item }}", "output": TOPIC}
BRIEF = {"id": "brief", "needs": ["classify"], "tier": "nano", "prompt": "Brief: {{ classify }}"}
WRITE = {"id": "write", "tier": "nano", "prompt": "Write it.", "max_output_tokens": 100}
ALL = {"share": 1.0, "at_most": 100}


def measured(ledger: list[LedgerEntry]) -> list[LedgerEntry]:
    return [entry for entry in ledger if entry.holdout]


def bare(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Without what it cost: a comparison is paid for, and changes nothing else."""
    return {id_: outcome.model_dump(exclude={"usage", "cost_usd"}) for id_, outcome in outcomes.items()}


def test_the_drawn_ones_are_asked_of_the_flagship_and_end_as_if_they_had_not_been(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    rule = {"share": 0.5, "at_most": 100}

    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(items=TICKETS, steps=[CLASSIFY, BRIEF], holdout=rule))
        assert job.status is JobStatus.COMPLETED
        expected = {
            f"{job.id}/{step}" if item is None else f"{job.id}/{step}/{item}"
            for step, item in [*(("classify", i) for i in range(6)), ("brief", None)]
            if drawn(HoldoutConfig.model_validate(rule), job.id, step, item, 6)
        }
        ledger = await fleet.ledger(job.id)
        asked = measured(ledger)
        assert {entry.subtask for entry in asked} == expected
        assert len(asked) == len(expected) >= 3
        for entry in asked:
            assert (entry.role, entry.tier, entry.model, entry.status) == ("audit", "flagship", DEAR, "ok")
        work = {entry.subtask: entry for entry in ledger if entry.role == "work"}
        assert len(work) == 7
        for entry in asked:
            assert entry.kind == work[entry.subtask].kind
            (one, other) = fleet.provider.prompts(f"{entry.subtask}.")
            assert one == other, "the same request"
        outcomes = await fleet.outcomes(job)
        plain = await fleet.run(await fleet.submit(items=TICKETS, steps=[CLASSIFY, BRIEF]))
        assert bare(outcomes) == bare(await fleet.outcomes(plain))
        for id_, outcome in outcomes.items():
            its = [entry.cost_nano_usd for entry in ledger if entry.subtask == f"{job.id}/{id_}"]
            assert round(outcome.cost_usd * 1e9) == sum(its), "what was spent on it, the comparison too"
        assert {outcome.tier for outcome in outcomes.values()} == {"nano"}
        assert await fleet.money(job.id) == (books(ledger, sim.charges(), job.id), 0)
        assert not measured(await fleet.ledger(plain.id)), "off unless it is asked for"

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_the_exported_ledger_of_a_run_gives_the_comparison_of_its_receipt_again(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        spec = {"items": TICKETS, "steps": [CLASSIFY, BRIEF], "review": {"prompt": "Brief."}, "holdout": ALL}
        job = await fleet.run(await fleet.submit(**spec))
        receipt = await fleet.client.receipt(job)
        written = write_books(tmp_path / "out", receipt, await fleet.ledger(job.id))
        again = Counterfactual()
        for line in next(path for path in written if path.name == "ledger.jsonl").read_text().splitlines():
            again.add(LedgerEntry.model_validate_json(line))
        value = again.comparison()
        assert (value.alone, value.interval) == (
            receipt.flagship_alone_nano_usd,
            receipt.flagship_alone_interval_nano_usd,
        )
        assert (value.savings, value.measured) == (receipt.savings, receipt.flagship_measured)
        assert {one.basis for one in value.measured} == {"holdout"}
        assert value.savings is not None
        assert value.alone is not None
        assert sum(part for _, part in value.savings) == value.alone - receipt.cost_nano_usd
        # The models are as wordy as each other here, so the flagship alone pays ten times as much for the work.
        work = sum(entry.cost_nano_usd for entry in await fleet.ledger(job.id) if entry.role == "work")
        review = receipt.roles["review"]
        assert value.alone == pytest.approx(10 * work + review, rel=0.02)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_one_that_was_escalated_is_asked_without_the_rejected_answers_and_the_same_check_judges(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(items=TICKETS[:1], steps=[CLASSIFY], holdout=ALL))
        first, second, compared = fleet.provider.prompts("classify/0")
        assert "An earlier answer was rejected" in second
        assert compared == first
        outcome = (await fleet.outcomes(job))["classify/0"]
        assert (outcome.status, outcome.tier, outcome.attempts, outcome.error) == ("ok", "mini", 2, None)
        (entry,) = measured(await fleet.ledger(job.id))
        assert (entry.status, entry.model) == ("rejected", BREAKS)
        assert entry.reason is not None

    # The flagship breaks its schema here: its answer is rejected, and that is all that comes of it.
    on_bench(scenario, valkey, tmp_path, config(nano=BREAKS, flagship=BREAKS), sim=sim.url)


def test_the_configuration_says_it_for_all_jobs_and_what_the_flagship_answered_is_not_asked_again(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        steps = [WRITE, WRITE | {"id": "think", "tier": "flagship"}]
        job = await fleet.run(await fleet.submit(steps=steps))
        assert [entry.step for entry in measured(await fleet.ledger(job.id))] == ["write"]

    on_bench(scenario, valkey, tmp_path, config(holdout=ALL), sim=sim.url)


@pytest.mark.parametrize("refusal", [Reply(status=401), Reply(status=500), Reply(status=400)])
def test_a_provider_that_fails_costs_the_accepted_answer_nothing_and_pauses_nothing(
    refusal: Reply, valkey: Valkey, tmp_path: Path
) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(steps=[WRITE], holdout=ALL))
        assert job.status is JobStatus.COMPLETED
        outcome = (await fleet.outcomes(job))["write"]
        assert (outcome.status, outcome.output, outcome.tier, outcome.error) == ("ok", "Written.", "nano", None)
        work, failed = await fleet.ledger(job.id)
        assert (work.status, failed.status, failed.holdout) == ("ok", "failed", True)
        assert (await fleet.money(job.id))[1] == 0

    async def served() -> None:
        async with scripted("Written.", refusal) as script:
            await asyncio.to_thread(
                on_bench, scenario, valkey, tmp_path, config(), openai_base_url=script.url, openai_api_key="k"
            )

    asyncio.run(served())


def test_a_budget_that_is_too_short_for_it_is_kept_and_nothing_is_cut_short(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        # Room for the cheap call's worst case, not for the dear one's.
        job = await fleet.run(await fleet.submit(steps=[WRITE], holdout=ALL, budget_usd=0.0005))
        assert (job.status, job.error) == (JobStatus.COMPLETED, None)
        (work,) = await fleet.ledger(job.id)
        assert await fleet.money(job.id) == (work.cost_nano_usd, 0)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_worker_that_dies_under_it_loses_nothing_and_it_is_not_paid_again(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id, zombie, vanishing = await _vanished_under_the_comparison(fleet)
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        outcome = (await fleet.outcomes(job))["write"]
        assert (outcome.status, outcome.tier, outcome.attempts) == ("ok", "nano", 1)
        assert outcome.output == fleet.provider.answered[0].text
        work, lost = await fleet.ledger(job_id)
        assert (lost.reason, lost.holdout, lost.status) == (WORKER_LOST, True, "failed")
        assert len(fleet.provider.prompts(job_id)) == 2, "nobody asked again"
        assert await fleet.money(job_id) == (work.cost_nano_usd + lost.cost_nano_usd, 0)
        vanishing.wakes.set()  # The zombie turns up: what it paid is put right, what it wants to write is not written.
        await asyncio.wait({zombie})
        ledger = await fleet.ledger(job_id)
        assert await fleet.money(job_id) == (books(ledger, sim.charges(), job_id), 0)
        assert [entry.status for entry in ledger] == ["ok", "ok"]
        assert bare(await fleet.outcomes(job)) == bare({"write": outcome})

    on_bench(scenario, valkey, tmp_path, lease(), sim=sim.url)


def test_workers_that_died_of_the_subtask_leave_the_accepted_answer(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE], holdout=ALL)
        await fleet.run_until(job_id, "fleet.run_subtask.v1")
        with pytest.raises(NotOurs, match="for comparison"):
            await fleet.runner.run(f"{job_id}/write", "nano")
        await fleet.runtime.link.execute("HINCRBY", f"fleet:s:{job_id}/write", "kills", MAX_KILLS)
        job = await fleet.run(job_id)
        outcome = (await fleet.outcomes(job))["write"]
        assert (job.status, outcome.status, outcome.tier) == (JobStatus.COMPLETED, "ok", "nano")
        assert outcome.error is None
        assert len(await fleet.ledger(job_id)) == 1

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


async def _vanished_under_the_comparison(fleet: Bench) -> tuple[str, asyncio.Task[Any], Vanishing]:
    """A job whose only subtask was accepted, and is held by a worker that vanished as it asked the flagship."""
    job_id = await fleet.submit(steps=[WRITE], holdout=ALL)
    sent = await fleet.run_until(job_id, "fleet.run_subtask.v1")
    await fleet.perform(sent, "nano")
    await fleet.run_until(job_id, "fleet.run_subtask.v1")
    vanishing = Vanishing(fleet, after_start=False)
    zombie = asyncio.create_task(fleet.runner.run(f"{job_id}/write", "flagship"))
    await vanishing.made.wait()
    await a_lease_passes(fleet)
    return job_id, zombie, vanishing
