"""Batches that their vendor does not give back: their job ends in time all the same, and the books come right later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from fleet import vendor_batches
from fleet.control import Control
from fleet.errors import ProviderError
from fleet.jobs import JobStatus
from fleet.ledger import WORKER_LOST
from fleet.providers.base import BatchProvider, BatchStanding
from queues.quotas import Quotas
from tests.integration.test_vendor_batches import SORT, TICKETS, at_the_vendor, check_books, ended, late, working
from tests.support.bench import Bench, Recording, on_bench
from tests.support.lanes import LanesSim, lanes_config, lanes_sim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

__all__ = ["late"]

DOWN = ProviderError("The vendor answers 503 to everything about batches.", kind="server", retryable=True)
DAY_S = 86_400
#: What is not back 300 s before it is due is taken back, and given back after half of that.
BACK_S = 300


@dataclass
class Away:
    """A vendor's batches that cannot be asked for, or never end, as long as `away` says so."""

    inner: BatchProvider
    away: Literal["down", "stuck", ""] = ""
    cancels: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def find(self, mark: str, since: float) -> BatchStanding | None:
        if self.away == "down":
            raise DOWN
        return await self.inner.find(mark, since)

    async def look(self, handle: str) -> BatchStanding:
        if self.away == "down":
            raise DOWN
        found = await self.inner.look(handle)
        return replace(found, ended=False) if self.away else found

    async def cancel(self, handle: str) -> None:
        self.cancels += 1
        if self.away == "down":
            raise DOWN
        if not self.away:
            await self.inner.cancel(handle)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> list[Away]:
    """The vendor, once the fleet has asked for its batches."""
    made: list[Away] = []

    def batches(provider: Recording) -> Any:
        if not made:
            inner = provider.inner.batches
            assert inner is not None
            made.append(Away(inner))
        return made[0]

    monkeypatch.setattr(Recording, "batches", property(batches))
    return made


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanesSim]:
    """Its batches take a minute of the clock."""
    with lanes_sim(tmp_path_factory.mktemp("slow"), batch_s=60_000) as running:
        yield running


async def held_up(fleet: Bench, away: list[Away], how: Literal["down", "stuck"], **spec: Any) -> str:
    """A job whose one batch is at the vendor, who does not give it back from now on."""
    job_id = await fleet.submit(**{"items": TICKETS, "steps": [SORT], "deadline": "24h"} | spec)
    await eventually(lambda: at_the_vendor(fleet, job_id), "a batch that runs")
    away[0].away = how
    return job_id


async def ends(fleet: Bench, job_id: str) -> JobStatus:
    async def final() -> bool:
        return (await fleet.runtime.jobs.load(job_id)).status.final

    await eventually(final, "the job to end")
    return (await fleet.runtime.jobs.load(job_id)).status


@pytest.mark.parametrize("ran", [False, True], ids=["not run", "run"])
@pytest.mark.parametrize("how", ["down", "stuck"])
def test_a_batch_that_the_vendor_keeps_is_asked_at_once_and_its_books_come_right_later(
    valkey: Valkey,
    tmp_path: Path,
    slow: LanesSim,
    late: list[float],
    away: list[Away],
    how: Literal["down", "stuck"],
    ran: bool,
) -> None:
    async def scenario(fleet: Bench) -> None:
        async with working(fleet):
            job_id = await held_up(fleet, away, how, budget_usd=1)
            if ran:
                await eventually(lambda: _billed(sim, job_id, len(TICKETS)), "the batch to be done at the vendor")
            held = (await fleet.money(job_id))[1]
            late[0] = DAY_S - BACK_S / 2 + 1
            assert await ends(fleet, job_id) is JobStatus.COMPLETED
            ledger = await fleet.ledger(job_id)
            guessed = [entry for entry in ledger if entry.lane == "batch"]
            asked = [entry for entry in ledger if entry.lane == "standard"]
            assert {entry.reason for entry in guessed} == {WORKER_LOST}
            assert [entry.status for entry in asked] == ["ok"] * len(TICKETS) == ["ok"] * len(guessed)
            assert sum(entry.cost_nano_usd for entry in guessed) == held
            assert await fleet.money(job_id) == (sum(entry.cost_nano_usd for entry in ledger), 0)

            away[0].away = ""
            job = await ended(fleet, job_id)
            brought = [entry for entry in await fleet.ledger(job_id) if entry.lane == "batch"]
            assert {(entry.reason, entry.cost_nano_usd > 0) for entry in brought} == {("cancelled", ran)}
            assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}
            await check_books(fleet, sim, job_id)

    with lanes_sim(_folder(tmp_path)) as quick:
        sim = quick if ran else slow
        _with(scenario, valkey, tmp_path, sim)


def test_a_vendor_that_gives_a_batch_back_when_it_is_told_to_is_waited_for(
    valkey: Valkey,
    tmp_path: Path,
    slow: LanesSim,
    late: list[float],
    away: list[Away],
) -> None:
    async def scenario(fleet: Bench) -> None:
        async with working(fleet):
            job_id = await held_up(fleet, away, "stuck")
            late[0] = DAY_S - BACK_S + 1
            cancels = away[0].cancels
            await eventually(lambda: _true(away[0].cancels > cancels + 2), "the vendor to be told")
            assert not (await fleet.runtime.jobs.load(job_id)).status.final
            assert not await fleet.ledger(job_id), "nothing is booked at its worst yet"
            away[0].away = ""
            job = await ended(fleet, job_id)
        assert job.status is JobStatus.COMPLETED
        told = {(entry.lane, entry.reason, entry.cost_nano_usd > 0) for entry in await fleet.ledger(job_id)}
        assert told == {("batch", "cancelled", False), ("standard", None, True)}
        await check_books(fleet, slow, job_id)

    _with(scenario, valkey, tmp_path, slow)


def test_a_batch_that_may_have_been_begun_is_given_back_too(
    valkey: Valkey,
    tmp_path: Path,
    vendor: LanesSim,
    late: list[float],
    away: list[Away],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(fleet: Bench) -> None:
        assert fleet.provider.batches is not None
        begin, begun = away[0].inner.begin, asyncio.Event()

        async def unheard(file: str, route: str, mark: str) -> BatchStanding:
            await begin(file, route, mark)
            away[0].away = "down"
            begun.set()
            raise DOWN

        monkeypatch.setattr(away[0].inner, "begin", unheard)
        job_id = await fleet.submit(items=TICKETS, steps=[SORT], deadline="24h", budget_usd=1)
        async with working(fleet), asyncio.timeout(60):
            await begun.wait()
            late[0] = DAY_S - BACK_S / 2 + 1
            assert await ends(fleet, job_id) is JobStatus.COMPLETED
            away[0].away = ""
            await ended(fleet, job_id)
        ledger = await fleet.ledger(job_id)
        assert {(entry.lane, entry.reason) for entry in ledger} == {("batch", "cancelled"), ("standard", None)}
        await check_books(fleet, vendor, job_id)

    _with(scenario, valkey, tmp_path, vendor)


@pytest.mark.parametrize("place", ["given_back", "booked_back", "dismissed", "collected", "settled"])
def test_whatever_dies_while_lines_are_given_back_none_is_lost_or_paid_twice(
    valkey: Valkey,
    tmp_path: Path,
    vendor: LanesSim,
    late: list[float],
    away: list[Away],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """Death as the store sees it: a claim that is renewed and written under no more, and others go on."""
    deaths = 0

    class Dead(BaseException):
        pass

    def die(name: str) -> None:
        nonlocal deaths
        if name == place and deaths < 2:
            deaths += 1
            raise Dead

    monkeypatch.setattr(vendor_batches, "failpoint", die)

    async def scenario(fleet: Bench) -> None:
        perform = fleet.perform

        async def dying(released: Any, tier: str) -> dict[str, str] | None:
            try:
                return await perform(released, tier)
            except Dead:
                return None

        fleet.perform = dying  # type: ignore[method-assign]
        async with working(fleet):
            job_id = await held_up(fleet, away, "down", budget_usd=1)
            await eventually(lambda: _billed(vendor, job_id, len(TICKETS)), "the batch to be done at the vendor")
            late[0] = DAY_S - BACK_S / 2 + 1
            assert await ends(fleet, job_id) is JobStatus.COMPLETED
            away[0].away = ""
            job = await ended(fleet, job_id)
        # Once its lines have gone on nothing of it is done again.
        assert deaths == (1 if place == "dismissed" else 2)
        ledger = await fleet.ledger(job.id)
        assert sorted((entry.lane, entry.status) for entry in ledger) == sorted(
            [("batch", "failed"), ("standard", "ok")] * len(TICKETS)
        )
        await check_books(fleet, vendor, job.id)

    _with(scenario, valkey, tmp_path, vendor, claim_s=1)


def test_no_cap_is_passed_by_lines_that_are_given_back_and_asked_again(
    valkey: Valkey,
    tmp_path: Path,
    vendor: LanesSim,
    late: list[float],
    away: list[Away],
) -> None:
    """What may be on the bill counts against the budget until it is known, so the job waits for that, or for a higher one."""

    async def scenario(fleet: Bench) -> None:
        control = Control(fleet.runtime)
        async with working(fleet):
            job_id = await held_up(fleet, away, "stuck", budget_usd=1)
            cap = (await fleet.money(job_id))[1]
            await Quotas(fleet.runtime.link, fleet.runtime.store.namespace).set_cap(job_id, cap)
            await eventually(lambda: _billed(vendor, job_id, len(TICKETS)), "the batch to be done at the vendor")
            late[0] = DAY_S - BACK_S / 2 + 1
            await eventually(lambda: _stopped(fleet, job_id), "the budget to be too short")
            used, still_held = await fleet.money(job_id)
            assert (used, still_held) == (cap, 0)
            away[0].away = ""
            await eventually(lambda: _no_batch_left(fleet, job_id), "the truth about the batch")
            known, still_held = await fleet.money(job_id)
            assert known < used
            assert still_held == 0
            await control.resume(job_id)
            assert (await ended(fleet, job_id)).status is JobStatus.COMPLETED
            assert (await fleet.money(job_id))[0] <= cap
        await check_books(fleet, vendor, job_id)

    _with(scenario, valkey, tmp_path, vendor)


def test_a_batch_that_never_ends_stays_booked_at_its_worst(
    valkey: Valkey,
    tmp_path: Path,
    vendor: LanesSim,
    late: list[float],
    away: list[Away],
) -> None:
    async def scenario(fleet: Bench) -> None:
        async with working(fleet):
            job_id = await held_up(fleet, away, "stuck")
            late[0] = DAY_S - BACK_S / 2 + 1
            assert await ends(fleet, job_id) is JobStatus.COMPLETED
            late[0] = vendor_batches.GIVEN_UP_S + 1
            await ended(fleet, job_id)
        ledger = await fleet.ledger(job_id)
        assert sorted((entry.lane, entry.reason) for entry in ledger if entry.reason) == [
            ("batch", WORKER_LOST) for _ in TICKETS
        ]
        used, held = await fleet.money(job_id)
        assert (used, held) == (sum(entry.cost_nano_usd for entry in ledger), 0)
        assert used > sum(charge["cost_nano_usd"] for charge in vendor.charges(job_id))

    _with(scenario, valkey, tmp_path, vendor)


async def _billed(sim: LanesSim, job_id: str, number: int) -> bool:
    return len(sim.charges(job_id)) == number


async def _true(value: bool) -> bool:
    return value


async def _stopped(fleet: Bench, job_id: str) -> bool:
    return (await fleet.runtime.store.stopped(job_id))[0] == "paused"


async def _no_batch_left(fleet: Bench, job_id: str) -> bool:
    return not await fleet.context.lines.lots.unended(job_id)


def _folder(path: Path) -> Path:
    folder = path / "quick"
    folder.mkdir()
    return folder


def _with(
    scenario: Callable[[Bench], Awaitable[None]], valkey: Valkey, folder: Path, sim: LanesSim, **others: Any
) -> None:
    # With nothing in between, what is taken back is asked at once.
    lanes = {"flex_from_s": 3_600, "back_s": BACK_S}
    on_bench(scenario, valkey, folder, lanes_config(lanes=lanes, **others), sim=sim.sim.url)
