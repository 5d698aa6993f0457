"""`fleet top` as data: what it says of a fleet, and how it finds the jobs that matter among many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from fleet.control import Control
from fleet.prices import NANO_PER_USD
from fleet.runtime import NAMESPACE
from fleet.top import MOST_BUSY, MOST_JOBS, MOST_NEW, Looks, TopTier
from queues.pulse import Pulse
from queues.subtasks import Claim
from queues.survey import MOST_LANES
from tests.support.bench import Bench, config, on_bench
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

WRITE = {"id": "write", "each": "items", "tier": "nano", "prompt": "Write {{ item }}.", "max_output_tokens": 100}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def on_fleet(valkey: Valkey, folder: Path, sim: RunningSim, scenario: Callable[[Bench], Awaitable[None]]) -> None:
    on_bench(scenario, valkey, folder, config(), sim=sim.url)


async def tiers(looks: Looks) -> dict[str, TopTier]:
    return {tier.tier: tier for tier in (await looks.look()).tiers}


def test_rates_are_what_was_called_and_paid_between_looks(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        clock = Clock()
        looks = Looks(fleet.client, clock)
        first = await looks.look()
        assert {tier.calls_per_s for tier in first.tiers} == {None}
        assert first.usd_per_hour is None
        job_id = await fleet.submit(steps=[WRITE], items=["a", "b", "c"], review={"prompt": "Review."})
        await fleet.run(job_id)
        clock.now += 2.0
        second = await looks.look()
        found = {tier.tier: tier for tier in second.tiers}
        ledger = await fleet.ledger(job_id)
        for name, calls in (("nano", 3), ("mini", 0), ("flagship", 1)):
            entries = [entry for entry in ledger if entry.tier == name]
            assert len(entries) == calls
            assert found[name].calls_per_s == calls / 2
            assert found[name].tokens_per_s == sum(entry.usage.total for entry in entries) / 2
        cost = sum(entry.cost_nano_usd for entry in ledger)
        assert second.usd_per_hour is not None
        assert abs(second.usd_per_hour - cost / NANO_PER_USD * 1800) < 1e-9
        assert second.jobs == (), "it has ended"

    on_fleet(valkey, tmp_path, sim, scenario)


def test_the_counters_are_those_of_the_ledger(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE], items=["a"])
        await fleet.run(job_id)
        pulse = Pulse(fleet.runtime.link, NAMESPACE, list(fleet.runtime.tiers))
        spent = (await pulse.spent())["nano"]
        used, _ = await fleet.money(job_id)
        assert spent == await fleet.runtime.store.tally(job_id) | {"amount": used}

    on_fleet(valkey, tmp_path, sim, scenario)


def test_a_tier_says_what_waits_and_what_runs(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE], items=[1, 2, 3, 4, 5])
        await fleet.run_until(job_id, "fleet.run_subtask.v1")
        looks = Looks(fleet.client)
        nano = (await tiers(looks))["nano"]
        assert (nano.backlog, nano.queue, nano.running, nano.capacity, nano.workers) == (0, 0, 5, 1_000, 1)
        (job,) = (await looks.look()).jobs
        assert (job.id, job.status, job.total, job.done) == (job_id, "running", 5, 0)
        await fleet.runtime.link.execute("LPUSH", "nano", "message", "message")
        assert (await tiers(looks))["nano"].queue == 2
        assert (await tiers(looks))["nano"].running == 3

    on_fleet(valkey, tmp_path, sim, scenario)


def test_the_busiest_job_is_first_however_many_are_newer(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        busy = await fleet.submit(name="busy", steps=[WRITE], items=list(range(40)))
        await fleet.run_until(busy, "fleet.run_subtask.v1")
        newer = [await fleet.submit(name=f"new-{i}", steps=[WRITE], items=[1]) for i in range(MOST_NEW + 5)]
        jobs = (await Looks(fleet.client).look()).jobs
        assert jobs[0].id == busy
        assert len(jobs) == MOST_JOBS
        assert {job.id for job in jobs[1:]} <= set(newer)

    on_fleet(valkey, tmp_path, sim, scenario)


def test_a_paused_job_is_shown_with_the_reason(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE], items=["a"])
        await fleet.run_until(job_id, "fleet.run_subtask.v1")
        await fleet.runtime.limiter.pause("openai/good", 30)
        await fleet.runtime.store.hand_on(await _claimed(fleet, f"{job_id}/write/0"), "nano", "")
        (job,) = (await Looks(fleet.client).look()).jobs
        assert [wait.reason for wait in job.waits] == ["rate"]
        await Control(fleet.runtime).pause(job_id)
        (job,) = (await Looks(fleet.client).look()).jobs
        assert (job.status, job.waits) == ("paused", ())

    on_fleet(valkey, tmp_path, sim, scenario)


def test_a_look_asks_no_more_of_a_store_with_many_jobs(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    """The number of commands of a look is bounded: what grows is what is not shown."""

    async def scenario(fleet: Bench) -> None:
        async def commands() -> int:
            with valkey.client() as client:
                client.config_resetstat()
                await Looks(fleet.client).look()
                return sum(stat["calls"] for stat in client.info("commandstats").values())

        for i in range(60):
            await fleet.submit(name=f"job-{i}", steps=[WRITE], items=[1])
        await fleet.release()
        few = await commands()
        await asyncio.gather(*(fleet.submit(name=f"more-{i}", steps=[WRITE], items=[1]) for i in range(200)))
        await fleet.release()
        assert await commands() <= few + MOST_LANES + MOST_BUSY, "more of what a look samples, and no more"

    on_fleet(valkey, tmp_path, sim, scenario)


async def _claimed(fleet: Bench, subtask: str) -> Claim:
    claim = await fleet.runtime.store.claim(subtask, "nano")
    assert isinstance(claim, Claim)
    return claim
