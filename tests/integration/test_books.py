"""The books of real runs: every row is whole, comes to its cost by itself, and the receipt is what the rows come to.

What kills do to them is tests/chaos' to judge; here they are right in whatever a job goes through without one.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fleet import failures
from fleet.config import FleetConfig
from fleet.control import Control
from fleet.jobs import JobSpec, JobStatus, Step
from fleet.ledger import LedgerEntry
from fleet.prices import Usage
from fleet.replay import adds_up, replay
from fleet.results import read_books
from fleet.session import finished
from tests.support.bench import BREAKS, DEAR, GOOD, Bench, bench, books, config, on_bench
from tests.support.scripted import Reply, scripted
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

TOPIC = {
    "id": "topic",
    "each": "items",
    "kind": "ticket-topic",
    "tier": "nano",
    "prompt": "Topic? {{ item }}",
    "output": {"type": "object", "required": ["topic"], "properties": {"topic": {"enum": ["bug", "billing"]}}},
}
NOTE = {"id": "note", "each": "items", "needs": ["topic"], "tier": "mini", "prompt": "Note on {{ topic.topic }}."}
REVIEW = {"prompt": "Brief the team.", "rounds": 1}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "BACKOFF_S", 0.005)


def test_a_run_with_escalations_and_rework_closes_its_books(
    valkey: Valkey, tmp_path: Path, demanding_sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        items = [f"ticket {n}" for n in range(12)]
        job = await fleet.run(await fleet.submit(items=items, steps=[TOPIC, NOTE], review=REVIEW, budget_usd="5"))
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        _, _, receipt, _ = await finished(fleet.client, job.id, tmp_path / "out", demanding_sim.charges_path)

        # Σ rows = Σ what was charged = Σ of usage at the rows' own prices = what the budget has as used.
        total = books(ledger, demanding_sim.charges(), job.id)
        assert total == receipt.cost_nano_usd == (await fleet.money(job.id))[0]
        assert total == sum(of_its_own(entry) for entry in ledger)
        assert receipt.tiers["nano"].rejected == 12, "every answer of the first tier breaks its schema"
        rows = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()]
        assert sum(recomputed(row) for row in rows) == total
        for entry in ledger:
            whole(entry, tenant="default")
        assert {entry.role for entry in ledger} == {"work", "review"}
        climbs = {(entry.step, entry.came_from, entry.tier) for entry in ledger if entry.role == "work"}
        first = {("topic", None, "nano"), ("topic", "nano", "mini"), ("note", None, "mini")}
        sent_back = {("topic", "mini", "flagship"), ("note", "mini", "flagship")}
        assert first < climbs <= first | sent_back
        counted_in_order(ledger)
        assert receipt.budget is not None
        assert (receipt.budget.cap_nano_usd, receipt.budget.reserved_nano_usd) == (5_000_000_000, 0)

        told, again, outcomes, verdicts = read_books(tmp_path / "out")
        found = replay(told, again, outcomes, verdicts, fleet.runtime.config)
        assert found.complaints == ()
        assert found.receipt == told == receipt
        charged = [json.loads(line) for line in (tmp_path / "out" / "charges.jsonl").read_text().splitlines()]
        assert sum(charge["cost_nano_usd"] for charge in charged) == total

    on_bench(scenario, valkey, tmp_path, config(nano=BREAKS), sim=demanding_sim.url)


def test_what_vendors_say_is_in_the_row_and_billed(valkey: Valkey, tmp_path: Path) -> None:
    """Failed calls count as attempts, a retried job goes on counting, and each row is billed as it was served."""
    price = {"input": "1", "cached_input": "0.1", "cache_write": "1.25", "output": "10", "lanes": {"priority": "2"}}
    prices = {name: {"context_tokens": 100_000, "price": price} for name in (GOOD, BREAKS, DEAR)}
    details = {"cached_tokens": 50, "cache_write_tokens": 20}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": details}
    step = {"id": "write", "tier": "nano", "max_tier": "nano", "prompt": "Write.", "output": {"type": "object"}}

    async def run() -> None:
        async with (
            scripted(
                Reply(status=500),
                Reply("no object", fields={"usage": usage}),
                Reply(status=503),
                Reply('{"a": 1}', fields={"service_tier": "priority"}),
            ) as server,
            bench(valkey, tmp_path, config(models=prices), openai_base_url=server.url) as fleet,
        ):
            job = await fleet.run(
                await fleet.client.submit(JobSpec(name="test", steps=(Step.model_validate(step),)), tenant="acme")
            )
            assert job.status is JobStatus.FAILED
            assert await Control(fleet.runtime).retry_failed(job.id) == 1
            job = await fleet.run(job.id)
            assert job.status is JobStatus.COMPLETED
            ledger = await fleet.ledger(job.id)
            assert [entry.attempt for entry in ledger] == [1, 2, 3, 4]
            assert [entry.status for entry in ledger] == ["failed", "rejected", "failed", "ok"]
            for entry in ledger:
                whole(entry, tenant="acme")
            failed, rejected, _, served = ledger
            assert (failed.cost_nano_usd, failed.usage) == (0, Usage())
            assert rejected.usage == Usage(input_tokens=100, cached_tokens=50, cache_write_tokens=20, output_tokens=20)
            assert rejected.cost_nano_usd == 30_000 + 5_000 + 25_000 + 200_000
            assert (served.answered_service_tier, served.cost_nano_usd) == ("priority", 2 * 300_000)
            assert served.price is not None
            assert served.price.context == "priority"
            receipt = await fleet.client.receipt(job)
            assert receipt.cache_saved_nano_usd == 50 * 900 - 20 * 250
            assert receipt.price_unknown_calls == 0

    asyncio.run(run())


def test_a_model_that_nobody_has_a_price_for_is_not_asked(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    """A fleet does not start so; a worker whose configuration has changed since says it of the subtask."""

    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(
            await fleet.submit(steps=[{"id": "write", "tier": "nano", "prompt": "Write."}], budget_usd=1)
        )
        outcome = (await fleet.outcomes(job))["write"]
        assert outcome.status == "failed"
        assert 'No price is known for the model "unheard-of"; give models.unheard-of.price' in str(outcome.error)
        assert fleet.provider.asked == []
        assert await fleet.ledger(job.id) == []
        assert await fleet.money(job.id) == (0, 0)

    made = config().model_dump()
    made["models"]["unheard-of"] = {"context_tokens": 100_000}
    made["tiers"]["nano"]["model"] = "unheard-of"
    on_bench(scenario, valkey, tmp_path, FleetConfig.model_validate(made), sim=sim.url)


def whole(entry: LedgerEntry, tenant: str) -> None:
    """Every field that is known of a call is filled, and its cost comes of the row alone."""
    assert entry.tenant == tenant
    assert entry.attempt >= 1
    assert entry.reserved_nano_usd > 0
    assert entry.kind
    assert entry.step
    assert entry.price is not None
    assert entry.price.source == "config"
    assert (entry.answered_model is not None) == (entry.status != "failed")
    assert adds_up(entry)


def of_its_own(entry: LedgerEntry) -> int:
    assert entry.price is not None
    return entry.price.of_tokens(entry.usage) + entry.fees_nano_usd


def recomputed(row: dict[str, Any]) -> int:
    """The cost of a line of ledger.jsonl, by whoever has nothing but the line."""
    price, usage = row["price"], row["usage"]
    plain = usage["input_tokens"] - usage["cached_tokens"] - usage["cache_write_tokens"]
    dollars = (
        plain * Decimal(price["input"])
        + usage["cached_tokens"] * Decimal(price["cached_input"])
        + usage["cache_write_tokens"] * Decimal(price["cache_write"])
        + usage["output_tokens"] * Decimal(price["output"])
    ) / 1_000_000
    return int(dollars * 10**9 + Decimal("0.5")) + int(row["fees_nano_usd"])


def counted_in_order(ledger: Iterable[LedgerEntry]) -> None:
    """The calls of each subtask are numbered as they were made, from 1, none twice."""
    by_subtask: dict[str, list[int]] = defaultdict(list)
    for entry in ledger:
        by_subtask[str(entry.subtask)].append(entry.attempt)
    assert all(attempts == list(range(1, len(attempts) + 1)) for attempts in by_subtask.values()), dict(by_subtask)
