"""Duties whose messages come after the job has failed and was retried: they do nothing to the round that runs then."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fleet import planner
from fleet.blobs import BlobError
from fleet.control import Control
from fleet.errors import BadInputError, ProviderError
from fleet.jobs import JobStatus
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.retry import RETRY_TASK
from fleet.rounds import END_TASK, REVIEW_TASK, RUN_TASK, SHARD_TASK
from fleet.runner import NotOurs
from queues.subtasks import Released
from tests.support.bench import Bench, config, on_bench
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

READ = {"id": "read", "each": "items", "tier": "nano", "prompt": "Read {{ item.name }}.", "max_output_tokens": 50}
WIDTH = 2


async def failed_at_a_shard(fleet: Bench, items: int, *, accepted: str = "none", **spec: Any) -> str:
    """A job that failed because its first shard could not be filed; the vendor refused what is not `accepted`."""
    complete, close = fleet.provider.complete, fleet.context.archive.close

    async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
        if accepted in request.call_id:
            return await complete(request, started)
        raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)

    async def breaks(*_: object) -> None:
        raise BlobError("It is broken.")

    fleet.provider.complete = refuses  # type: ignore[method-assign]
    job_id = await fleet.submit(items=[{"name": f"item{i}"} for i in range(items)], steps=[READ], **spec)
    closing = await fleet.run_until(job_id, SHARD_TASK)
    fleet.context.archive.close = breaks  # type: ignore[method-assign,assignment]
    await fleet.perform(closing, "coordinator")
    fleet.context.archive.close, fleet.provider.complete = close, complete  # type: ignore[method-assign]
    assert (await fleet.runtime.jobs.load(job_id)).status is JobStatus.FAILED
    return job_id


def late(job_id: str, duty: str, task: str) -> Released:
    return Released(id=f"{job_id}/{duty}", task=task, gate=None, gate_index=None)


def test_a_shard_of_the_first_round_lets_no_other_of_it_in(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "MIN_WINDOW", 2)
    monkeypatch.setattr(planner, "MAX_WINDOW", 2)

    async def scenario(fleet: Bench) -> None:
        job_id = await failed_at_a_shard(fleet, 12)
        await Control(fleet.runtime).retry_failed(job_id)
        await fleet.perform(late(job_id, "retry.1.2", RETRY_TASK), "coordinator")
        for number in (0, 1):
            await fleet.perform(late(job_id, f"shard.1.0.{number}", SHARD_TASK), "coordinator")
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        paid = Counter(entry.subtask for entry in await fleet.ledger(job_id) if entry.status == "ok")
        assert len(paid) == 12
        assert set(paid.values()) == {1}

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


@pytest.mark.parametrize(
    ("spec", "duty", "task", "tier"),
    [
        ({}, "end.1", END_TASK, "coordinator"),
        ({"review": {"prompt": "Say it.", "rounds": 0}}, "review.1", REVIEW_TASK, "flagship"),
    ],
    ids=["end", "review"],
)
def test_the_end_of_the_first_round_does_not_end_the_second(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, spec: dict[str, Any], duty: str, task: str, tier: str
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await failed_at_a_shard(fleet, WIDTH, accepted="/read/0", **spec)
        await Control(fleet.runtime).retry_failed(job_id)
        await fleet.perform(late(job_id, "retry.1.2", RETRY_TASK), "coordinator")
        await fleet.perform(late(job_id, duty, task), tier)
        assert not (await fleet.runtime.jobs.load(job_id)).status.final
        assert fleet.provider.prompts("/review.1") == [], "it would be paid for nothing"
        job = await fleet.run(job_id)
        assert (job.status, job.round) == (JobStatus.COMPLETED, 2)
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


def test_what_a_pause_keeps_from_ending_in_a_job_that_failed_ends_when_it_is_retried(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        control, store, close = Control(fleet.runtime), fleet.runtime.store, fleet.context.archive.close

        async def breaks(*_: object) -> None:
            raise BlobError("It is broken.")

        job_id = await fleet.submit(items=[{"name": f"item{i}"} for i in range(3 * WIDTH)], steps=[READ])
        await fleet.run_until(job_id, RUN_TASK)
        for number in range(WIDTH):
            await fleet.runner.run(f"{job_id}/read/{number}", "nano")
        await control.pause(job_id)
        for number in range(WIDTH, 3 * WIDTH):  # their messages come too late
            with pytest.raises(NotOurs):
                await fleet.runner.run(f"{job_id}/read/{number}", "nano")
        # The first shard was being filed as the user paused.
        await store.resume(job_id, [])
        fleet.context.archive.close = breaks  # type: ignore[method-assign,assignment]
        await fleet.perform(late(job_id, "shard.1.0.0", SHARD_TASK), "coordinator")
        fleet.context.archive.close = close  # type: ignore[method-assign]
        await store.stop(job_id, "paused", list(fleet.runtime.tiers))
        assert (await fleet.run(job_id)).status is JobStatus.FAILED
        with pytest.raises(BadInputError, match="retry it in a moment"):
            await control.retry_failed(job_id)
        await fleet.run(job_id)
        assert await control.retry_failed(job_id) == 2 * WIDTH
        job = await fleet.run(job_id)
        assert (job.status, job.round) == (JobStatus.COMPLETED, 2)
        assert len(await fleet.ledger(job_id)) == 3 * WIDTH

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)
