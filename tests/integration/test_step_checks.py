"""A step's own check, by rule and by name, in the runner: what is rejected goes up, what cannot be checked fails and says so."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet import examiners
from fleet.errors import BadInputError
from fleet.jobs import Outcome
from fleet.ledger import LedgerEntry
from tests.support.bench import bench, config
from tests.support.scripted import Reply, scripted
from tests.support.valkey import Valkey

ROOT = Path(__file__).resolve().parents[2]
WRITE: dict[str, Any] = {"id": "write", "each": "items", "tier": "nano", "prompt": "Write {{ item }}."}
CHECKS = {
    name: f"tests.support.operator_checks:{name}"
    for name in ("short", "seen", "raises", "sleeps", "exits", "agrees", "nowhere")
}


@pytest.fixture
def ran(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Outcome, list[LedgerEntry], list[str]]]:
    """Run a step over one item with these replies of its models: its outcome, its ledger, its prompts."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])

    def run(*replies: Any, **step: Any) -> tuple[Outcome, list[LedgerEntry], list[str]]:
        async def scenario() -> tuple[Outcome, list[LedgerEntry], list[str]]:
            async with (
                scripted(*replies) as script,
                bench(valkey, tmp_path, config(checks=CHECKS), openai_base_url=script.url) as fleet,
            ):
                job = await fleet.run(await fleet.submit(items=["it"], steps=[WRITE | step]))
                used, held = await fleet.money(job.id)
                ledger = await fleet.ledger(job.id)
                assert (used, held) == (sum(entry.cost_nano_usd for entry in ledger), 0)
                outcome = (await fleet.outcomes(job))["write/0"]
                return outcome, ledger, [script.prompt(number) for number in range(len(script.calls))]

        return asyncio.run(scenario())

    return run


Ran = Callable[..., tuple[Outcome, list[LedgerEntry], list[str]]]


def test_what_a_named_check_rejects_goes_up_with_its_reason(ran: Ran) -> None:
    outcome, ledger, prompts = ran("far too long", "short", check="short")
    assert (outcome.status, outcome.output, outcome.tier, outcome.error_kind) == ("ok", "short", "mini", None)
    reason = "short: say it in eight characters"
    assert [(entry.status, entry.flaw, entry.reason) for entry in ledger] == [
        ("rejected", "check", reason),
        ("ok", None, None),
    ]
    assert (
        prompts[1]
        == f"{prompts[0]}\n\nAn earlier answer was rejected.\nReason: {reason}\nThe rejected answer:\nfar too long"
    )


def test_a_check_sees_what_its_step_has(ran: Ran) -> None:
    output = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    outcome, *_ = ran('{"n": 1}', check="seen", output=output, max_tier="nano")
    assert outcome.error == "no valid answer up to tier nano: seen: {'n': 1} 'it' {}"
    assert outcome.error_kind == "check"


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        ({"regex": "^[A-Z]{2}-[0-9]+$"}, "no ticket", "AB-12"),
        ({"one_of": ["yes", "no"]}, "maybe", "yes"),
        ({"max_length": 10}, "more than ten", "ten"),
    ],
)
def test_rules(ran: Ran, check: dict[str, Any], bad: str, good: str) -> None:
    outcome, ledger, _ = ran(bad, good, check=check)
    assert (outcome.status, outcome.output, outcome.tier) == ("ok", good, "mini")
    assert [entry.flaw for entry in ledger] == ["check", None]
    assert bad not in str(ledger[0].reason)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("raises", "it raised ValueError"),
        ("sleeps", "it took over 0.5 s"),
        ("exits", "it ended the process that it ran in"),
        ("agrees", "it returned bool, and not None or a reason"),
        ("nowhere", "tests.support.operator_checks:nowhere cannot be imported: AttributeError"),
        ({"regex": "a*a*a*a*a*a*a*b"}, "it took over 0.5 s"),
    ],
)
def test_a_check_that_fails_by_itself_is_no_rejection_and_nobody_is_paid_to_try_again(
    ran: Ran, check: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examiners, "CHECK_S", 0.5)
    outcome, (entry,), _ = ran("a" * 5_000, check=check)
    assert (outcome.status, outcome.error_kind) == ("failed", "check_broken")
    assert outcome.error == f"its check could not be made: {said}"
    assert (entry.status, entry.flaw) == ("rejected", "check_broken")


@pytest.mark.parametrize(
    ("reply", "flaw"),
    [
        (Reply("cut", finish="length"), "truncated"),
        (Reply(""), "empty"),
        (Reply("no", finish="content_filter"), "refusal"),
        ("not JSON", "invalid_json"),
        ("[1]", "schema"),
    ],
)
def test_what_is_no_answer_is_named_in_outcome_and_ledger(ran: Ran, reply: Any, flaw: str) -> None:
    outcome, (entry,), _ = ran(reply, max_tier="nano", output={"type": "object"})
    assert (outcome.status, outcome.error_kind) == ("failed", flaw)
    assert (entry.status, entry.flaw) == ("rejected", flaw)


def test_a_ladder_leaves_a_tier_out(ran: Ran) -> None:
    outcome, ledger, _ = ran("far too long", "short", check="short", ladder=["nano", "flagship"])
    assert (outcome.status, outcome.tier) == ("ok", "flagship")
    assert [entry.tier for entry in ledger] == ["nano", "flagship"]


def test_a_check_that_nobody_registered_is_refused_at_the_door_and_by_a_worker_before_it_pays(
    valkey: Valkey, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with scripted() as script:
            async with bench(valkey, tmp_path, config(checks=CHECKS), openai_base_url=script.url) as fleet:
                with pytest.raises(BadInputError, match=r'no check "shrt" \(did you mean "short"\?\)'):
                    await fleet.submit(items=["it"], steps=[WRITE | {"check": "shrt"}])
                with pytest.raises(BadInputError, match='no check "os:system"'):
                    await fleet.submit(items=["it"], steps=[WRITE | {"check": "os:system"}])
                job_id = await fleet.submit(items=["it"], steps=[WRITE | {"check": "short"}])
            # A worker whose configuration does not have it.
            async with bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet:
                job = await fleet.run(job_id)
                outcome = (await fleet.outcomes(job))["write/0"]
                assert (outcome.status, outcome.attempts) == ("failed", 0)
                assert 'There is no check "short"' in str(outcome.error)

    asyncio.run(scenario())


def test_a_job_whose_steps_are_not_checked_starts_no_examiner(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scripted("short") as script, bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet:
            await fleet.run(await fleet.submit(items=["it"], steps=[WRITE]))
            assert fleet.runtime.examiners._all == set()

    asyncio.run(scenario())
