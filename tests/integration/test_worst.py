"""The most that a call can cost is held, whatever its vendor may bill; and what no call can cost is not booked."""

from __future__ import annotations

import asyncio
import logging
import struct
from pathlib import Path
from typing import Any

import pytest

from fleet.config import FleetConfig
from fleet.jobs import JobStatus, Outcome
from fleet.ledger import AT_MOST, LedgerEntry
from tests.support.bench import GOOD, Bench, bench, config
from tests.support.scripted import Reply, Script, scripted
from tests.support.valkey import Valkey

#: Less output than this nothing is sent with, so that no short budget makes it fit.
WRITE = {"id": "write", "each": "items", "tier": "nano", "max_tier": "nano", "prompt": "{{ item }}"}
LEAST = WRITE | {"max_output_tokens": 16}
SECRET = "xyzzy-prompt"


def usage(given: Any, written: Any, **details: Any) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": given, "completion_tokens": written, "prompt_tokens_details": details}}


def priced(*, model: str = GOOD, provider: Any = None, **price: Any) -> FleetConfig:
    """`config` with other prices of the model of nano and mini, which may have another name."""
    data = config().model_dump(mode="json")
    its = data["models"].pop(GOOD)
    data["models"][model] = its | {"price": its["price"] | price}
    for tier in ("nano", "mini"):
        data["tiers"][tier]["model"] = model
    if provider is not None:
        data["providers"] = {"openai": provider}
    return FleetConfig.model_validate(data)


async def ran(fleet: Bench, **job: Any) -> tuple[JobStatus, list[LedgerEntry], list[Outcome]]:
    """A job's status, ledger and outcomes, once its books were found to agree and its budget to be kept."""
    done = await fleet.run(await fleet.submit(**{"items": [SECRET], "steps": [LEAST]} | job))
    ledger, (used, held) = await fleet.ledger(done.id), await fleet.money(done.id)
    assert (used, held) == (sum(entry.cost_nano_usd for entry in ledger), 0)
    assert done.spec.budget_nano_usd is None or used <= done.spec.budget_nano_usd
    outcomes = await fleet.outcomes(done) if done.status.final else {}
    return done.status, ledger, list(outcomes.values())


def run(valkey: Valkey, folder: Path, conf: FleetConfig, *replies: Reply, **job: Any) -> Any:
    """What `ran` gives, with a vendor of this script; and the script."""

    async def scenario() -> tuple[Any, Script]:
        async with scripted(*replies) as script, bench(valkey, folder, conf, openai_base_url=script.url) as fleet:
            return await ran(fleet, **job), script

    (status, ledger, outcomes), script = asyncio.run(scenario())
    return status, ledger, outcomes, script


def test_a_dearer_service_tier_that_nobody_asked_for_is_held(valkey: Valkey, tmp_path: Path) -> None:
    conf = priced(lanes={"priority": "2"})
    served = Reply("fine", fields=usage(100, 16) | {"service_tier": "priority"})
    status, (entry,), _, script = run(valkey, tmp_path, conf, served)
    assert (status, "service_tier" in script.calls[0]) == (JobStatus.COMPLETED, False)
    assert entry.answered_service_tier == entry.price.context == "priority"
    assert (entry.usage_reported, entry.reason) == (True, None)
    assert entry.cost_nano_usd == 2 * (100 * 200 + 16 * 1_000) <= entry.reserved_nano_usd
    # A budget that is enough for the standard alone is not enough.
    short = f"{entry.reserved_nano_usd * 3 // 4 / 1e9:.9f}"
    status, ledger, _, _ = run(valkey, tmp_path, conf, budget_usd=short)
    assert (status, ledger) == (JobStatus.PAUSED, [])
    # It is for who asks for the standard.
    standard = Reply("fine", fields=usage(100, 16) | {"service_tier": "default"})
    asking = priced(lanes={"priority": "2"}, provider={"service_tier": True})
    status, (cheap,), _, script = run(valkey, tmp_path, asking, standard, budget_usd=short)
    assert (status, script.calls[0]["service_tier"]) == (JobStatus.COMPLETED, "default")
    assert 2 * cheap.reserved_nano_usd == entry.reserved_nano_usd


def test_input_that_is_written_into_a_cache_is_held(valkey: Valkey, tmp_path: Path) -> None:
    conf = priced(cache_write="2.5")
    text = "text of a prompt that is long " * 200
    written = Reply("fine", fields=usage(1_500, 16, cache_write_tokens=1_400))
    status, (entry,), _, _ = run(valkey, tmp_path, conf, written, items=[text])
    assert (status, entry.usage_reported) == (JobStatus.COMPLETED, True)
    assert entry.cost_nano_usd == 100 * 200 + 1_400 * 2_500 + 16 * 1_000 <= entry.reserved_nano_usd
    short = f"{(entry.cost_nano_usd - 1) / 1e9:.9f}"
    status, ledger, _, _ = run(valkey, tmp_path, conf, items=[text], budget_usd=short)
    assert (status, ledger) == (JobStatus.PAUSED, [])


def test_a_call_that_may_be_billed_is_booked_with_its_input_written_into_the_cache(
    valkey: Valkey, tmp_path: Path
) -> None:
    conf = FleetConfig.model_validate(priced(cache_write="2.5").model_dump(mode="json") | {"call_tries": 1})
    _, (entry,), _, _ = run(valkey, tmp_path, conf, Reply(fields={"choices": []}))
    assert (entry.status, entry.reason, entry.usage_reported) == ("failed", "malformed", False)
    assert entry.usage.cache_write_tokens == entry.usage.input_tokens > 0
    assert entry.price.of_tokens(entry.usage) == entry.cost_nano_usd == entry.reserved_nano_usd


def test_a_picture_is_held_by_tiles_where_the_model_counts_so(valkey: Valkey, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 1024, 1024))
    counted = Reply("fine", fields=usage(25_501 + 20, 5))
    items = {"images": {"root": str(folder)}}
    step = LEAST | {"prompt": "What is it?"}
    _, (entry,), _, _ = run(valkey, tmp_path, priced(model="gpt-4o-mini"), counted, items=items, steps=[step])
    assert (entry.images, entry.usage.input_tokens, entry.usage_reported) == (1, 25_521, True)
    assert entry.cost_nano_usd <= entry.reserved_nano_usd


@pytest.mark.parametrize("given", [10**6, 10**12, 10**16, 10**17, 10**30])
@pytest.mark.parametrize("price", ["0.2", "0"])
def test_usage_that_no_call_can_have_is_booked_at_the_most_and_the_answer_stands(
    valkey: Valkey, tmp_path: Path, caplog: pytest.LogCaptureFixture, given: int, price: str
) -> None:
    conf = priced(input=price, output=str(5 * float(price)))
    with caplog.at_level(logging.WARNING):
        status, (entry,), (outcome,), script = run(
            valkey, tmp_path, conf, Reply("fine", fields=usage(given, 5)), budget_usd=5
        )
    assert (status, outcome.status, outcome.output, len(script.calls)) == (JobStatus.COMPLETED, "ok", "fine", 1)
    assert (entry.status, entry.reason, entry.usage_reported) == ("ok", AT_MOST, False)
    assert entry.cost_nano_usd == entry.reserved_nano_usd == entry.price.of_tokens(entry.usage)
    assert entry.usage.total < 1_000 >= outcome.usage.total
    told = [record for record in caplog.records if record.name == "fleet.choices"]
    assert len(told) == 1
    assert SECRET not in caplog.text


def test_output_above_its_limit_is_none_that_a_call_can_have(valkey: Valkey, tmp_path: Path) -> None:
    conf = priced()
    _, (entry,), _, _ = run(valkey, tmp_path, conf, Reply("fine", fields=usage(10, 5_000)))
    assert (entry.reason, entry.usage.output_tokens) == (AT_MOST, 16)


def test_a_vendor_may_add_some_input_of_its_own(valkey: Valkey, tmp_path: Path) -> None:
    """A short prompt, and a long instruction that the vendor puts before it."""
    step = WRITE | {"max_output_tokens": 400}
    _, (entry,), _, _ = run(valkey, tmp_path, priced(), Reply("fine", fields=usage(450, 5)), steps=[step])
    assert (entry.usage.input_tokens, entry.usage_reported, entry.reason) == (450, True, None)
    assert entry.cost_nano_usd == 450 * 200 + 5 * 1_000 <= entry.reserved_nano_usd


def test_what_is_said_of_the_usage_stays_beside_the_verdict(valkey: Valkey, tmp_path: Path) -> None:
    step = LEAST | {"output": {"type": "object", "required": ["topic"]}}
    status, (entry,), (outcome,), _ = run(
        valkey, tmp_path, priced(), Reply("no JSON", fields=usage(10**12, 5)), steps=[step]
    )
    assert (status, outcome.status, entry.status, entry.flaw) == (
        JobStatus.FAILED,
        "failed",
        "rejected",
        "invalid_json",
    )
    assert entry.reason.endswith(f"; {AT_MOST}")
    assert AT_MOST not in str(outcome.error)
