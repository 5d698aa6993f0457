"""Schemas and answers that would stop a worker, or spoil an export: they cost their own job, and nobody else's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fleet import checks, examiners, jobs
from fleet.jobs import JobSpec
from fleet.ledger import LedgerEntry
from fleet.results import ResultNotWrittenError
from fleet.session import finished
from tests.support.bench import bench, config
from tests.support.scripted import Reply, scripted
from tests.support.valkey import Valkey

STEP: dict[str, Any] = {
    "id": "write",
    "each": "items",
    "tier": "nano",
    "max_tier": "nano",
    "prompt": "Write {{ item }}.",
}
#: Short; what it asks for doubles at each of its levels.
FORKS: dict[str, Any] = {
    "$defs": {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(26)}
    | {"d26": {"type": "array"}},
    "$ref": "#/$defs/d0",
}
#: Each level of an answer is gone through twice as often as the one above it.
DEEPER: dict[str, Any] = {"type": "array", "allOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]}
SLOW: dict[str, Any] = {"type": "array", "items": {"pattern": "a*a*a*a*a*a*a*b"}}


@pytest.mark.parametrize(
    ("schema", "answer"), [(SLOW, f'["{"a" * 5_000}"]'), (DEEPER, "[" * 60 + "]" * 60), (FORKS, "[]")]
)
def test_a_worker_goes_on_with_what_others_ask_and_says_what_became_of_these(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any], answer: str
) -> None:
    """In its event loop the check would take for ever, and so would everything else there."""
    monkeypatch.setattr(examiners, "CHECK_S", 0.5)
    if schema is FORKS:  # as a version accepted it that did not count
        monkeypatch.setattr(jobs, "check_schema", lambda _: None)

    async def scenario() -> None:
        async with (
            scripted(Reply(answer), Reply(answer)) as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet,
        ):
            steps = [STEP | {"output": schema}, STEP | {"id": "fine", "output": {"type": "array"}}]
            job = await fleet.run(await fleet.submit(items=["it"], steps=steps))
            outcomes, ledger = await fleet.outcomes(job), await fleet.ledger(job.id)
            assert await fleet.money(job.id) == (sum(entry.cost_nano_usd for entry in ledger), 0)
        assert (outcomes["fine/0"].status, outcomes["fine/0"].output) == ("ok", json.loads(answer))
        assert (outcomes["write/0"].status, outcomes["write/0"].error_kind) == ("failed", "check_broken")
        assert outcomes["write/0"].error == "its check could not be made: it took over 0.5 s"
        assert {entry.step: entry.flaw for entry in ledger} == {"write": "check_broken", "fine": None}

    asyncio.run(scenario())


def test_what_forks_for_ever_is_refused_where_it_comes_in() -> None:
    with pytest.raises(ValidationError, match="too much to check"):
        JobSpec.model_validate({"name": "x", "steps": [STEP | {"output": FORKS}]})


def test_an_answer_nested_too_deep_is_rejected_and_the_job_is_exported(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            scripted(Reply("[" * 300 + "]" * 300)) as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet,
        ):
            job = await fleet.run(await fleet.submit(items=["it"], steps=[STEP | {"output": {"type": "array"}}]))
            await finished(fleet.client, job.id, tmp_path / "out", None)
            (entry,) = await fleet.ledger(job.id)
            assert (entry.status, entry.flaw) == ("rejected", "schema")
        assert "nested too deep" in (tmp_path / "out" / "results.jsonl").read_text()

    asyncio.run(scenario())


def test_an_answer_that_cannot_be_written_costs_no_books(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a version accepted it that knew no depth."""
    monkeypatch.setattr(checks, "DEEPEST", 1_000)

    async def scenario() -> None:
        async with (
            scripted(Reply("[" * 300 + "]" * 300)) as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet,
        ):
            job = await fleet.run(await fleet.submit(items=["it"], steps=[STEP | {"output": {"type": "array"}}]))
            with pytest.raises(ResultNotWrittenError, match=r"receipt and ledger are in .*, but not its results"):
                await finished(fleet.client, job.id, tmp_path / "out", None)
            lines = (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()
            assert [LedgerEntry.model_validate_json(line) for line in lines] == await fleet.ledger(job.id)
            assert len(lines) == 1

    asyncio.run(scenario())
