"""What the simulated vendor keeps of calls in the background, and how it bills one that is cancelled."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from fleet.prices import Usage, cost_nano_usd
from fleet.sim import background, responses
from fleet.sim.background import Background
from fleet.sim.charges import ChargeLog
from fleet.sim.settings import Faults, Latency, SimSettings
from fleet.sim.vendor import Vendor
from tests.support.sim import MODELS, fleet_config

SLOW = Latency(base_s=1000, per_output_token_s=0, per_1k_input_s=0)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def begin(vendor: Vendor, calls: Background, prompt: str = "Name the well.") -> str:
    body = {"model": MODELS[0], "input": prompt, "background": True, "reasoning": {"effort": "low"}}
    asked = responses.read(body)
    answer = json.loads(calls.begin(vendor.admit(asked, json.dumps(body).encode(), prompt)))
    assert (answer["status"], answer["background"], answer["output"]) == ("queued", True, [])
    return str(answer["id"])


def status(calls: Background, ident: str) -> str | None:
    found = calls.find(ident)
    return None if found is None else json.loads(found)["status"]


async def until(calls: Background, ident: str, wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while status(calls, ident) != wanted:  # noqa: ASYNC110  a vendor tells nobody when a call moves on
            await asyncio.sleep(0.001)
    found: dict[str, Any] = json.loads(calls.find(ident) or "")
    return found


def test_cancelled_while_queued_costs_nothing_and_while_written_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "charges.jsonl"
    config = fleet_config(in_flight=1)

    async def run(charges: ChargeLog) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        patient = Vendor(SimSettings(queued_s=1000), config, charges)
        queued = Background(patient)
        ident = begin(patient, queued)
        unbilled = json.loads(queued.cancel(ident) or "")
        # Its place in flight is free again, though the call was cancelled before it did anything.
        begin(patient, queued)

        vendor = Vendor(SimSettings(queued_s=0, latency={MODELS[0]: SLOW}), config, charges)
        calls = Background(vendor)
        ident = begin(vendor, calls)
        await until(calls, ident, "in_progress")
        before = lines(path)
        assert len(before) == 1
        cut = json.loads(calls.cancel(ident) or "")
        assert calls.cancel(ident) == calls.find(ident) == json.dumps(cut)
        return unbilled, before[0], cut

    with ChargeLog(path) as charges:
        unbilled, before, cut = asyncio.run(run(charges))
        charges.bill(
            call_id="next", name=MODELS[0], model=config.models[MODELS[0]], usage=Usage(), request_id="req_next"
        )

    assert (unbilled["status"], unbilled["usage"]) == ("cancelled", None)
    after, following = lines(path)
    assert following["call_id"] == "next"
    assert (cut["status"], cut["usage"]["output_tokens"]) == ("cancelled", after["output_tokens"])
    assert after["output_tokens"] < before["output_tokens"]
    assert after["input_tokens"] == before["input_tokens"]
    used = Usage.model_validate({name: after[name] for name in Usage.model_fields})
    assert after["cost_nano_usd"] == cost_nano_usd(MODELS[0], config.models[MODELS[0]], used) < before["cost_nano_usd"]
    assert {**before, **used.model_dump(), "cost_nano_usd": after["cost_nano_usd"]} == after


def test_a_charge_is_only_amended_to_less(tmp_path: Path) -> None:
    model = fleet_config().models[MODELS[0]]
    with ChargeLog(tmp_path / "charges.jsonl") as charges:
        line = charges.bill(call_id=None, name=MODELS[0], model=model, usage=Usage(output_tokens=1), request_id="r")
        assert line is not None
        with pytest.raises(ValueError, match="smaller"):
            charges.amend(line, Usage(output_tokens=1_000_000))


def test_ended_calls_are_kept_for_a_while_and_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "KEPT", 2)
    monkeypatch.setattr(background, "MAX_KEPT", 4)

    async def run(kept_s: float) -> list[bool]:
        monkeypatch.setattr(background, "KEPT_S", kept_s)
        vendor = Vendor(SimSettings(queued_s=0, speed=1e6), fleet_config(), ChargeLog(None))
        calls = Background(vendor)
        idents = []
        for number in range(6):
            idents.append(begin(vendor, calls, f"Number {number}"))
            await until(calls, idents[-1], "completed")
        return [calls.find(ident) is not None for ident in idents]

    assert asyncio.run(run(0.0)) == [False] * 4 + [True] * 2
    assert asyncio.run(run(600.0)) == [False] * 2 + [True] * 4


def test_more_calls_than_the_vendor_runs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MAX_RUNNING", 1)

    async def run() -> None:
        vendor = Vendor(SimSettings(queued_s=1000), fleet_config(), ChargeLog(None))
        calls = Background(vendor)
        begin(vendor, calls, "one")
        with pytest.raises(Exception, match="Too many"):
            begin(vendor, calls, "two")

    asyncio.run(run())


def test_a_call_that_hangs_stays_in_progress_and_fails_at_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(background, "HANG_S", 0.05)

    async def run(charges: ChargeLog) -> dict[str, Any]:
        vendor = Vendor(SimSettings(queued_s=0, speed=100, faults=Faults(hang=1)), fleet_config(), charges)
        calls = Background(vendor)
        ident = begin(vendor, calls)
        await until(calls, ident, "in_progress")
        return await until(calls, ident, "failed")

    with ChargeLog(tmp_path / "charges.jsonl") as charges:
        answer = asyncio.run(run(charges))
    assert answer["error"]["code"] == "server_error"
    assert len(lines(tmp_path / "charges.jsonl")) == 1
