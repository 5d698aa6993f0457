"""Pause, resume, cancel and retry over a real store and provider."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import pytest

from fleet.control import Control
from fleet.entries import Purpose, Worst, draft
from fleet.errors import BadInputError, ProviderError
from fleet.janitor import Janitor
from fleet.jobs import JobStatus
from fleet.ledger import WORKER_LOST
from fleet.prices import Usage
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.retry import RETRY_TASK
from fleet.runner import NotOurs
from queues.store import Guards
from queues.subtasks import Claim, NewSubtask
from tests.support.bench import Bench, books, config, on_bench
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

STEPS = [
    {"id": "read", "each": "items", "tier": "nano", "prompt": "Read {{ item.name }}.", "max_output_tokens": 50},
    {
        "id": "write",
        "each": "items",
        "needs": ["read"],
        "tier": "mini",
        "prompt": "Write about {{ read }}.",
        "max_output_tokens": 50,
    },
]
ITEMS = [{"name": f"item{i}"} for i in range(4)]


class Died(BaseException):
    """What no code catches: the process is gone."""


def test_a_paused_job_makes_no_call_until_it_is_resumed(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        control = Control(fleet.runtime)
        job_id = await fleet.submit(items=ITEMS, steps=STEPS)
        await fleet.run_until(job_id, "fleet.run_subtask.v1")
        await control.pause(job_id)
        for item in range(len(ITEMS)):  # their messages are under way and come too late
            with pytest.raises(NotOurs):
                await fleet.runner.run(f"{job_id}/read/{item}", "nano")
        job = await fleet.run(job_id)
        assert job.status is JobStatus.PAUSED
        before = len(fleet.provider.asked)
        await fleet.run(job_id)
        assert len(fleet.provider.asked) == before
        await control.resume(job_id)
        with pytest.raises(BadInputError, match="is not paused"):
            await control.resume(job_id)
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}
        assert len(fleet.provider.asked) == len(await fleet.ledger(job_id)) == 8

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_cancelled_job_makes_no_further_call_and_keeps_what_it_has(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        control = Control(fleet.runtime)
        job_id = await fleet.submit(items=ITEMS, steps=STEPS)
        held = await fleet.run_until(job_id, "fleet.run_subtask.v1")
        await fleet.runner.run(held.id, "nano")
        await control.cancel(job_id)
        job = await fleet.run(job_id)
        assert job.status is JobStatus.CANCELLED
        assert len(await fleet.ledger(job_id)) == 1
        assert (await fleet.outcomes(job))[held.id.removeprefix(f"{job_id}/")].status == "ok"
        assert (await fleet.money(job_id))[1] == 0
        for act in (control.pause, control.cancel, control.retry_failed):
            with pytest.raises(BadInputError, match="is cancelled"):
                await act(job_id)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_retry_runs_what_failed_and_what_was_skipped_for_it_and_nothing_else(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        control = Control(fleet.runtime)
        real = fleet.provider.complete

        async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
            if request.prompt.startswith("Read item2"):
                raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)
            return await real(request, started)

        fleet.provider.complete = refuses  # type: ignore[method-assign]
        job_id = await fleet.submit(items=ITEMS, steps=STEPS, review={"prompt": "Say it.", "rounds": 0})
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        outcomes = await fleet.outcomes(job)
        assert (outcomes["read/2"].status, outcomes["write/2"].status) == ("failed", "skipped")
        calls = len(await fleet.ledger(job_id))

        fleet.provider.complete = real  # type: ignore[method-assign]
        assert await control.retry_failed(job_id) == 2
        job = await fleet.run(job_id)
        assert (job.status, job.round) == (JobStatus.COMPLETED, 2)
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}
        again = (await fleet.ledger(job_id))[calls:]
        assert {entry.call_id.split(".")[0].removeprefix(f"{job_id}/") for entry in again} == {
            "read/2",
            "write/2",
            "review",
        }
        books(await fleet.ledger(job_id), sim.charges(), job_id)
        with pytest.raises(BadInputError, match="nothing to retry"):
            await control.retry_failed(job_id)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_job_paused_at_its_budget_goes_on_with_a_higher_one(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        control = Control(fleet.runtime)
        job_id = await fleet.submit(items=ITEMS, steps=STEPS, budget_usd=Decimal("0.00005"))
        job = await fleet.run(job_id)
        assert job.status is JobStatus.PAUSED
        assert "Resume it with a higher budget_usd." in str(job.error)
        used, held = await fleet.money(job_id)
        assert held == 0
        with pytest.raises(BadInputError, match=r"has spent .* already; give it a budget above that"):
            await control.resume(job_id, budget_usd=Decimal(used - 1) / 10**9)
        await control.resume(job_id, budget_usd=Decimal("1"))
        job = await fleet.run(job_id)
        assert (job.status, job.error) == (JobStatus.COMPLETED, None)
        books(await fleet.ledger(job_id), sim.charges(), job_id)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_job_whose_review_failed_is_only_reviewed_again(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        control = Control(fleet.runtime)
        real = fleet.provider.complete

        async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
            if "/review." in request.call_id:
                raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)
            return await real(request, started)

        fleet.provider.complete = refuses  # type: ignore[method-assign]
        job_id = await fleet.submit(items=ITEMS, steps=STEPS, review={"prompt": "Say it.", "rounds": 0})
        job = await fleet.run(job_id)
        assert job.status is JobStatus.FAILED
        calls = len(fleet.provider.asked)
        fleet.provider.complete = real  # type: ignore[method-assign]
        assert await control.retry_failed(job_id) == 0
        job = await fleet.run(job_id)
        assert (job.status, job.error) == (JobStatus.COMPLETED, None)
        assert len(fleet.provider.asked) == calls + 1
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_job_that_never_got_a_plan_is_planned_again(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=ITEMS, steps=STEPS)
        await fleet.runtime.link.execute("HSET", f"fleet:s:{job_id}/plan.1", "kills", 3)  # its workers died
        job = await fleet.run(job_id)
        assert job.status is JobStatus.FAILED
        assert "workers died" in str(job.error)
        assert await Control(fleet.runtime).retry_failed(job_id) == 0
        job = await fleet.run(job_id)
        assert (job.status, job.error) == (JobStatus.COMPLETED, None)
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_job_whose_plan_broke_off_is_retried_whole(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    """Some subtasks of a shard were written, others not, and three coordinators died of it."""

    async def scenario(fleet: Bench) -> None:
        control = Control(fleet.runtime)
        job_id = await fleet.submit(items=ITEMS, steps=STEPS)
        real = fleet.runtime.store.add

        async def breaks_off(subtasks: Iterable[NewSubtask], guards: Guards = ()) -> int:
            some = list(subtasks)
            await real(some[:3], guards)
            if len(some) > 3:
                await fleet.runtime.link.execute("HSET", f"fleet:s:{job_id}/plan.1", "kills", 3)
                raise Died
            return 0

        fleet.runtime.store.add = breaks_off  # type: ignore[method-assign]
        with pytest.raises(Died):
            await fleet.run(job_id)
        fleet.runtime.store.add = real  # type: ignore[method-assign]
        await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, f"{job_id}/plan.1")
        job = await fleet.run(job_id)
        assert job.status is JobStatus.FAILED
        assert await control.retry_failed(job_id) == 5, "what was written before it broke off was run, and is kept"
        job = await fleet.run(job_id)
        assert (job.status, job.error) == (JobStatus.COMPLETED, None)
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}
        books(await fleet.ledger(job_id), sim.charges(), job_id)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_cancelled_job_is_wound_up_once_nobody_runs_it(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    """A worker vanished under its call before the job was cancelled: nobody makes another call, and yet it was paid."""

    async def scenario(fleet: Bench) -> None:
        janitor = Janitor(fleet.context)
        job_id = await fleet.submit(items=ITEMS, steps=STEPS, budget_usd=Decimal(1))
        done = await fleet.run_until(job_id, "fleet.run_subtask.v1")
        await fleet.runner.run(done.id, "nano")
        claim = await fleet.runtime.store.claim(f"{job_id}/read/3", "nano")
        assert isinstance(claim, Claim)
        record = json.loads(claim.payload)["record"]
        purpose = Purpose(job_id, claim.id, claim, "read", "read", "work", "nano", record)
        worst = Worst(Usage(input_tokens=10, output_tokens=10), 70)
        lost = draft(purpose, f"{claim.id}.1.1", model="good", provider="openai", waited_ms=0, worst=worst)
        assert await fleet.runtime.store.intend(lost.intent()) is None

        await fleet.runtime.store.stop(job_id, "cancelled", fleet.runtime.tiers)  # and the client dies here
        assert await fleet.runtime.store.winding() == [job_id]
        assert not await janitor.wind_up(job_id), "its worker may still live"
        await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, claim.id)
        await fleet.runtime.store.reconcile()
        assert await janitor.wind_up(job_id)
        assert await janitor.wind_up(job_id), "twice is no harm"
        assert await fleet.runtime.store.winding() == []

        ledger = {entry.call_id: entry for entry in await fleet.ledger(job_id)}
        assert ledger[f"{claim.id}.1.1"].reason == WORKER_LOST
        assert await fleet.money(job_id) == (sum(entry.cost_nano_usd for entry in ledger.values()), 0)
        job = await fleet.runtime.jobs.load(job_id)
        assert job.status is JobStatus.CANCELLED
        assert (await fleet.outcomes(job))[done.id.removeprefix(f"{job_id}/")].status == "ok"
        assert [outcome.status for outcome in (await fleet.outcomes(job)).values()].count("ok") == 1
        left = await fleet.runtime.link.execute("KEYS", f"fleet:s:{job_id}/*/*")
        assert left == [], "no subtask of an item stays in the store"
        assert await fleet.runtime.link.execute("KEYS", f"fleet:b:*:{job_id}") == []

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_cancel_that_came_as_the_job_ended_does_not_end_its_retry(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        real = fleet.provider.complete

        async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
            raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)

        fleet.provider.complete = refuses  # type: ignore[method-assign]
        job_id = await fleet.submit(items=ITEMS, steps=STEPS)
        assert (await fleet.run(job_id)).status is JobStatus.FAILED
        fleet.provider.complete = real  # type: ignore[method-assign]
        # It was open when the user's command looked.
        await fleet.runtime.store.stop(job_id, "cancelled", list(fleet.runtime.tiers))
        assert not await fleet.runtime.jobs.end(job_id, JobStatus.CANCELLED)
        janitor = Janitor(fleet.context)
        (looked,) = await fleet.runtime.store.winding()
        with pytest.raises(BadInputError, match="retry it in a moment"):
            await Control(fleet.runtime).retry_failed(job_id)
        assert await janitor.wind_up(looked)
        await Control(fleet.runtime).retry_failed(job_id)
        await janitor.wind_up(looked)  # it had looked before
        await fleet.perform(await fleet.run_until(job_id, RETRY_TASK), "coordinator")
        await janitor.wind_up(looked)
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}

    on_bench(scenario, valkey, tmp_path, config(gate_width=2), sim=sim.url)
