"""Steps of a job, counted as it runs: what is counted agrees with the outcomes, whatever is open, closed or run again."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from fleet import steps
from fleet.control import Control
from fleet.errors import ProviderError
from fleet.jobs import JobStatus
from fleet.outcomes import NEVER_ENDED
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.steps import OTHERS, StepCounter, Steps
from fleet.store import Job
from tests.support.bench import Bench, config, on_bench
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

READ = {"id": "read", "each": "items", "tier": "nano", "prompt": "Read {{ item.name }}.", "max_output_tokens": 50}
NOTE = READ | {"id": "note", "needs": ["read"], "when": "item.n % 2 == 0"}
SUM = {"id": "sum", "needs": ["note"], "tier": "mini", "prompt": "Sum up {{ note }}.", "max_output_tokens": 50}
ITEMS = [{"name": f"item{i}", "n": i} for i in range(14)]
STEPS = [READ, NOTE, SUM]


async def agreed(fleet: Bench, counter: StepCounter, job_id: str) -> tuple[Job, Steps]:
    """The steps, after checking them against the outcomes one by one."""
    job = await fleet.client.job(job_id)
    found = await counter.look(job)
    ends: dict[str, Counter[str]] = {step.id: Counter() for step in job.steps}
    async for place, outcome in fleet.context.archive.outcomes(job):
        if outcome.error != NEVER_ENDED.error:
            ends[place.step][outcome.status] += 1
    for count in found.counts:
        assert count.waiting + count.running + count.done + count.skipped + count.failed == count.total
        if (
            job.round == 1 or job.status.final
        ):  # in a later round the outcomes are those of before until there are new ones
            assert (count.done, count.skipped, count.failed) == tuple(
                ends[count.step][s] for s in ("ok", "skipped", "failed")
            )
    assert found.failed == sum(number for _, _, number in found.reasons)
    return job, found


async def watched(fleet: Bench, counter: StepCounter, job_id: str) -> tuple[Job, Steps, int]:
    """As `Bench.run`, with a look after everything that happens; and how many looks there were."""
    looks = 0
    for _ in range(300):
        released = await fleet.release()
        if not released and not await fleet.runtime.store.reconcile():
            return *await agreed(fleet, counter, job_id), looks
        for one, tier in released:
            await fleet.perform(one, tier)
            await agreed(fleet, counter, job_id)
            looks += 1
    raise AssertionError("the job still moves")


def test_every_look_agrees_with_the_outcomes(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        counter = StepCounter(fleet.runtime)
        job, found, looks = await watched(fleet, counter, await fleet.submit(items=ITEMS, steps=STEPS))
        assert job.status is JobStatus.COMPLETED
        assert looks > 14
        counts = {count.step: (count.total, count.done, count.skipped) for count in found.counts}
        assert counts == {"read": (14, 14, 0), "note": (14, 7, 7), "sum": (1, 1, 0)}
        assert (found.whole, found.failures) == (True, ())
        # Whoever comes later finds the same in what was filed.
        assert await StepCounter(fleet.runtime).look(job) == found

    on_bench(scenario, valkey, tmp_path, config(gate_width=4), sim=sim.url)


def test_failures_are_told_with_their_reasons_until_they_are_mended(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        counter = StepCounter(fleet.runtime)
        real = fleet.provider.complete

        async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
            if "item3." in request.prompt or "item8." in request.prompt:
                raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)
            return await real(request, started)

        fleet.provider.complete = refuses  # type: ignore[method-assign]
        job, found, _ = await watched(fleet, counter, await fleet.submit(items=ITEMS, steps=STEPS))
        assert job.status is JobStatus.COMPLETED, "with what there is"
        reasons = {(step, number): reason for step, reason, number in found.reasons}
        assert "The vendor refused it." in reasons["read", 2]
        assert {failure.place.item for failure in found.failures if failure.place.step == "read"} == {3, 8}
        fleet.provider.complete = real  # type: ignore[method-assign]
        await Control(fleet.runtime).retry_failed(job.id)
        job, found, _ = await watched(fleet, counter, job.id)
        assert (job.status, job.round) == (JobStatus.COMPLETED, 2)
        assert (found.failed, found.failures, found.reasons) == (0, (), ())

    on_bench(scenario, valkey, tmp_path, config(gate_width=4), sim=sim.url)


def test_what_a_review_sends_back_is_counted_where_it_stands_now(
    valkey: Valkey, tmp_path: Path, demanding_sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        review = {"prompt": "Brief the keeper.", "rounds": 2, "max_output_tokens": 2_000}
        counter = StepCounter(fleet.runtime)
        job_id = await fleet.submit(goal="Read", items=ITEMS[:4], steps=[READ], review=review)
        job, found, _ = await watched(fleet, counter, job_id)
        assert (job.status, job.round) == (JobStatus.COMPLETED, 3)
        assert [(count.done, count.failed) for count in found.counts] == [(4, 0)]

    on_bench(scenario, valkey, tmp_path, config(gate_width=2), sim=demanding_sim.url)


def test_a_look_at_a_large_job_is_bounded_and_says_that_there_is_more(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "MOST_SHARDS", 1)
    monkeypatch.setattr(steps, "MOST_FAILURES", 2)
    monkeypatch.setattr(steps, "MOST_REASONS", 3)

    async def scenario(fleet: Bench) -> None:
        async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
            raise ProviderError(f"Refused: {request.prompt}", kind="bad_request", retryable=False)

        fleet.provider.complete = refuses  # type: ignore[method-assign]
        job = await fleet.run(await fleet.submit(items=ITEMS, steps=[READ]))
        counter = StepCounter(fleet.runtime)
        looks = [await counter.look(job)]
        while not looks[-1].whole:
            looks.append(await counter.look(job))
        assert [look.failed for look in looks[:4]] == [4, 8, 12, 14]
        assert len(looks[-1].failures) == 2
        assert [number for step, reason, number in looks[-1].reasons if reason == OTHERS] == [11]
        # Whoever looks at the same time is counted once.
        both = await asyncio.gather(*(counter.look(job) for _ in range(5)))
        assert {look.failed for look in both} == {14}

    on_bench(scenario, valkey, tmp_path, config(gate_width=4), sim=sim.url)
