"""What is said of a job that waits, in places where nothing of it lies in a backlog."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fleet.jobs import JobStatus
from fleet.waits import Wait
from tests.support.bench import GOOD, Bench, config, on_bench
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

WRITE = {"id": "write", "each": "items", "tier": "nano", "prompt": "Write {{ item }}.", "max_output_tokens": 100}
BRIEF = {"id": "brief", "tier": "mini", "prompt": "Brief {{ write }}.", "needs": ["write"], "max_output_tokens": 100}


async def in_a_pause(fleet: Bench, job_id: str, model: str, running: int) -> list[Wait]:
    """What is said while the work that is ready waits for the end of its account's pause, in its workers."""
    await fleet.runtime.limiter.pause(f"openai/{model}", 30)
    tasks = [asyncio.create_task(fleet.perform(one, tier)) for one, tier in await fleet.release()]

    async def held() -> bool:
        counts = await fleet.runtime.store.counts(job_id)
        return sum(by_state.get("running", 0) for by_state in counts.values()) == running

    await eventually(held, "the claims")
    found = await fleet.client.waits(job_id)
    fleet.context.executor.draining.set()
    await asyncio.wait(tasks)
    return found


def on_fleet(valkey: Valkey, folder: Path, sim: RunningSim, scenario: Callable[[Bench], Awaitable[None]]) -> None:
    on_bench(scenario, valkey, folder, config(), sim=sim.url)


def test_what_waits_in_a_worker_for_leave_to_call_waits(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE], items=[1, 2, 3])
        await fleet.run_until(job_id, "fleet.run_subtask.v1")
        await asyncio.gather(*(fleet.runtime.store.claim(f"{job_id}/write/{item}", "nano") for item in range(3)))
        await fleet.runtime.limiter.pause(f"openai/{GOOD}", 30)
        (wait,) = await fleet.client.waits(job_id)
        assert (wait.tier, wait.subtasks, wait.reason) == ("nano", 3, "rate")
        assert "asked for a pause" in wait.text

    on_fleet(valkey, tmp_path, sim, scenario)


def test_a_plan_waits_for_the_flagships_account(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(goal="Sort the letters.", items=["a", "b"])
        (flagship, _) = fleet.runtime.config.model_of("flagship")
        (wait,) = await in_a_pause(fleet, job_id, flagship, 1)
        assert (wait.tier, wait.subtasks, wait.reason) == ("flagship", 1, "rate")

    on_fleet(valkey, tmp_path, sim, scenario)


def test_what_comes_after_all_items_waits_for_them_and_is_counted(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE, BRIEF], items=[1, 2, 3])
        await fleet.run_until(job_id, "fleet.run_subtask.v1")
        assert _told(await fleet.client.waits(job_id)) == {("mini", "dependencies"): 1}
        progress = await fleet.client.progress(await fleet.client.job(job_id))
        assert {tier: counts.waiting for tier, counts in progress.tiers.items()} == {"nano": 3, "mini": 1}
        job = await fleet.run(job_id)
        assert job.status is JobStatus.RUNNING, "what was released is nobody's now"
        for item in range(3):
            await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, f"{job_id}/write/{item}")
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        assert await fleet.client.waits(job_id) == []

    on_fleet(valkey, tmp_path, sim, scenario)


def _told(waits: list[Wait]) -> dict[Any, int]:
    return {(wait.tier, wait.reason): wait.subtasks for wait in waits if wait.reason == "dependencies"}
