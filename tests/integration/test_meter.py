"""What a worker's instruments say after real work: the same as the ledger, the outcomes and the permits, whatever happened."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from fleet.entries import charge
from fleet.jobs import JobStatus
from fleet.ledger import LedgerEntry
from fleet.prices import Usage
from queues.limits import LateError, OutageError, PermitError
from queues.tiers import Allowance
from tests.support.bench import BREAKS, DEAR, GOOD, Bench, bench, config, on_bench
from tests.support.scripted import Reply, scripted
from tests.support.sim import RunningSim
from tests.support.stores import claimed
from tests.support.valkey import Valkey

TOPIC = {"type": "object", "required": ["topic"], "properties": {"topic": {"enum": ["billing", "bug"]}}}
CLASSIFY = {"id": "classify", "each": "items", "tier": "nano", "prompt": "Topic? {{ item }}", "output": TOPIC}
BRIEF = {"id": "brief", "needs": ["classify"], "tier": "mini", "prompt": "Brief."}
WRITE = {"id": "write", "each": "items", "tier": "nano", "prompt": "Write {{ item }}.", "max_output_tokens": 100}


def counted(fleet: Bench) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names) -> value, of what is not at nothing."""
    found = [sample for metric in fleet.runtime.meter.registry.collect() for sample in metric.samples]
    return {(s.name, *(v for _, v in sorted(s.labels.items()))): s.value for s in found if s.value}


def of(fleet: Bench, name: str) -> dict[tuple[str, ...], float]:
    return {key[1:]: value for key, value in counted(fleet).items() if key[0] == name}


def agrees(fleet: Bench, ledger: list[LedgerEntry]) -> None:
    """Calls, tokens and dollars by tier are the ledger's."""
    calls = Counter(
        (entry.model, entry.reason if entry.status == "failed" else entry.status, entry.tier) for entry in ledger
    )
    assert of(fleet, "tierfleet_calls_total") == calls
    dollars: defaultdict[tuple[str], float] = defaultdict(float)
    tokens: Counter[tuple[str, str]] = Counter()
    for entry in ledger:
        dollars[entry.tier,] += entry.cost_nano_usd / 1e9
        tokens["input", entry.tier] += entry.usage.input_tokens - entry.usage.cached_tokens
        tokens["cached_input", entry.tier] += entry.usage.cached_tokens
        tokens["output", entry.tier] += entry.usage.output_tokens
    assert of(fleet, "tierfleet_tokens_total") == {key: number for key, number in tokens.items() if number}
    assert of(fleet, "tierfleet_spent_dollars_total") == pytest.approx(
        {key: sum_ for key, sum_ in dollars.items() if sum_}
    )


def test_a_job_with_rejected_answers_and_a_review_is_counted_as_the_ledger_has_it(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        review = {"prompt": "Write the briefing.", "rounds": 0}
        job = await fleet.run(await fleet.submit(items=["a", "b", "c"], steps=[CLASSIFY, BRIEF], review=review))
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        assert Counter(entry.status for entry in ledger) == {"rejected": 3, "ok": 5}
        agrees(fleet, ledger)
        assert of(fleet, "tierfleet_subtasks_total") == {("ok", "mini"): 4}, (
            "plan, review and gates are no subtasks of it"
        )
        assert of(fleet, "tierfleet_escalations_total") == {("nano",): 3}
        starts = of(fleet, "tierfleet_ready_to_start_seconds_count")
        assert starts["nano",] == 3
        assert starts["mini",] == 4
        assert starts["flagship",] == 1, "the review began"
        answered = of(fleet, "tierfleet_call_seconds_count")
        assert answered == {(model,): Counter(entry.model for entry in ledger)[model] for model in (GOOD, BREAKS, DEAR)}
        permits = of(fleet, "tierfleet_permit_wait_seconds_count")
        # One that was not used soon is given back, and another asked for.
        assert permits.keys() == answered.keys()
        assert all(permits[model] >= calls for model, calls in answered.items())
        for gauge in ("tierfleet_calls_in_flight", "tierfleet_permits_waiting"):
            assert not of(fleet, gauge)

    on_bench(scenario, valkey, tmp_path, config(nano=BREAKS), sim=sim.url)


def test_calls_without_an_answer_are_counted_by_what_the_vendor_did(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        replies: list[Reply | str] = [
            Reply(status=500),
            Reply(status=429, headers={"retry-after-ms": "1"}),
            "Written.",
            Reply(status=400),
        ]
        async with scripted(*replies) as server, bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet:
            first = await fleet.run(await fleet.submit(items=["a"], steps=[WRITE]))
            second = await fleet.run(await fleet.submit(items=["b"], steps=[WRITE]))
            assert second.status is JobStatus.FAILED
            agrees(fleet, [*await fleet.ledger(first.id), *await fleet.ledger(second.id)])
            outcomes = {key[1]: value for key, value in of(fleet, "tierfleet_calls_total").items()}
            assert outcomes == {"server": 1, "rate_limit": 1, "ok": 1, "bad_request": 1}
            assert of(fleet, "tierfleet_call_seconds_count") == {(GOOD,): 1}, "only what was answered is timed"
            assert of(fleet, "tierfleet_subtasks_total") == {("ok", "nano"): 1, ("failed", "nano"): 1}

    asyncio.run(scenario())


def test_looks_at_answers_are_calls_of_their_own_and_no_escalations(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        wrong, right = {"reason": "no", "accept": False}, {"reason": "yes", "accept": True}
        judge = {"tier": "flagship", "prompt": "{{ output }}?"}
        replies: list[str | dict[str, Any]] = ["a line", wrong, "a better line", "no verdict", right]
        async with scripted(*replies) as server, bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet:
            job = await fleet.run(await fleet.submit(items=["a"], steps=[WRITE | {"check": {"judge": judge}}]))
            assert job.status is JobStatus.COMPLETED
            ledger = await fleet.ledger(job.id)
            assert sum(of(fleet, "tierfleet_spent_dollars_total").values()) == pytest.approx(
                sum(entry.cost_nano_usd for entry in ledger) / 1e9
            ), "an answer that waits for a verdict counts once"
            assert of(fleet, "tierfleet_calls_total") == {
                (GOOD, "rejected", "nano"): 1,
                (GOOD, "ok", "mini"): 1,
                (DEAR, "ok", "flagship"): 2,
                (DEAR, "rejected", "flagship"): 1,
            }
            assert of(fleet, "tierfleet_escalations_total") == {("nano",): 1}
            assert of(fleet, "tierfleet_subtasks_total") == {("ok", "mini"): 1}, "it ended at the judge's"

    asyncio.run(scenario())


def test_an_end_that_came_too_late_is_none_and_its_call_counts_all_the_same(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        store = fleet.runtime.store
        job_id = await fleet.submit(items=["a"], steps=[WRITE])
        await fleet.run_until(job_id, "fleet.run_subtask.v1")
        stale = await claimed(store, f"{job_id}/write/0")
        waited = of(fleet, "tierfleet_ready_to_start_seconds_count")["nano",]
        await store.link.execute("ZADD", "fleet:watch", 0, stale.id)
        again = await claimed(store, stale.id)
        assert again.waited_ms is None, "it was running, not waiting"
        assert of(fleet, "tierfleet_ready_to_start_seconds_count")["nano",] == waited
        assert not await store.finish(stale, "ok", "{}")
        assert not of(fleet, "tierfleet_subtasks_total")
        assert await store.hand_on(again, "nano", "")
        assert not of(fleet, "tierfleet_escalations_total"), "it was given back, not handed on"

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_who_gets_no_permit_is_counted_by_why(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        limiter, account = fleet.runtime.limiter, f"openai/{GOOD}"
        how = {"permit_id": "p", "lease_s": 60.0, "patience_s": 0.0}
        with pytest.raises(PermitError):
            await limiter.acquire(account, Allowance(tokens_per_minute=10), tokens=11, **how)  # type: ignore[arg-type]
        await limiter.pause(account, 60)
        with pytest.raises(LateError):
            await limiter.acquire(account, Allowance(), tokens=1, **how)  # type: ignore[arg-type]
        await limiter.shut(account, 60)
        with pytest.raises(OutageError):
            await limiter.acquire(account, Allowance(), tokens=1, sit_out=False, **how)  # type: ignore[arg-type]
        refused = of(fleet, "tierfleet_permits_refused_total")
        assert refused == {(GOOD, "too_large"): 1, (GOOD, "late"): 1, (GOOD, "outage"): 1}
        waiting = asyncio.create_task(
            limiter.acquire(account, Allowance(), tokens=1, permit_id="q", lease_s=60, patience_s=60)
        )
        await asyncio.sleep(0)
        assert of(fleet, "tierfleet_permits_waiting") == {(GOOD,): 1}
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not of(fleet, "tierfleet_permits_waiting")
        assert of(fleet, "tierfleet_permits_refused_total") == refused, "whoever was ended was not refused"

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_tokens_that_were_cached_are_counted_apart(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        usage = Usage(input_tokens=100, cached_tokens=60, output_tokens=20, reasoning_tokens=5)
        entry = LedgerEntry(
            call_id="c",
            job="j",
            role="work",
            tier="nano",
            model=GOOD,
            provider="openai",
            usage=usage,
            cost_nano_usd=250_000_000,
            status="ok",
            started_at=1.0,
            finished_at=2.0,
        )
        await fleet.runtime.store.settle([charge(entry, "r")])
        agrees(fleet, [entry])
        tokens = of(fleet, "tierfleet_tokens_total")
        assert tokens == {("input", "nano"): 40, ("cached_input", "nano"): 60, ("output", "nano"): 20}

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)
