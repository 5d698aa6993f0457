"""A worker that vanishes in the middle of a call: what is paid again, what is not, and what the books say."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from fleet import lost_calls
from fleet.drain import GiveBack
from fleet.entries import Purpose
from fleet.errors import ProviderError
from fleet.jobs import JobStatus
from fleet.ledger import WORKER_LOST
from fleet.providers.base import Completion, ModelRequest, Started, ask
from fleet.replay import adds_up
from fleet.runner import NotOurs
from queues.claims import ClaimLost
from queues.subtasks import Claim
from tests.support.bench import Bench, books, config, on_bench
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

WRITE = {"id": "write", "tier": "nano", "prompt": "Write it.", "max_output_tokens": 100}
LEASE_S = 1.0


class Vanishing:
    """Takes the place of `complete` once: the call is made, and its worker stands still until `wakes`."""

    def __init__(self, fleet: Bench, *, after_start: bool) -> None:
        self._real = fleet.provider.complete
        self._fleet = fleet
        self._after_start = after_start
        self.made = asyncio.Event()
        self.wakes = asyncio.Event()
        fleet.provider.complete = self  # type: ignore[method-assign]

    async def __call__(self, request: ModelRequest, started: Started | None = None) -> Completion:
        self._fleet.provider.complete = self._real  # type: ignore[method-assign]
        if not self._after_start:
            answer = await self._real(request, started)
            self.made.set()
            await self.wakes.wait()
            return answer

        async def journalled(handle: str) -> None:
            assert started is not None
            await started(handle)
            self.made.set()
            await self.wakes.wait()

        return await self._real(request, journalled)


async def vanished(fleet: Bench, *, after_start: bool = False) -> tuple[str, asyncio.Task[Any], Vanishing]:
    """A job whose only subtask is held by a worker that vanished under its call, its claim expired and put back."""
    job_id = await fleet.submit(steps=[WRITE])
    await fleet.run_until(job_id, "fleet.run_subtask.v1")
    vanishing = Vanishing(fleet, after_start=after_start)
    zombie = asyncio.create_task(fleet.runner.run(f"{job_id}/write", "nano"))
    await vanishing.made.wait()
    await a_lease_passes(fleet)
    return job_id, zombie, vanishing


async def a_lease_passes(fleet: Bench) -> None:
    """On a fleet whose store was there all the time."""
    await asyncio.sleep(LEASE_S * 1.1)  # the lease is what is tested
    await fleet.runtime.store.register("nano", "other", 1, 600_000)


def lease(background: str = "never") -> Any:
    made = config(claim_s=LEASE_S).model_dump()
    for tier in made["tiers"].values():
        tier["background"] = background
    return type(config()).model_validate(made)


def test_a_lost_answer_is_paid_again_once_and_the_books_say_so(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id, zombie, _ = await vanished(fleet)
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        lost, paid = await fleet.ledger(job_id)
        assert (lost.call_id, lost.status, lost.reason) == (fleet.provider.asked[0].call_id, "failed", WORKER_LOST)
        assert paid.status == "ok"
        assert (lost.attempt, paid.attempt) == (1, 2)
        assert adds_up(lost)
        assert adds_up(paid)
        charged = {c["call_id"]: c["cost_nano_usd"] for c in sim.charges() if c["call_id"].startswith(job_id)}
        assert charged.keys() == {lost.call_id, paid.call_id}
        assert lost.cost_nano_usd >= charged[lost.call_id], "booked at its worst case"
        assert (await fleet.client.receipt(job)).possibly_paid_twice == 1
        assert await fleet.money(job_id) == (lost.cost_nano_usd + paid.cost_nano_usd, 0)
        zombie.cancel()
        await asyncio.wait({zombie})

    on_bench(scenario, valkey, tmp_path, lease(), sim=sim.url)


def test_a_zombie_cannot_write_but_its_bill_is_put_right(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id, zombie, vanishing = await vanished(fleet)
        job = await fleet.run(job_id)
        output = (await fleet.outcomes(job))["write"]
        vanishing.wakes.set()
        await asyncio.wait({zombie})
        assert zombie.exception() is not None, "it was told that there is nothing of it to write"
        assert (await fleet.outcomes(job))["write"] == output
        books(await fleet.ledger(job_id), sim.charges(), job_id)
        assert (await fleet.client.receipt(job)).possibly_paid_twice == 0
        assert (await fleet.money(job_id))[1] == 0

    on_bench(scenario, valkey, tmp_path, lease(), sim=sim.url)


def test_a_zombie_may_not_pay_for_a_subtask_that_was_filed_away_meanwhile(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE], budget_usd=1)
        message = await fleet.run_until(job_id, "fleet.run_subtask.v1")
        zombie = await fleet.runtime.store.claim(message.id, "nano")
        assert isinstance(zombie, Claim)
        await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, message.id)
        assert (await fleet.run(job_id)).status is JobStatus.COMPLETED
        assert await fleet.runtime.store.results([message.id]) == [None]
        money = await fleet.money(job_id)

        record = json.loads(zombie.payload)["record"]
        purpose = Purpose(job_id, zombie.id, zombie, "write", "write", "work", "nano", record)
        with pytest.raises(GiveBack, match="another worker has taken over"):
            await fleet.context.executor.call(purpose, ask("Write it.", max_output_tokens=100))
        assert len(fleet.provider.asked) == 1
        books(await fleet.ledger(job_id), sim.charges(), job_id)
        assert await fleet.money(job_id) == money

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


@pytest.mark.parametrize("wakes", [False, True])
def test_a_call_in_the_background_is_collected_and_paid_once(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, wakes: bool
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id, zombie, vanishing = await vanished(fleet, after_start=True)
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        if wakes:
            vanishing.wakes.set()
        else:
            zombie.cancel()
        await asyncio.wait({zombie})
        (entry,) = await fleet.ledger(job_id)
        assert (entry.call_id, entry.status, entry.attempt) == (fleet.provider.asked[0].call_id, "ok", 1)
        assert entry.price is not None
        assert adds_up(entry)
        books([entry], sim.charges(), job_id)
        assert (await fleet.client.receipt(job)).possibly_paid_twice == 0
        assert await fleet.money(job_id) == (entry.cost_nano_usd, 0)

    on_bench(scenario, valkey, tmp_path, lease("always"), sim=sim.url)


def watched(fleet: Bench) -> list[str]:
    """What happens at the vendor from now on: `made` and `cancelled`, with what each is about."""
    seen: list[str] = []
    complete, cancel = fleet.provider.inner.complete, fleet.provider.inner.cancel

    async def made(request: ModelRequest, started: Started | None = None) -> Completion:
        seen.append(f"made {request.call_id}")
        return await complete(request, started)

    async def cancelled(handle: str) -> None:
        seen.append(f"cancelled {handle}")
        await cancel(handle)

    fleet.provider.inner.complete, fleet.provider.inner.cancel = made, cancelled  # type: ignore[method-assign]
    return seen


def test_a_call_in_the_background_that_began_after_a_takeover_is_cancelled_at_the_vendor(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE], budget_usd=1)
        message = await fleet.run_until(job_id, "fleet.run_subtask.v1")
        real = fleet.provider.complete
        seen = watched(fleet)
        handles: list[str] = []

        async def paused(request: ModelRequest, started: Started | None = None) -> Completion:
            async def journalled(handle: str) -> None:
                """This process stands still until another has done the subtask."""
                assert started is not None
                handles.append(handle)
                await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, message.id)
                assert (await fleet.run(job_id)).status is JobStatus.COMPLETED
                await started(handle)

            fleet.provider.complete = real  # type: ignore[method-assign]
            return await real(request, journalled)

        fleet.provider.complete = paused  # type: ignore[method-assign]
        with pytest.raises(NotOurs, match="another worker has taken over"):
            await fleet.runner.run(message.id, "nano")
        assert [what for what in seen if what.startswith("cancelled")] == [f"cancelled {handles[0]}"]
        ledger = await fleet.ledger(job_id)
        assert [entry.status for entry in ledger].count("ok") == 1
        assert (await fleet.money(job_id)) == (sum(entry.cost_nano_usd for entry in ledger), 0)

    on_bench(scenario, valkey, tmp_path, lease("always"), sim=sim.url)


def test_a_call_whose_answer_cannot_be_collected_is_cancelled_before_another_is_made(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        seen = watched(fleet)
        asked_for: list[str] = []

        async def not_done(handle: str, request: ModelRequest) -> Completion:
            asked_for.append(handle)
            raise ProviderError("It is not done.", kind="timeout", retryable=True, maybe_billed=True)

        fleet.provider.inner.collect = not_done  # type: ignore[method-assign]
        job_id, zombie, _ = await vanished(fleet, after_start=True)
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        lost, paid = await fleet.ledger(job_id)
        assert seen == [f"made {lost.call_id}", f"cancelled {asked_for[0]}", f"made {paid.call_id}"]
        assert (lost.reason, paid.status) == (WORKER_LOST, "ok")
        assert await fleet.money(job_id) == (lost.cost_nano_usd + paid.cost_nano_usd, 0)
        zombie.cancel()
        await asyncio.wait({zombie})

    on_bench(scenario, valkey, tmp_path, lease("always"), sim=sim.url)


UNREACHABLE = ProviderError("It cannot be asked.", kind="unreachable", retryable=True, maybe_billed=True)


def test_a_call_that_cannot_be_asked_for_is_asked_for_again_before_another_is_paid(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    """First its own worker loses touch with it, then the next one, twice; nobody pays again."""

    async def scenario(fleet: Bench) -> None:
        seen = watched(fleet)
        complete, collect, tries = fleet.provider.complete, fleet.provider.inner.collect, 0

        async def loses_touch(request: ModelRequest, started: Started | None = None) -> Completion:
            await complete(request, started)
            raise UNREACHABLE

        async def cannot_be_asked_at_first(handle: str, request: ModelRequest) -> Completion:
            nonlocal tries
            tries += 1
            if tries <= 2:
                raise UNREACHABLE
            return await collect(handle, request)

        fleet.provider.complete = loses_touch  # type: ignore[method-assign]
        fleet.provider.inner.collect = cannot_be_asked_at_first  # type: ignore[method-assign]
        job = await fleet.run(await fleet.submit(steps=[WRITE], budget_usd=1))
        assert (job.status, tries) == (JobStatus.COMPLETED, 3)
        (entry,) = await fleet.ledger(job.id)
        assert seen == [f"made {entry.call_id}"]
        assert (entry.status, await fleet.money(job.id)) == ("ok", (entry.cost_nano_usd, 0))

    on_bench(scenario, valkey, tmp_path, lease("always"), sim=sim.url)


def test_a_call_that_cannot_be_asked_for_in_ten_minutes_is_given_up(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(fleet: Bench) -> None:
        monkeypatch.setattr(lost_calls, "ASK_AGAIN_S", 0.0)

        async def cannot_be_asked(handle: str, request: ModelRequest) -> Completion:
            raise UNREACHABLE

        fleet.provider.inner.collect = cannot_be_asked  # type: ignore[method-assign]
        job_id, zombie, _ = await vanished(fleet, after_start=True)
        assert (await fleet.run(job_id)).status is JobStatus.COMPLETED
        assert [entry.reason for entry in await fleet.ledger(job_id)] == [WORKER_LOST, None]
        zombie.cancel()
        await asyncio.wait({zombie})

    on_bench(scenario, valkey, tmp_path, lease("always"), sim=sim.url)


def test_a_subtask_whose_workers_die_three_times_is_quarantined(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE, {**WRITE, "id": "other"}])
        await fleet.run_until(job_id, "fleet.run_subtask.v1")
        for _ in range(3):
            await fleet.release()
            assert isinstance(await fleet.runtime.store.claim(f"{job_id}/write", "nano"), Claim)
            await a_lease_passes(fleet)  # the claim expires: its worker is dead
            await fleet.runtime.store.reconcile()
        job = await fleet.run(job_id)
        outcomes = await fleet.outcomes(job)
        assert outcomes["write"].status == "failed"
        assert "3 workers died" in str(outcomes["write"].error)
        assert outcomes["other"].status == "ok"
        assert len(await fleet.ledger(job_id)) == 1, "nothing was spent on the one that kills"

    on_bench(scenario, valkey, tmp_path, lease(), sim=sim.url)


def test_what_a_worker_spent_is_booked_although_its_version_counts_no_claims(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id, zombie, _ = await vanished(fleet)
        await fleet.runtime.link.execute("HDEL", f"fleet:s:{job_id}/write", "claims")
        await fleet.runtime.jobs.end(job_id, JobStatus.FAILED)

        async def ended() -> bool:
            try:
                return (await fleet.runner.run(f"{job_id}/write", "nano"))["status"] == "failed"
            except NotOurs:  # its claim has not expired yet
                return False

        await eventually(ended, "the end of the subtask")
        (lost,) = await fleet.ledger(job_id)
        assert lost.reason == WORKER_LOST
        assert await fleet.money(job_id) == (lost.cost_nano_usd, 0)
        zombie.cancel()
        await asyncio.wait({zombie})

    on_bench(scenario, valkey, tmp_path, lease(), sim=sim.url)


def test_what_a_worker_spent_is_booked_although_the_earlier_answer_is_kept(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    """A review had sent the answer back, and three workers died over a better one."""

    async def scenario(fleet: Bench) -> None:
        job_id, zombie, _ = await vanished(fleet)
        sent_back = json.dumps({"kept": ["An earlier answer.", "good"]})
        await fleet.runtime.link.execute("HSET", f"fleet:s:{job_id}/write", "kills", 3, "trail", sent_back)

        async def ended() -> bool:
            with contextlib.suppress(NotOurs):  # its claim has not expired yet
                await fleet.run(job_id)
            return (await fleet.client.job(job_id)).status.final

        try:
            await eventually(ended, "the end of the job")
            outcome = (await fleet.outcomes(await fleet.client.job(job_id)))["write"]
            assert (outcome.status, outcome.output) == ("ok", "An earlier answer.")
            (lost,) = await fleet.ledger(job_id)
            assert lost.reason == WORKER_LOST
            assert await fleet.money(job_id) == (lost.cost_nano_usd, 0)
        finally:
            zombie.cancel()
            await asyncio.wait({zombie})

    on_bench(scenario, valkey, tmp_path, lease(), sim=sim.url)


def test_a_draining_worker_gives_back_what_waits_and_ends_what_runs(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE])
        await fleet.run_until(job_id, "fleet.run_subtask.v1")
        await fleet.context.executor._limiter.pause("openai/good", 3_600)
        waiting = asyncio.create_task(fleet.runner.run(f"{job_id}/write", "nano"))

        async def running() -> bool:
            return (await fleet.runtime.store.counts(job_id))["nano"].get("running") == 1

        await eventually(running, "the claim")
        fleet.context.executor.draining.set()
        await asyncio.wait({waiting})
        assert (await fleet.runtime.store.counts(job_id))["nano"]["ready"] == 1
        assert await fleet.ledger(job_id) == []
        assert await fleet.money(job_id) == (0, 0)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_claims_are_renewed_while_a_call_runs_and_lost_when_another_takes_over(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE])
        await fleet.run_until(job_id, "fleet.run_subtask.v1")
        vanishing = Vanishing(fleet, after_start=False)
        running = asyncio.create_task(fleet.runner.run(f"{job_id}/write", "nano"))
        keeping = asyncio.create_task(fleet.context.claims.keep())
        await vanishing.made.wait()
        for _ in range(3):  # without renewal the claim would be gone
            await a_lease_passes(fleet)
        assert await fleet.runtime.store.reconcile() == []
        # The reconciler takes the claim away, as it does when this process was paused for longer than its lease.
        await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, f"{job_id}/write")
        assert len(await fleet.runtime.store.reconcile()) == 1
        await asyncio.wait({running})
        assert isinstance(running.exception(), ClaimLost)
        keeping.cancel()
        await asyncio.wait({keeping})

    on_bench(scenario, valkey, tmp_path, lease(), sim=sim.url)
