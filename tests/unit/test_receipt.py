"""The receipt: sums that hold, an order that does not matter, and an estimate that says what it is."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from fleet.config import FleetConfig, ModelConfig, Price, TierConfig
from fleet.jobs import JobStatus, Outcome
from fleet.ledger import LedgerEntry
from fleet.prices import Usage, tariff
from fleet.quality import quality
from fleet.receipt import Budget, Receipt, StepReceipt, Tally, TierReceipt
from fleet.receipt_view import duration, fine_usd, render_receipt, tokens


def model(input_price: str, output_price: str) -> ModelConfig:
    return ModelConfig(context_tokens=1000, price=Price(input=Decimal(input_price), output=Decimal(output_price)))


CONFIG = FleetConfig(
    models={"small": model("0.1", "1"), "middle": model("1", "10"), "big": model("10", "100")},
    tiers={
        "nano": TierConfig(model="small", escalate_to="mini"),
        "mini": TierConfig(model="middle", escalate_to="flagship"),
        "flagship": TierConfig(model="big"),
    },
)


def entry(number: int, **changes: Any) -> LedgerEntry:
    values: dict[str, Any] = {
        "call_id": f"c{number}",
        "job": "j",
        "subtask": "s1",
        "step": "classify",
        "role": "work",
        "tier": "nano",
        "model": "small",
        "provider": "openai",
        "usage": Usage(input_tokens=1000, output_tokens=100),
        "cost_nano_usd": 200_000,
        "status": "ok",
        "started_at": float(number),
        "finished_at": number + 0.5,
    }
    return LedgerEntry(**{**values, **changes})


def receipt(entries: list[LedgerEntry], outcomes: list[Outcome], **changes: Any) -> Receipt:
    values: dict[str, Any] = {
        "job_id": "j",
        "name": "triage",
        "status": JobStatus.COMPLETED,
        "simulated": False,
        "wall_s": 12.0,
    }
    tally = Tally(changes.pop("config", CONFIG))
    for one in entries:
        tally.add(one)
    for outcome in outcomes:
        tally.count(outcome)
    return tally.receipt(**{**values, **changes})


def shown(value: Receipt, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(render_receipt(value))
    return out.getvalue()


def an_escalated_job() -> Receipt:
    entries = [
        entry(1, status="failed", usage=Usage(), cost_nano_usd=0, waited_ms=1500),
        entry(2, status="rejected", reason="no such topic", latency_ms=500),
        entry(3, tier="mini", model="middle", cost_nano_usd=2_000_000, latency_ms=700),
        entry(4, subtask="s2", usage_reported=False),
        entry(5, subtask="s3", status="rejected"),
        entry(6, subtask=None, step=None, role="plan", tier="flagship", model="big", cost_nano_usd=20_000_000),
        entry(7, subtask=None, step=None, role="review", tier="flagship", model="big", cost_nano_usd=30_000_000),
    ]
    outcomes = [
        Outcome(step="classify", status="ok", tier="mini"),
        Outcome(step="classify", status="ok", tier="nano"),
        Outcome(step="classify", status="failed", error="no", tier="nano"),
        Outcome(step="summarise", status="skipped"),
    ]
    return receipt(entries, outcomes, queue_s=2.0, skipped_items=3, gaps=1, simulated=True)


def test_an_escalated_job() -> None:
    value = an_escalated_job()
    nano, mini, flagship = value.tiers.values()
    assert list(value.tiers) == ["nano", "mini", "flagship"]
    assert (nano.calls, nano.rejected, nano.failed, nano.accepted) == (4, 2, 1, 1)
    # Of the three answered on nano one passed at once; waiting for a failed provider is no try.
    assert (nano.tried, nano.first_try_passed, nano.escalated_from) == (3, 1, 1)
    assert (mini.tried, mini.first_try_passed, mini.escalated_from, mini.accepted) == (1, 1, 0, 1)
    assert (flagship.calls, flagship.tried, flagship.accepted) == (2, 0, 0)
    assert value.roles == {"plan": 20_000_000, "review": 30_000_000, "work": 2_600_000}
    assert value.cost_nano_usd == 52_600_000
    assert (value.accepted, value.failed, value.skipped) == (2, 1, 1)
    assert value.cost_per_accepted_nano_usd == 26_300_000
    # Two accepted calls of 1,000 in and 100 out at $10 and $100 a million, planning and review as they were.
    assert value.flagship_alone_nano_usd == 2 * 20_000_000 + 50_000_000
    assert value.saving_share == pytest.approx(1 - 52.6 / 90)
    assert value.flagship_token_share == pytest.approx(2 / 6)
    assert value.usage_estimated_calls == 1
    assert value.waited_for_s == {"queue": 2.0, "permit": 1.5, "provider": 1.2}
    assert Receipt.model_validate_json(value.model_dump_json()) == value


def test_a_subtask_that_was_reworked_counts_its_first_prompt_and_its_last_answer_once() -> None:
    entries = [
        entry(1, usage=Usage(input_tokens=1, output_tokens=9)),
        entry(2, fence=2, usage=Usage(input_tokens=7, output_tokens=2)),
    ]
    value = receipt(entries, [Outcome(step="a", status="ok", tier="nano")])
    assert value.flagship_alone_nano_usd == 10_000 + 2 * 100_000


def test_a_job_without_calls() -> None:
    value = receipt([], [])
    assert (value.cost_nano_usd, value.tiers, value.cost_per_accepted_nano_usd) == (0, {}, None)
    assert (value.flagship_alone_nano_usd, value.saving_share, value.flagship_token_share) == (0, None, 0.0)
    assert "total" in shown(value)


def test_no_price_is_no_failure() -> None:
    unknown = CONFIG.model_copy(update={"models": {**CONFIG.models, "big": ModelConfig(context_tokens=1)}})
    value = receipt([entry(1)], [], config=unknown)
    assert value.flagship_alone_nano_usd is None
    assert value.saving_share is None
    assert "No price is known" in value.estimate
    assert "No price is known" in " ".join(shown(value).split())


amounts = st.integers(min_value=0, max_value=10**9)
entries_ = st.lists(
    st.builds(
        entry,
        st.integers(min_value=0, max_value=50),
        subtask=st.sampled_from(["s1", "s2", "s3", None]),
        role=st.sampled_from(["plan", "work", "review", "reduce"]),
        tier=st.sampled_from(["nano", "mini", "flagship", "extra"]),
        status=st.sampled_from(["ok", "rejected", "failed"]),
        cost_nano_usd=amounts,
        usage=st.builds(Usage, input_tokens=amounts, output_tokens=amounts),
        started_at=st.floats(min_value=0, max_value=100),
    ),
    max_size=30,
    unique_by=lambda value: value.call_id,
)
outcomes_ = st.lists(
    st.builds(
        Outcome,
        step=st.just("a"),
        status=st.sampled_from(["ok", "failed", "skipped"]),
        tier=st.sampled_from(["nano", "mini", "flagship", "extra"]),
    ),
    max_size=10,
)


@settings(deadline=None)
@given(entries_, outcomes_, st.randoms())
def test_the_sums_hold_and_the_order_does_not_matter(
    entries: list[LedgerEntry], outcomes: list[Outcome], random: Any
) -> None:
    value = receipt(entries, outcomes)
    tiers = list(value.tiers.values())
    assert value.cost_nano_usd == sum(e.cost_nano_usd for e in entries)
    assert value.cost_nano_usd == sum(tier.cost_nano_usd for tier in tiers) == sum(value.roles.values())
    assert value.calls == len(entries) == sum(tier.calls for tier in tiers)
    assert sum(tier.tokens for tier in tiers) == sum(e.usage.total for e in entries)
    assert value.accepted == sum(tier.accepted for tier in tiers)
    assert value.accepted + value.failed + value.skipped == len(outcomes)
    for tier in tiers:
        assert tier.first_try_passed <= tier.tried <= tier.calls - tier.failed
        assert tier.escalated_from <= 3
    shuffled = list(entries)
    random.shuffle(shuffled)
    assert receipt(shuffled, outcomes[::-1]) == value
    assert all(len(line) <= 80 for line in shown(value).splitlines())


def test_the_receipt_reads_in_80_columns() -> None:
    text = shown(an_escalated_job())
    assert "Simulated provider" in text
    assert "an estimate" not in shown(receipt([], [])).splitlines()[0]
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0] == "Receipt: triage"
    assert lines[1] == "Job j, completed in 12s."
    nano = next(line for line in lines if line.startswith("nano"))
    assert nano.split() == ["nano", "4", "3.0k", "0", "300", "1", "33%", "1", "$0.0006"]
    assert "2 accepted, 1 failed, 1 skipped; inputs not read: 3; gaps: 1" in " ".join(text.split())
    assert "about $0.0900: 42% saved" in text
    assert "An estimate, not a measurement" in text


def test_big_numbers_fit() -> None:
    big = TierReceipt(
        calls=12_345_678,
        input_tokens=98_765_432_109,
        cached_tokens=98_765_432_109,
        output_tokens=9_876_543_210,
        accepted=12_345_678,
        tried=3,
        first_try_passed=3,
        escalated_from=1_234_567,
        cost_nano_usd=12_345_670_000_000,
    )
    value = an_escalated_job().model_copy(update={"tiers": dict.fromkeys(("nano", "mini", "flagship"), big)})
    text = shown(value)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    assert text.count("$12345.67") == 3


def test_all_of_it_is_legible_in_80_columns_however_wide_its_values() -> None:
    much = 12_345_670_000_000
    value = an_escalated_job().model_copy(
        update={
            "roles": dict.fromkeys(("audit", "check", "plan", "reduce", "review", "work"), much),
            "lanes": dict.fromkeys(("batch", "flex", "standard"), much),
            "steps": {f"a_step_with_a_long_name_{i:02}": StepReceipt(cost_nano_usd=much + i) for i in range(20)},
            "quality": (
                quality("ticket-topic", "nano", 12_345_678, 12_000_000),
                quality("k" * 60, "t" * 40, 40, 38),
                *(quality(f"kind{i:02}", "mini", 3, 0) for i in range(30)),
            ),
            "budget": Budget(cap_nano_usd=99_999_670_000_000, reserved_nano_usd=much),
            "cache_saved_nano_usd": much,
            "price_unknown_calls": 1_234_567,
            "accepted": 12_345_678,
        }
    )
    lines = shown(value).splitlines()
    text = " ".join(" ".join(lines).split())
    assert all(len(line) <= 80 for line in lines)
    # Cost of an accepted outcome, acceptance and audited quality stand together.
    assert "Per accepted outcome $0.0263, 100% accepted, 97% of 12,345,808 audited right (97-98%)" in text
    assert "By lane batch $12345.67, flex $12345.67, standard $12345.67" in text
    assert "a_step_with_a_long_name_19 $12345.67" in text
    assert "8 more $98765.36" in text
    assert "Budget $99999.67: $0.0526 spent, $12345.67 reserved, $87653.95 left" in text
    assert "saved $12345.67" in text
    assert "no known price (booked as asked): 1,234,567." in text
    topic = next(line for line in lines if line.startswith("ticket-topic"))
    assert topic.split() == ["ticket-topic", "nano", "12.35M", "12.00M", "97%", "97-98%"]
    long = next(line for line in lines if line.startswith("kkkk"))
    assert long.split()[2:] == ["40", "38", "95%", "83-99%"]
    assert "12 more" in text


def test_a_receipt_says_what_was_not_audited_and_what_the_cache_saved() -> None:
    usage = Usage(input_tokens=1_000_000, cached_tokens=500_000)
    price = Price(input=Decimal(1), cached_input=Decimal("0.1"), output=Decimal(1))
    rates = tariff("m", ModelConfig(context_tokens=1, price=price)).rates(usage)
    cached = entry(1, usage=usage, price=rates, cost_nano_usd=rates.cost(usage), answered_service_tier="scale")
    value = receipt([cached], [Outcome(step="classify", status="ok", tier="nano")])
    assert value.cache_saved_nano_usd == 450_000_000
    assert value.price_unknown_calls == 1
    text = shown(value)
    assert "$0.5500, 100% accepted, none audited" in text
    assert "50% of input tokens: saved $0.4500" in text
    assert "Budget" not in text


def test_what_was_passed_on_is_nothing_that_was_accepted() -> None:
    entries = [entry(1), entry(2, subtask="s2", status="rejected", flaw="refusal")]
    outcomes = [
        Outcome(step="a", status="ok", tier="nano"),
        Outcome(step="a", status="ok", tier="nano", error_kind="refusal"),
    ]
    value = receipt(entries, outcomes)
    assert (value.accepted, value.failed, value.passed_on) == (1, 0, 1)
    assert (value.steps["a"].accepted, value.steps["a"].passed_on, value.tiers["nano"].accepted) == (1, 1, 1)
    assert value.cost_per_accepted_nano_usd == value.cost_nano_usd
    text = " ".join(shown(value).split())
    assert "1 accepted, 0 failed, 0 skipped, 1 passed on as refused or cut off" in text
    assert "50% accepted" in text


def test_a_fleet_that_cost_more_says_so() -> None:
    value = receipt([entry(1, cost_nano_usd=40_000_000)], [Outcome(step="a", status="ok", tier="nano")])
    assert "the fleet cost 100% more" in shown(value)


def test_hostile_names_are_cleaned() -> None:
    value = receipt([entry(1, tier="\x1b[31mred[/]")], [], name="[bold]\x1b]0;x\x07a\nb")
    text = shown(value)
    assert "\x1b" not in text
    assert text.startswith("Receipt: [bold]a b\n")
    assert "red[/]" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0s"), (0.44, "0.4s"), (9.96, "10s"), (59.6, "1m 00s"), (185, "3m 05s"), (7620, "2h 07m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_for_people() -> None:
    assert [tokens(count) for count in (0, 999, 12_345, 999_949, 999_950, 4_560_000, 10**9)] == [
        "0",
        "999",
        "12.3k",
        "999.9k",
        "1.00M",
        "4.56M",
        "1.00B",
    ]
    assert [fine_usd(nano) for nano in (0, 1, 123_456, 9_999_999, 31_200_000)] == [
        "$0.0000",
        "$0.00000000100",
        "$0.000123",
        "$0.01000",
        "$0.0312",
    ]


@pytest.mark.parametrize("change", [{"cost_nano_usd": -1}, {"role": "other"}, {"status": "maybe"}, {"extra": 1}])
def test_an_entry_keeps_its_form(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        entry(1, **change)
