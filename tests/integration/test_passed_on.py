"""Refusals and cut-off replies in conversations: passed on to who leads one over OpenAI's protocol, no answer in a job."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from fleet.human_audit import HumanAudit
from fleet.jobs import Outcome
from fleet.ledger import LedgerEntry
from fleet.receipt import Receipt
from tests.support.api import Api, requests, served
from tests.support.bench import bench, config
from tests.support.scripted import Reply, Script, scripted
from tests.support.valkey import Valkey


def reply(finish: str = "stop", **message: Any) -> Reply:
    message = {"role": "assistant", "content": None} | message
    return Reply(fields={"choices": [{"index": 0, "finish_reason": finish, "message": message}]})


REFUSED, CUT, WHOLE = reply(refusal="I cannot help."), reply("length", content="half of an ans"), reply(content="So.")
TALK: dict[str, Any] = {
    "id": "talk",
    "tier": "nano",
    "conversation": {"messages": [{"role": "user", "content": "How?"}]},
}
FLAWS = pytest.mark.parametrize(
    ("flawed", "flaw", "finish"), [(REFUSED, "refusal", "stop"), (CUT, "truncated", "length")]
)


def ran(
    valkey: Valkey, folder: Path, *replies: Reply, **fields: Any
) -> tuple[Outcome, list[LedgerEntry], Receipt, Script]:
    """What comes of a conversation that is the step of a job."""

    async def run() -> tuple[Outcome, list[LedgerEntry], Receipt, Script]:
        async with (
            scripted(*replies) as script,
            bench(valkey, folder, config(**fields), openai_base_url=script.url) as fleet,
        ):
            job = await fleet.run(await fleet.submit(steps=[TALK]))
            receipt = await fleet.client.receipt(job)
            return (await fleet.outcomes(job))["talk"], await fleet.ledger(job.id), receipt, script

    return asyncio.run(run())


def shape(ledger: list[LedgerEntry]) -> list[tuple[str, str, str, str | None]]:
    return [(entry.role, entry.tier, entry.status, entry.flaw) for entry in ledger]


@FLAWS
def test_in_a_job_it_is_no_answer_and_goes_up(
    valkey: Valkey, tmp_path: Path, flawed: Reply, flaw: str, finish: str
) -> None:
    outcome, ledger, receipt, script = ran(valkey, tmp_path, flawed, WHOLE)
    assert (outcome.status, outcome.tier, outcome.error_kind) == ("ok", "mini", None)
    assert outcome.output["message"]["content"] == "So."
    assert shape(ledger) == [("work", "nano", "rejected", flaw), ("work", "mini", "ok", None)]
    assert (receipt.accepted, receipt.tiers["nano"].accepted, receipt.tiers["mini"].accepted) == (1, 0, 1)
    assert "An earlier answer was rejected." in str(script.calls[1]["messages"])


@FLAWS
def test_in_a_job_it_fails_at_the_top(valkey: Valkey, tmp_path: Path, flawed: Reply, flaw: str, finish: str) -> None:
    outcome, ledger, receipt, _ = ran(valkey, tmp_path, flawed, flawed, flawed)
    assert (outcome.status, outcome.error_kind, outcome.output) == ("failed", flaw, None)
    assert {entry.flaw for entry in ledger} == {flaw}
    assert (receipt.accepted, receipt.failed, receipt.passed_on) == (0, 1, 0)


async def _client(api: Api) -> AsyncOpenAI:
    return AsyncOpenAI(api_key=await api.key("acme"), base_url=f"{api.url}/v1", max_retries=0, timeout=60)


@FLAWS
def test_who_waits_gets_it_as_the_vendor_gave_it_and_it_is_not_accepted(
    valkey: Valkey, tmp_path: Path, flawed: Reply, flaw: str, finish: str
) -> None:
    async def run() -> None:
        async with (
            scripted(flawed) as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet,
            served(fleet) as api,
            await _client(api) as ai,
        ):
            work = asyncio.create_task(fleet.work())
            raw = await ai.chat.completions.with_raw_response.create(
                model="auto", messages=[{"role": "user", "content": "How?"}]
            )
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            choice = raw.parse().choices[0]
            said = flawed.fields["choices"][0]["message"]
            assert (choice.message.content, choice.message.refusal) == (said["content"], said.get("refusal"))
            assert choice.finish_reason == finish
            job = await fleet.client.job(raw.headers["x-fleet-job"])
            (entry,) = await fleet.ledger(job.id)
            assert (entry.status, entry.flaw) == ("rejected", flaw)
            receipt = await fleet.client.receipt(job)
            assert (receipt.accepted, receipt.failed, receipt.passed_on) == (0, 0, 1)
            assert receipt.tiers[entry.tier].accepted == receipt.tiers[entry.tier].first_try_passed == 0
            assert receipt.cost_per_accepted_nano_usd is None

    asyncio.run(run())


@FLAWS
def test_a_line_of_a_batch_says_what_the_vendor_said_and_is_not_audited(
    valkey: Valkey, tmp_path: Path, flawed: Reply, flaw: str, finish: str
) -> None:
    async def run() -> None:
        async with (
            scripted(flawed) as script,
            bench(valkey, tmp_path, config(audit={"share": 1}), openai_base_url=script.url) as fleet,
            served(fleet) as api,
            await _client(api) as ai,
        ):
            file = await ai.files.create(file=("requests.jsonl", requests(1)), purpose="batch")
            made: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
            batch = await ai.batches.create(input_file_id=file.id, **made)
            job = await fleet.run(f"acme.j{batch.id.removeprefix('batch_')}")
            done = await ai.batches.retrieve(batch.id)
            assert (done.status, done.error_file_id) == ("completed", None)
            assert done.request_counts is not None
            assert done.request_counts.to_dict() == {"total": 1, "completed": 1, "failed": 0}
            line = json.loads((await ai.files.content(str(done.output_file_id))).text)
            choice, said = line["response"]["body"]["choices"][0], flawed.fields["choices"][0]["message"]
            assert (choice["message"]["content"], choice["message"]["refusal"]) == (
                said["content"],
                said.get("refusal"),
            )
            assert choice["finish_reason"] == finish
            (entry,) = await fleet.ledger(job.id)
            assert (entry.status, entry.flaw) == ("rejected", flaw)
            receipt = await fleet.client.receipt(job)
            assert (receipt.accepted, receipt.failed, receipt.passed_on) == (0, 0, 1)
            assert receipt.steps["answer"].passed_on == 1
            assert await HumanAudit(fleet.client, job).sample(1.0) == [], "people are asked about what was accepted"

    asyncio.run(run())
