"""Flex and prompt caching, from a job's deadline to the ledger, over the real store and a provider over HTTP."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleet import choices, executor, lanes
from fleet.errors import BadInputError
from fleet.jobs import JobStatus
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.providers.failures import timed_out
from tests.support.bench import BREAKS, Bench, books, on_bench
from tests.support.lanes import LanesSim, lanes_config, price_of
from tests.support.valkey import Valkey

TOPICS = {"type": "object", "additionalProperties": False, "required": ["topic"]} | {
    "properties": {"topic": {"type": "string", "enum": ["billing", "bug", "other"]}}
}
SORT = {"id": "sort", "each": "items", "tier": "nano", "prompt": "Topic? {{ item }}", "output": TOPICS}
TICKETS = ["I was charged twice", "The export crashes", "Hello"]
#: Over 1,024 tokens.
RULES = " ".join(f"Rule {number}: a ticket that names department {number} goes there." for number in range(150))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "FLEX_WAITS_S", (0.0, 0.01, 0.01))


def test_a_job_with_time_runs_as_flex_at_half_the_price(valkey: Valkey, tmp_path: Path, vendor: LanesSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(items=TICKETS, steps=[SORT], deadline="30m"))
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        assert {(entry.lane, entry.answered_service_tier) for entry in ledger} == {("flex", "flex")}
        charges = vendor.charges(job.id)
        assert [charge["cost_nano_usd"] for charge in charges] == [price_of(charge, "flex") for charge in charges]
        assert await fleet.money(job.id) == (books(ledger, charges, job.id), 0)
        assert {request.timeout_s for request in fleet.provider.asked} == {
            3 * fleet.runtime.config.tiers["nano"].timeout_s
        }

    _with(scenario, valkey, tmp_path, vendor, batch=False)


def test_without_a_deadline_or_with_a_near_one_everything_is_asked_at_once(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        steps = [SORT | {"id": "now", "deadline": 30}, SORT]
        for deadline, lanes_of in ((None, {"now": "standard", "sort": "standard"}), (1_000, {"sort": "flex"})):
            job_id = await fleet.submit(items=TICKETS[:1], steps=steps, deadline=deadline)
            await fleet.run(job_id)
            ledger = await fleet.ledger(job_id)
            assert {entry.step: entry.lane for entry in ledger} == {"now": "standard"} | lanes_of
            assert await fleet.money(job_id) == (books(ledger, vendor.charges(job_id), job_id), 0)

    _with(scenario, valkey, tmp_path, vendor, batch=False)


def test_flex_without_room_is_asked_again_and_then_the_standard(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        with vendor.faults(flex_unavailable=1):
            job = await fleet.run(await fleet.submit(items=TICKETS, steps=[SORT], deadline="30m"))
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        for number in range(len(TICKETS)):
            calls = [entry for entry in ledger if entry.subtask == f"{job.id}/sort/{number}"]
            told = [(entry.lane, entry.reason, entry.cost_nano_usd > 0) for entry in calls]
            assert told == [("flex", "unavailable", False)] * 3 + [("standard", None, True)]
        assert await fleet.money(job.id) == (books(ledger, vendor.charges(job.id), job.id), 0)

    _with(scenario, valkey, tmp_path, vendor, batch=False)


def test_flex_that_waits_at_the_vendor_ends_early_enough_for_a_call_at_once(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(fleet: Bench) -> None:
        late = [0.0]
        monkeypatch.setattr(choices, "time", SimpleNamespace(time=lambda: time.time() + late[0]))
        monkeypatch.setattr(
            executor, "time", SimpleNamespace(time=lambda: time.time() + late[0], monotonic=time.monotonic)
        )
        whole = fleet.provider.complete

        async def queued(request: ModelRequest, started: Started | None = None) -> Completion:
            if request.service_tier != "flex":
                return await whole(request, started)
            fleet.provider.asked.append(request)
            late[0] += request.timeout_s
            raise timed_out("openai", request.timeout_s)

        monkeypatch.setattr(fleet.provider, "complete", queued)
        job = await fleet.run(await fleet.submit(items=TICKETS[:1], steps=[SORT], deadline=301))
        assert job.status is JobStatus.COMPLETED
        assert [(entry.lane, entry.reason) for entry in await fleet.ledger(job.id)] == [
            ("flex", "timeout"),
            ("standard", None),
        ]
        flex, plain = fleet.provider.asked
        # Three times as long as a call at once may take would be 360 s.
        assert 180 < flex.timeout_s <= 301 - 120
        assert plain.timeout_s == 120
        assert late[0] + plain.timeout_s <= 301
        assert (await fleet.money(job.id))[1] == 0

    _with(scenario, valkey, tmp_path, vendor, batch=False)


def test_flex_whose_permit_came_too_late_is_asked_at_once(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "time", SimpleNamespace(time=lambda: time.time() + 80))

    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(items=TICKETS, steps=[SORT], deadline=300, budget_usd=1))
        assert job.status is JobStatus.COMPLETED
        assert {(request.service_tier, request.timeout_s) for request in fleet.provider.asked} == {("default", 120)}
        ledger = await fleet.ledger(job.id)
        assert {(entry.lane, entry.answered_service_tier) for entry in ledger} == {("standard", "default")}
        assert await fleet.money(job.id) == (books(ledger, vendor.charges(job.id), job.id), 0)

    _with(scenario, valkey, tmp_path, vendor, batch=False)


def test_flex_that_is_served_as_the_standard_is_held_and_booked_so(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        with vendor.faults(flex_as_standard=1):
            job = await fleet.run(await fleet.submit(items=TICKETS, steps=[SORT], deadline="30m", budget_usd=1))
        ledger = await fleet.ledger(job.id)
        assert {(entry.lane, entry.answered_service_tier) for entry in ledger} == {("flex", "default")}
        charges = vendor.charges(job.id)
        assert [charge["cost_nano_usd"] for charge in charges] == [price_of(charge, "standard") for charge in charges]
        assert await fleet.money(job.id) == (books(ledger, charges, job.id), 0)

    _with(scenario, valkey, tmp_path, vendor, batch=False)


def test_the_books_agree_under_faults_of_every_kind(valkey: Valkey, tmp_path: Path, vendor: LanesSim) -> None:
    async def scenario(fleet: Bench) -> None:
        faults = {"error_5xx": 0.1, "rate_limited": 0.1, "refusal": 0.1, "truncation": 0.1}
        with vendor.faults(**faults, flex_unavailable=0.3, flex_as_standard=0.3):
            job = await fleet.run(await fleet.submit(items=TICKETS * 5, steps=[SORT], deadline="30m", budget_usd=5))
        assert job.status.final
        ledger = await fleet.ledger(job.id)
        assert {entry.lane for entry in ledger} == {"flex", "standard"} or {entry.lane for entry in ledger} == {"flex"}
        assert await fleet.money(job.id) == (books(ledger, vendor.charges(job.id), job.id), 0)

    _with(scenario, valkey, tmp_path, vendor, batch=False, nano=BREAKS)


def test_long_instructions_are_served_from_the_cache_and_priced_so(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=TICKETS, steps=[SORT | {"instructions": RULES}])
        for _ in TICKETS:  # one after the other: what runs side by side meets no cache
            ((first, tier), *others) = await _ready(fleet)
            await fleet.perform(first, tier)
            for other, its in others:
                claim = await fleet.runtime.store.claim(other.id, its)
                await fleet.runtime.store.hand_on(claim, its, "")  # type: ignore[arg-type]
        job = await fleet.run(job_id)
        ledger = await fleet.ledger(job.id)
        assert ledger[0].usage.cached_tokens == 0
        assert all(1_024 <= entry.usage.cached_tokens < entry.usage.input_tokens for entry in ledger[1:])
        assert all(entry.cost_nano_usd < 0.5 * ledger[0].cost_nano_usd for entry in ledger[1:])
        assert len({request.cache_key for request in fleet.provider.asked}) == 1
        assert all(RULES not in str(request.cache_key) for request in fleet.provider.asked)
        receipt = await fleet.client.receipt(job)
        assert receipt.tiers["nano"].cached_tokens == sum(entry.usage.cached_tokens for entry in ledger)
        assert await fleet.money(job.id) == (books(ledger, vendor.charges(job.id), job.id), 0)

    _with(scenario, valkey, tmp_path, vendor)


def test_what_is_asked_of_the_items_of_a_step_has_its_longest_beginning_in_common(
    valkey: Valkey, tmp_path: Path, vendor: LanesSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        step = SORT | {"prompt": "Sort as follows. " + RULES + "\nThe ticket: {{ item }}\nAnswer now."}
        job = await fleet.run(await fleet.submit(items=TICKETS, steps=[step]))
        assert job.status is JobStatus.COMPLETED
        constant = "Sort as follows. " + RULES + "\nThe ticket: "
        first = [request for request in fleet.provider.asked if request.call_id.endswith(".1")]
        for request in fleet.provider.asked:
            assert request.prompt.startswith(constant)
        # What comes of a rejected answer stands behind all that its first asking had.
        again = [request for request in fleet.provider.asked if "An earlier answer was rejected" in request.prompt]
        assert len(again) == len(TICKETS)
        assert all(any(later.prompt.startswith(earlier.prompt) for earlier in first) for later in again)

    _with(scenario, valkey, tmp_path, vendor, nano=BREAKS)


def test_a_step_has_no_more_time_than_its_job(valkey: Valkey, tmp_path: Path, vendor: LanesSim) -> None:
    async def scenario(fleet: Bench) -> None:
        with pytest.raises(BadInputError, match=r"steps\.sort\.deadline is 7200 s, later than the job's of 3600 s"):
            await fleet.submit(items=TICKETS, steps=[SORT | {"deadline": "2h"}], deadline="1h")

    _with(scenario, valkey, tmp_path, vendor)


async def _ready(fleet: Bench):  # type: ignore[no-untyped-def]
    """The subtasks of the plan that are ready, everything else having run."""
    while True:
        released = await fleet.release()
        steps = [(one, tier) for one, tier in released if "/sort/" in one.id]
        for one, tier in released:
            if "/sort/" not in one.id:
                await fleet.perform(one, tier)
        if steps:
            return steps


def _with(
    scenario: Callable[[Bench], Awaitable[None]],
    valkey: Valkey,
    folder: Path,
    vendor: LanesSim,
    *,
    batch: bool = True,
    **tiers: Any,
) -> None:
    on_bench(scenario, valkey, folder, lanes_config(batch=batch, **tiers), sim=vendor.sim.url)
