"""Shards that several coordinators file at the same time: no outcome and no entry is lost over it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from fleet.control import Control
from fleet.janitor import Janitor
from fleet.jobs import JobStatus
from fleet.rounds import SHARD_TASK
from fleet.shards import Shard
from queues.subtasks import Charge, Result
from tests.support.bench import Bench, bench, config, on_bench
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

READ = {"id": "read", "each": "items", "tier": "nano", "prompt": "Read {{ item.name }}.", "max_output_tokens": 50}
ITEMS = [{"name": f"item{i}"} for i in range(6)]
FLEET = config(gate_width=len(ITEMS))


def test_a_coordinator_that_looks_while_another_files_the_shard_takes_nothing_from_it(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=ITEMS, steps=[READ])
        await fleet.run_until(job_id, SHARD_TASK)
        await Control(fleet.runtime).cancel(job_id)
        async with bench(valkey, tmp_path, FLEET, sim=sim.url) as other:
            real = other.runtime.store.results
            looks = 0

            async def overtaken(ids: Iterable[str]) -> list[Result | None]:
                """All have ended when it looks for the first time; then it is slow, and the other is not."""
                nonlocal looks
                looks += 1
                if looks == 2:
                    assert await Janitor(fleet.context).wind_up(job_id)
                return await real(ids)

            other.runtime.store.results = overtaken  # type: ignore[method-assign]
            await Janitor(other.context).wind_up(job_id)
            assert looks >= 2
        job = await fleet.client.job(job_id)
        assert job.status is JobStatus.CANCELLED
        assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}
        assert len(await fleet.ledger(job_id)) == len(ITEMS)

    on_bench(scenario, valkey, tmp_path, FLEET, sim=sim.url)


def test_an_entry_that_comes_while_its_shard_is_filed_is_kept(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    """A worker that had lost its claim writes what it had paid all the same."""

    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=ITEMS, steps=[READ])
        closing = await fleet.run_until(job_id, SHARD_TASK)
        shard, real = Shard.of(closing.id), fleet.runtime.store.forget
        entry = json.loads(next(iter((await fleet.runtime.store.records(shard.record_in(job_id))).values())))
        entry |= {"call_id": "late", "status": "failed", "reason": "connection"}
        late = Charge(shard.record_in(job_id), "late", json.dumps(entry), job_id, "nobody", entry["cost_nano_usd"])
        came = 0

        async def overtaken(
            gate: str, ids: Iterable[str], record: str, quota: str, *, entries: int, guesses: int
        ) -> bool:
            nonlocal came
            came += 1
            if came == 1:
                await fleet.runtime.store.settle([late])
            return await real(gate, ids, record, quota, entries=entries, guesses=guesses)

        fleet.runtime.store.forget = overtaken  # type: ignore[method-assign]
        await fleet.perform(closing, "coordinator")
        assert came == 2
        ledger = await fleet.ledger(job_id)
        assert [one.call_id for one in ledger].count("late") == 1
        assert len(ledger) == len(ITEMS) + 1

    on_bench(scenario, valkey, tmp_path, FLEET, sim=sim.url)


class Died(BaseException):
    """What no code catches: the process is gone."""


@pytest.mark.parametrize("dies", [False, True], ids=["while it is filed", "after it was, by one who died at that"])
def test_the_truth_about_a_lost_call_takes_the_place_of_the_guess(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, dies: bool
) -> None:
    async def scenario(fleet: Bench) -> None:
        store, real = fleet.runtime.store, fleet.runtime.store.forget
        job_id = await fleet.submit(items=ITEMS, steps=[READ])
        closing = await fleet.run_until(job_id, SHARD_TASK)
        record = Shard.of(closing.id).record_in(job_id)
        entry = json.loads(next(iter((await store.records(record)).values()))) | {"call_id": "lost"}
        guess, truth = (json.dumps(entry | {"cost_nano_usd": cost}) for cost in (7, 5))
        await store.settle([Charge(record, "lost", guess, job_id, "nobody", 7, provisional=True)])
        came = 0

        async def overtaken(
            gate: str, ids: Iterable[str], record: str, quota: str, *, entries: int, guesses: int
        ) -> bool:
            nonlocal came
            came += 1
            done = came == 1 and dies and await real(gate, ids, record, quota, entries=entries, guesses=guesses)
            if came == 1:
                await store.settle([Charge(record, "lost", truth, job_id, "nobody", 5)])
            if done:
                raise Died
            return await real(gate, ids, record, quota, entries=entries, guesses=guesses)

        store.forget = overtaken  # type: ignore[method-assign]
        with pytest.raises(Died) if dies else contextlib.nullcontext():
            await fleet.perform(closing, "coordinator")
        await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, closing.id)
        await store.reconcile()
        await fleet.run(job_id)
        assert came == 2
        ledger = await fleet.ledger(job_id)
        assert [one.cost_nano_usd for one in ledger if one.call_id == "lost"] == [5]
        assert await fleet.money(job_id) == (sum(one.cost_nano_usd for one in ledger), 0)

    on_bench(scenario, valkey, tmp_path, FLEET, sim=sim.url)
