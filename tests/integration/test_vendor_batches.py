"""Jobs that have time run through the vendor's batches: a real store, a provider over HTTP, and deaths at every step."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleet import lane_calls, lines, vendor_batches
from fleet.control import Control
from fleet.errors import ProviderError
from fleet.janitor import Janitor
from fleet.jobs import JobStatus
from fleet.store import Job
from queues.subtasks import Claim
from tests.support.bench import BREAKS, Bench, books, on_bench
from tests.support.lanes import PLAIN, LanesSim, lanes_config, lanes_sim, price_of
from tests.support.sim import ROOT
from tests.support.valkey import Valkey
from tests.support.worker import eventually

TOPICS = {"type": "object", "additionalProperties": False, "required": ["topic"]} | {
    "properties": {"topic": {"type": "string", "enum": ["billing", "bug", "other"]}}
}
SORT = {"id": "sort", "each": "items", "tier": "nano", "prompt": "Topic? {{ item }}", "output": TOPICS}
TELL = {
    "id": "tell",
    "each": "items",
    "needs": ["sort"],
    "tier": "nano",
    "prompt": "Tell of {{ item }}: {{ sort.topic }}",
}
TICKETS = ["I was charged twice", "The export crashes", "Hello", "The invoice is wrong", "It crashes"]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanesSim]:
    """Its batches take 20 s of the clock."""
    with lanes_sim(tmp_path_factory.mktemp("slow"), batch_s=20_000) as running:
        yield running


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """By so many seconds the fleet's clock is ahead."""
    seconds = [0.0]
    clock = SimpleNamespace(time=lambda: time.time() + seconds[0])
    monkeypatch.setattr(vendor_batches, "time", clock)
    monkeypatch.setattr(lane_calls, "time", clock)
    return seconds


@contextlib.asynccontextmanager
async def working(fleet: Bench):  # type: ignore[no-untyped-def]
    """The fleet at work, with what the coordinator does beside its tasks."""

    async def reconcile() -> None:
        while True:
            await fleet.runtime.store.reconcile()
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(fleet.work()), asyncio.create_task(reconcile())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ended(fleet: Bench, job_id: str) -> Job:
    """The job, once it has ended and nothing of it is at the vendor."""
    async with asyncio.timeout(60):
        while True:
            job = await fleet.runtime.jobs.load(job_id)
            if job.status.final and not await fleet.context.lines.lots.unended(job_id):
                return job
            await asyncio.sleep(0.01)


async def run(fleet: Bench, **spec: Any) -> Job:
    job_id = await fleet.submit(**{"items": TICKETS, "steps": [SORT], "deadline": "24h"} | spec)
    async with working(fleet):
        return await ended(fleet, job_id)


async def check_books(fleet: Bench, vendor: LanesSim, job_id: str) -> None:
    ledger = await fleet.ledger(job_id)
    charges = vendor.charges(job_id)
    assert len({charge["call_id"] for charge in charges}) == len(charges), "a call was paid twice"
    assert await fleet.money(job_id) == (books(ledger, charges, job_id), 0)
    assert not await fleet.runtime.store.unsettled(job_id)


def test_a_job_with_a_day_runs_wholly_through_batches_at_half_the_price(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        before = await _files(fleet)
        job = await run(fleet, steps=[SORT, TELL], budget_usd=1)
        assert job.status is JobStatus.COMPLETED
        outcomes = await fleet.outcomes(job)
        assert {outcome.status for outcome in outcomes.values()} == {"ok"}
        assert outcomes["sort/0"].output == {"topic": "billing"}
        ledger, charges = await fleet.ledger(job.id), vendor.charges(job.id)
        assert len(ledger) == len(charges) == 2 * len(TICKETS)
        assert {(entry.lane, entry.status, entry.attempt >= 0) for entry in ledger} == {("batch", "ok", True)}
        assert [charge["cost_nano_usd"] for charge in charges] == [price_of(charge, "batch") for charge in charges]
        assert not fleet.provider.asked, "nothing was asked at once"
        await check_books(fleet, vendor, job.id)
        assert not list((tmp_path / "blobs" / job.id / "lines").rglob("*.json")), "what was sent is removed"
        assert await _files(fleet) == before, "nothing is left at the vendor"

    _with(scenario, valkey, tmp_path, vendor)


def test_what_a_batch_brings_is_checked_as_any_answer_and_goes_up_a_tier(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await run(fleet)
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        assert sorted((entry.tier, entry.lane, entry.status) for entry in ledger) == sorted(
            [("nano", "batch", "rejected"), ("mini", "batch", "ok")] * len(TICKETS)
        )
        await check_books(fleet, vendor, job.id)

    _with(scenario, valkey, tmp_path, vendor, nano=BREAKS)


def test_lines_are_gathered_by_number_and_by_size(valkey: Valkey, tmp_path: Path, vendor: LanesSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await run(fleet, items=["x"] * 9)
        assert job.status is JobStatus.COMPLETED
        await check_books(fleet, vendor, job.id)
        lots = list((tmp_path / "blobs" / job.id / "lots").glob("*.jsonl"))
        assert sorted(len(lot.read_text().splitlines()) for lot in lots) == [1, 4, 4]

    # They wait a minute for others, unless there are enough of them.
    _with(scenario, valkey, tmp_path, vendor, lanes={"lines": 4, "gather_s": 2})


def test_lines_that_fail_or_expire_are_asked_at_once(valkey: Valkey, tmp_path: Path, vendor: LanesSim) -> None:
    async def scenario(fleet: Bench) -> None:
        with vendor.faults(error_5xx=0.4, refusal=0.1):
            job = await run(fleet, items=TICKETS * 3)
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        failed = {entry.subtask for entry in ledger if entry.lane == "batch" and entry.reason == "server"}
        assert failed
        assert failed <= {entry.subtask for entry in ledger if entry.lane == "standard"}
        await check_books(fleet, vendor, job.id)

    _with(scenario, valkey, tmp_path, vendor)


def test_a_batch_that_expires_is_asked_at_once_but_for_what_was_done(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await run(fleet, items=TICKETS * 4)
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        expired = {entry.subtask for entry in ledger if entry.reason == "expired"}
        done = {entry.subtask for entry in ledger if entry.lane == "batch" and entry.status == "ok"}
        assert expired
        assert done
        assert {entry.subtask for entry in ledger if entry.lane == "standard"} == expired
        await check_books(fleet, quick, job.id)

    # A day is 0.4 s, and the lines would take twice as long.
    with lanes_sim(tmp_path / "sim", speed=216_000, batch_s=2 * 86_400) as quick:
        _with(scenario, valkey, tmp_path, quick)


def test_what_is_not_back_in_time_is_taken_back_and_asked_at_once(
    valkey: Valkey, tmp_path: Path, slow: LanesSim, late: list[float]
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=TICKETS, steps=[SORT], deadline="24h")
        async with working(fleet):
            await eventually(lambda: at_the_vendor(fleet, job_id), "a batch that runs")
            (wait,) = await fleet.client.waits(job_id)
            assert (wait.tier, wait.subtasks, wait.reason) == ("nano", len(TICKETS), "batch")
            late[0] = 86_400 - 299  # it is taken back 300 s before it is due
            job = await ended(fleet, job_id)
        assert job.status is JobStatus.COMPLETED
        told = {(entry.lane, entry.reason, entry.cost_nano_usd > 0) for entry in await fleet.ledger(job.id)}
        assert told == {("batch", "cancelled", False), ("standard", None, True)}
        await check_books(fleet, slow, job.id)

    _with(scenario, valkey, tmp_path, slow, lanes={"flex_from_s": 3_600})


@pytest.mark.parametrize("what", ["cancel", "pause"])
def test_a_job_that_is_stopped_takes_its_batch_back_and_books_what_was_done(
    valkey: Valkey, tmp_path: Path, slow: LanesSim, late: list[float], what: str
) -> None:
    async def scenario(fleet: Bench) -> None:
        control = Control(fleet.runtime)
        job_id = await fleet.submit(items=TICKETS * 4, steps=[SORT], deadline="24h", budget_usd=1)
        async with working(fleet), asyncio.timeout(60):
            await eventually(lambda: _true(len(slow.charges(job_id)) >= 2), "lines that are done")
            if what == "cancel":
                await control.cancel(job_id)
                await eventually(lambda: Janitor(fleet.context).wind_up(job_id), "nothing left of the job")
            else:
                await control.pause(job_id)
                await eventually(lambda: _taken_back(fleet, job_id), "its batch to end")
            used, held = await fleet.money(job_id)
            assert (used, held) == (sum(charge["cost_nano_usd"] for charge in slow.charges(job_id)), 0)
            assert 2 <= len(slow.charges(job_id)) < len(TICKETS) * 4
            if what == "pause":
                late[0] = 86_400  # what was not done is not sent again
                assert (await fleet.runtime.jobs.load(job_id)).status is JobStatus.PAUSED
                await control.resume(job_id)
                assert (await ended(fleet, job_id)).status is JobStatus.COMPLETED
        await check_books(fleet, slow, job_id)

    _with(scenario, valkey, tmp_path, slow)


@pytest.mark.parametrize("place", ["joined", "uploaded", "batched", "collected", "settled", "answered_line"])
def test_whatever_dies_at_whatever_step_no_line_is_lost_or_paid_twice(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim, monkeypatch: pytest.MonkeyPatch, place: str
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

    monkeypatch.setattr(lines, "failpoint", die)
    monkeypatch.setattr(vendor_batches, "failpoint", die)
    if place == "answered_line":
        whole = lines.Lines.answer

        async def answer(self: lines.Lines, claim: Claim, call_id: str) -> lines.Sent | None:
            found = await whole(self, claim, call_id)
            die("answered_line")
            return found

        monkeypatch.setattr(lines.Lines, "answer", answer)

    async def scenario(fleet: Bench) -> None:
        perform = fleet.perform

        async def dying(released: Any, tier: str) -> dict[str, str] | None:
            try:
                return await perform(released, tier)
            except Dead:
                return None

        fleet.perform = dying  # type: ignore[method-assign]
        job = await run(fleet, budget_usd=1)
        assert deaths == (1 if place == "batched" else 2), "what is done is not done again"
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        assert sorted(str(entry.subtask) for entry in ledger) == sorted(
            f"{job.id}/sort/{number}" for number in range(len(TICKETS))
        )
        assert {(entry.lane, entry.status) for entry in ledger} == {("batch", "ok")}
        await check_books(fleet, vendor, job.id)

    _with(scenario, valkey, tmp_path, vendor, claim_s=0.4, lanes={"lines": len(TICKETS), "gather_s": 20})


def test_bad_connections_cost_time_and_no_line(valkey: Valkey, tmp_path: Path, vendor: LanesSim) -> None:
    async def scenario(fleet: Bench) -> None:
        faults = ("error_5xx", "rate_limited", "reset", "reset_in_body", "reset_after_body", "malformed_json")
        with vendor.faults(**dict.fromkeys(faults, 0.06)):
            job_id = await fleet.submit(items=TICKETS, steps=[SORT], deadline="24h", budget_usd=1)
            async with working(fleet):
                job = await ended(fleet, job_id)
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        charges = vendor.charges(job.id)
        # A call at once whose answer was lost is booked at its worst; of batches nothing is.
        batched = {charge["call_id"]: charge["cost_nano_usd"] for charge in charges if charge["lane"] == "batch"}
        booked = {
            entry.call_id: entry.cost_nano_usd for entry in ledger if entry.lane == "batch" and entry.cost_nano_usd
        }
        assert batched == booked
        assert (await fleet.money(job.id))[1] == 0

    _with(scenario, valkey, tmp_path, vendor)


def test_a_batch_that_is_not_known_any_more_is_booked_at_its_worst(
    valkey: Valkey, tmp_path: Path, slow: LanesSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor_batches, "GIVEN_UP_S", 0.5)

    async def scenario(fleet: Bench) -> None:
        job = await run(fleet, items=TICKETS[:2], budget_usd=1)
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        assert sorted((entry.lane, entry.reason) for entry in ledger if entry.reason) == [("batch", "worker lost")] * 2
        assert sum(entry.lane == "standard" and entry.status == "ok" for entry in ledger) == 2
        used, held = await fleet.money(job.id)
        assert used >= sum(charge["cost_nano_usd"] for charge in slow.charges(job.id))
        assert held == 0

    _with(scenario, valkey, tmp_path, slow)


def test_a_budget_that_is_short_holds_for_lines_too(valkey: Valkey, tmp_path: Path, vendor: LanesSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=TICKETS, steps=[SORT], deadline="24h", budget_usd="0.00001")

        async def paused() -> bool:
            return (await fleet.runtime.store.stopped(job_id))[0] == "paused"

        async with working(fleet):
            await eventually(paused, "the job to be paused")
        assert not vendor.charges(job_id)
        assert await fleet.money(job_id) == (0, 0)

    _with(scenario, valkey, tmp_path, vendor)


def test_a_batch_that_the_vendor_finds_no_good_is_asked_at_once(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await run(fleet)
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        told = {(entry.lane, entry.status, entry.reason) for entry in ledger}
        assert told == {("batch", "failed", "server"), ("standard", "ok", None)}
        assert len(ledger) == 2 * len(TICKETS)
        await check_books(fleet, vendor, job.id)

    _with(scenario, valkey, tmp_path, vendor, nano=PLAIN)


def test_a_batch_for_which_there_is_no_room_yet_is_sent_later(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await run(fleet, items=TICKETS * 2)
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        assert {(entry.lane, entry.status) for entry in ledger} == {("batch", "ok")}
        batches = fleet.provider.batches
        assert batches is not None
        said = await batches._json("GET", "/batches?limit=100", 5.0)  # type: ignore[attr-defined]
        assert "token_limit_exceeded" in json.dumps(said), "all had room"
        await check_books(fleet, narrow, job.id)

    # Two batches of five lines at the same time, each of which takes a second and a half.
    with lanes_sim(tmp_path / "sim", batch_s=1_500, batch_lines=8) as narrow:
        _with(scenario, valkey, tmp_path, narrow, lanes={"lines": 5, "gather_s": 5})


def test_a_vendor_without_batches_is_asked_at_once(valkey: Valkey, tmp_path: Path, vendor: LanesSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await run(fleet)
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        assert {entry.lane for entry in ledger if entry.status == "ok"} == {"standard"}
        await check_books(fleet, vendor, job.id)

    async def refuse(*_: object) -> str:
        raise ProviderError("It knows no such route.", kind="not_found", retryable=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fleet.providers.vendor_batches.VendorBatches.upload", refuse)
        _with(scenario, valkey, tmp_path, vendor)


async def _true(value: bool) -> bool:
    return value


async def at_the_vendor(fleet: Bench, job_id: str) -> bool:
    """Whether the one lot of a job has a batch, and all its lines."""
    lots = await fleet.runtime.lots.unended(job_id)
    trails = [(await fleet.runtime.store.fields(lot, "trail"))[0] for lot in lots]
    return bool(trails) and all(vendor_batches.State.of(trail or "").handle for trail in trails)


async def _taken_back(fleet: Bench, job_id: str) -> bool:
    return not await fleet.context.lines.lots.unended(job_id)


async def _files(fleet: Bench) -> list[dict[str, Any]]:
    batches = fleet.provider.batches
    assert batches is not None
    said = await batches._json("GET", "/files?limit=100", 5.0)  # type: ignore[attr-defined]
    return list(said["data"])


def _with(
    scenario: Callable[[Bench], Awaitable[None]],
    valkey: Valkey,
    folder: Path,
    vendor: LanesSim,
    *,
    lanes: dict[str, Any] | None = None,
    **others: Any,
) -> None:
    on_bench(scenario, valkey, folder, lanes_config(lanes=lanes, **others), sim=vendor.sim.url)


def test_worker_and_coordinator_are_killed_again_and_again_and_the_books_agree(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim
) -> None:
    config = lanes_config(claim_s=0.8, lanes={"lines": 2, "gather_s": 0.5})
    (tmp_path / "fleet.json").write_text(config.model_dump_json())
    job: list[str] = []

    async def submit(fleet: Bench) -> None:
        job.append(await fleet.submit(items=TICKETS + TICKETS[:3], steps=[SORT], deadline="24h", budget_usd=1))

    async def check(fleet: Bench) -> None:
        assert (await fleet.runtime.jobs.load(job[0])).status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job[0])
        assert {entry.lane for entry in ledger} == {"batch"}
        assert [entry.status for entry in ledger] == ["ok"] * 8
        await check_books(fleet, vendor, job[0])

    on_bench(submit, valkey, tmp_path, config, sim=vendor.sim.url)
    armed = ("joined=3,finished=3", "uploaded=2,batched=2,collected=2,settled=2")
    about = (valkey.url, str(tmp_path), vendor.sim.url, str(tmp_path / "fleet.json"), job[0])
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.dying", *about, *armed],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    deaths = json.loads(done.stdout)
    assert deaths["worker"] >= 3
    assert deaths["coordinator"] >= 4
    on_bench(check, valkey, tmp_path, config, sim=vendor.sim.url)
