"""`retry --failed` against doubled commands, zombies, dead coordinators and full disks: nothing accepted is lost by it."""

from __future__ import annotations

import asyncio
import errno
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet import context, retry
from fleet.control import Control
from fleet.duties import Duties
from fleet.errors import BadInputError, ProviderError
from fleet.jobs import JobStatus
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.retry import RETRY_TASK
from fleet.rounds import RUN_TASK, SHARD_TASK, Again
from fleet.runner import NotOurs
from fleet.store import COORDINATOR
from queues.claims import Claims
from queues.subtasks import Status
from tests.support.bench import Bench, books, config, on_bench
from tests.support.sim import RunningSim
from tests.support.stores import claimed
from tests.support.valkey import Valkey

READ = {"id": "read", "each": "items", "tier": "nano", "prompt": "Read {{ item.name }}.", "max_output_tokens": 50}
ITEMS = [{"name": f"item{i}"} for i in range(12)]
WIDTH = 4


class Died(BaseException):
    """What no code catches: the process is gone."""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "GIVE_BACK_S", 0.0)


async def refused(fleet: Bench, items: list[dict[str, str]]) -> str:
    """A job of which the vendor refused every subtask, and takes them from now on."""
    real = fleet.provider.complete

    async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
        raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)

    fleet.provider.complete = refuses  # type: ignore[method-assign]
    job = await fleet.run(await fleet.submit(items=items, steps=[READ]))
    assert job.status is JobStatus.FAILED
    fleet.provider.complete = real  # type: ignore[method-assign]
    return job.id


async def retried_once(fleet: Bench, job_id: str, sim: RunningSim) -> None:
    """Every subtask was accepted in the second round, after one paid call each."""
    job = await fleet.run(job_id)
    assert (job.status, job.error, job.round) == (JobStatus.COMPLETED, None, 2)
    outcomes = await fleet.outcomes(job)
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}
    ledger = await fleet.ledger(job_id)
    assert [entry.status for entry in ledger].count("ok") == len(outcomes)
    cost = books(ledger, sim.charges(), job_id)
    assert await fleet.money(job_id) == (cost, 0)


def test_a_second_retry_before_the_first_has_begun_is_the_same_one(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        control = Control(fleet.runtime)
        job_id = await refused(fleet, ITEMS)
        assert await control.retry_failed(job_id) == await control.retry_failed(job_id) == len(ITEMS)
        ((duty, tier),) = await fleet.release()
        await fleet.perform(duty, tier)
        with pytest.raises(BadInputError, match="is running"):
            await control.retry_failed(job_id)
        await retried_once(fleet, job_id, sim)

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


@pytest.mark.parametrize("done", [False, True], ids=["while the first one's round runs", "when that has ended"])
def test_a_retry_that_looked_before_and_comes_after_another_changes_nothing(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, done: bool
) -> None:
    async def scenario(fleet: Bench) -> None:
        control = Control(fleet.runtime)
        job_id = await refused(fleet, ITEMS[:WIDTH])
        real = fleet.runtime.store.fields

        async def overtaken(id_: str, *names: str) -> list[str | None]:
            """The second command stands still between its look at the job and what it does about it."""
            fleet.runtime.store.fields = real  # type: ignore[method-assign]
            await Control(fleet.runtime).retry_failed(job_id)
            if done:
                await fleet.run(job_id)
            else:
                await fleet.perform(await fleet.run_until(job_id, SHARD_TASK), "coordinator")
            return await real(id_, *names)

        fleet.runtime.store.fields = overtaken  # type: ignore[method-assign]
        with pytest.raises(BadInputError, match="was retried or changed just now"):
            await control.retry_failed(job_id)
        await retried_once(fleet, job_id, sim)

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


def test_a_zombie_that_closes_a_shard_late_deletes_nothing_of_a_later_round(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        real_complete, real_create = fleet.provider.complete, fleet.context.blobs.create
        writes, wakes = threading.Event(), threading.Event()

        async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
            raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)

        def stands_still(name: str, data: bytes) -> Any:
            fleet.context.blobs.create = real_create  # type: ignore[method-assign]
            writes.set()
            assert wakes.wait(60)
            return real_create(name, data)

        fleet.provider.complete = refuses  # type: ignore[method-assign]
        job_id = await fleet.submit(items=ITEMS[:WIDTH], steps=[READ])
        closing = await fleet.run_until(job_id, SHARD_TASK)
        fleet.context.blobs.create = stands_still  # type: ignore[method-assign]
        zombie = asyncio.create_task(fleet.perform(closing, "coordinator"))
        try:
            assert await asyncio.to_thread(writes.wait, 30)
            await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, closing.id)
            assert (await fleet.run(job_id)).status is JobStatus.FAILED, "another coordinator took over"

            fleet.provider.complete = real_complete  # type: ignore[method-assign]
            assert await Control(fleet.runtime).retry_failed(job_id) == WIDTH
            again = await fleet.run_until(job_id, SHARD_TASK)
        finally:
            wakes.set()
            await asyncio.wait({zombie})
        assert zombie.result() is None, "it was told that the claim is lost"
        found = await fleet.runtime.store.results([f"{job_id}/read/{i}" for i in range(WIDTH)])
        assert [result and result.status for result in found] == ["ok"] * WIDTH
        await fleet.perform(again, "coordinator")
        await retried_once(fleet, job_id, sim)

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


def test_what_did_not_run_because_a_duty_failed_runs_when_the_job_is_retried(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        real = fleet.context.archive.close

        async def breaks(*_: object) -> None:
            fleet.context.archive.close = real  # type: ignore[method-assign]
            raise ZeroDivisionError

        job_id = await fleet.submit(items=ITEMS, steps=[READ])
        await fleet.run_until(job_id, RUN_TASK)
        ids = [f"{job_id}/read/{i}" for i in range(len(ITEMS))]
        for id_ in ids[:WIDTH]:
            await fleet.runner.run(id_, "nano")
        fleet.context.archive.close = breaks  # type: ignore[method-assign,assignment]
        await fleet.perform(await fleet.run_until(job_id, SHARD_TASK), "coordinator")
        statuses: list[Status | str] = [(await fleet.runner.run(id_, "nano"))["status"] for id_ in ids[WIDTH:]]
        assert set(statuses) == {"failed"}, "nobody decided against them"
        job = await fleet.run(job_id)
        assert (job.status, job.error) == (JobStatus.FAILED, "internal error: ZeroDivisionError")
        assert len(await fleet.ledger(job_id)) == WIDTH, "nothing was spent on a job that had failed"

        assert await Control(fleet.runtime).retry_failed(job_id) == len(ITEMS) - WIDTH
        await retried_once(fleet, job_id, sim)

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


def test_a_disk_that_is_full_for_a_moment_while_a_shard_is_closed_costs_nothing(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        real = fleet.context.blobs.create
        full: list[str] = []

        def once(name: str, data: bytes) -> Any:
            if not full:
                full.append(name)
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(name, data)

        fleet.context.blobs.create = once  # type: ignore[method-assign]
        job = await fleet.run(await fleet.submit(items=ITEMS, steps=[READ]))
        assert full, "the disk was full once"
        assert (job.status, job.error) == (JobStatus.COMPLETED, None)
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}
        ledger = await fleet.ledger(job.id)
        assert len(ledger) == len(ITEMS)
        books(ledger, sim.charges(), job.id)

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "when the job has ended"])
def test_a_plan_made_again_outlives_its_coordinator(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, late: bool
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=ITEMS, steps=[READ])
        await fleet.runtime.link.execute("HSET", f"fleet:s:{job_id}/plan.1", "kills", 3)  # its workers died
        assert (await fleet.run(job_id)).status is JobStatus.FAILED
        await Control(fleet.runtime).retry_failed(job_id)
        duty = await fleet.run_until(job_id, RETRY_TASK)
        real = fleet.runtime.store.finish

        async def dies(*_: object, **__: object) -> bool:
            raise Died

        fleet.runtime.store.finish = dies  # type: ignore[method-assign]
        with pytest.raises(Died):
            await fleet.perform(duty, "coordinator")
        fleet.runtime.store.finish = real  # type: ignore[method-assign]
        if late:
            assert (await fleet.run(job_id)).status is JobStatus.COMPLETED
        await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, duty.id)
        job = await fleet.run(job_id)
        assert (job.status, job.error) == (JobStatus.COMPLETED, None)
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}
        ledger = await fleet.ledger(job_id)
        assert len(ledger) == len(ITEMS), "nothing was run twice"
        books(ledger, sim.charges(), job_id)
        assert await fleet.runtime.store.fields(duty.id, "state") == ["final"], "the next coordinator ended it"

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


def test_a_plan_made_again_is_not_made_once_more_by_a_retry_that_looked_before(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=ITEMS, steps=[READ])
        await fleet.runtime.link.execute("HSET", f"fleet:s:{job_id}/plan.1", "kills", 3)  # its workers died
        assert (await fleet.run(job_id)).status is JobStatus.FAILED
        real = fleet.runtime.store.fields

        async def overtaken(id_: str, *names: str) -> list[str | None]:
            """The second command stands still between its look at the job and what it does about it."""
            fleet.runtime.store.fields = real  # type: ignore[method-assign]
            await Control(fleet.runtime).retry_failed(job_id)
            assert (await fleet.run(job_id)).status is JobStatus.COMPLETED
            return await real(id_, *names)

        fleet.runtime.store.fields = overtaken  # type: ignore[method-assign]
        with pytest.raises(BadInputError, match="was retried or changed just now"):
            await Control(fleet.runtime).retry_failed(job_id)
        job = await fleet.run(job_id)
        assert (job.status, job.error) == (JobStatus.COMPLETED, None)
        assert len(await fleet.ledger(job_id)) == len(ITEMS)

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


def test_a_retry_taken_over_after_a_later_one_leaves_the_later_round_alone(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        control = Control(fleet.runtime)
        job_id = await refused(fleet, ITEMS)
        finish, complete = fleet.runtime.store.finish, fleet.provider.complete

        async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
            raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)

        async def dies(*_: object, **__: object) -> bool:
            raise Died

        await control.retry_failed(job_id)
        duty = await fleet.run_until(job_id, RETRY_TASK)
        fleet.runtime.store.finish = dies  # type: ignore[method-assign]
        with pytest.raises(Died):
            await fleet.perform(duty, "coordinator")
        fleet.runtime.store.finish = finish  # type: ignore[method-assign]
        fleet.provider.complete = refuses  # type: ignore[method-assign]
        assert (await fleet.run(job_id)).status is JobStatus.FAILED
        fleet.provider.complete = complete  # type: ignore[method-assign]
        await control.retry_failed(job_id)
        assert (await fleet.run(job_id)).status is JobStatus.COMPLETED

        await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, duty.id)
        job = await fleet.run(job_id)
        assert (job.status, job.error, job.round) == (JobStatus.COMPLETED, None, 3)
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


@pytest.mark.parametrize("review", [None, {"prompt": "Say it.", "rounds": 0}], ids=["subtasks", "review"])
def test_a_zombie_that_retries_late_does_not_open_a_job_that_has_ended_again(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch, review: dict[str, Any] | None
) -> None:
    """It looked for what failed, stood still for longer than its claim, and another coordinator did all of it."""

    async def scenario(fleet: Bench) -> None:
        real_complete, real_look = fleet.provider.complete, retry.failed_again

        async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
            if review is None or "/review." in request.call_id:
                raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)
            return await real_complete(request, started)

        looked, wakes = asyncio.Event(), asyncio.Event()

        async def stands_still(*about: Any) -> list[Again]:
            found = await real_look(*about)
            if not looked.is_set():
                looked.set()
                await wakes.wait()
            return found

        fleet.provider.complete = refuses  # type: ignore[method-assign]
        job_id = await fleet.submit(items=ITEMS, steps=[READ], **({} if review is None else {"review": review}))
        assert (await fleet.run(job_id)).status is JobStatus.FAILED
        fleet.provider.complete = real_complete  # type: ignore[method-assign]
        await Control(fleet.runtime).retry_failed(job_id)
        duty = await fleet.run_until(job_id, RETRY_TASK)
        monkeypatch.setattr(retry, "failed_again", stands_still)
        # With a heartbeat of its own, which does not know yet that the claim is lost.
        claims = Claims(fleet.runtime.store, [COORDINATOR], lambda: 1)
        zombie = asyncio.create_task(Duties(replace(fleet.context, claims=claims)).retry(duty.id, COORDINATOR))
        await looked.wait()
        await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, duty.id)
        ended = await fleet.run(job_id)
        assert ended.status is JobStatus.COMPLETED
        wakes.set()
        with pytest.raises(NotOurs):
            await zombie
        assert await fleet.run(job_id) == ended

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


def test_an_ended_job_is_opened_again_under_the_claim_on_its_retry_only(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await refused(fleet, ITEMS)
        await Control(fleet.runtime).retry_failed(job_id)
        duty = await fleet.run_until(job_id, RETRY_TASK)
        claim = await claimed(fleet.runtime.store, duty.id, COORDINATOR)
        jobs, job = fleet.runtime.jobs, await fleet.runtime.jobs.load(job_id)
        # At the same round, as where the plan is made again.
        assert not await jobs.reopen(job, job.round, claim=replace(claim, fence=claim.fence - 1))
        assert await jobs.load(job_id) == job
        assert await jobs.reopen(job, job.round, claim=claim)
        assert await jobs.reopen(job, job.round, claim=claim), "the reply was lost"
        opened = await jobs.load(job_id)
        assert (opened.status, opened.round, opened.error, opened.finished_at) == (JobStatus.RUNNING, 1, None, None)

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)
