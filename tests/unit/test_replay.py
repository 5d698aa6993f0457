"""The books closed again: the same receipt from what was exported, in any order, and complaints about what does not agree."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.config import FleetConfig, ModelConfig, TierConfig
from fleet.jobs import JobStatus, Outcome
from fleet.ledger import LedgerEntry
from fleet.prices import Usage, tariff
from fleet.quality import Judged
from fleet.receipt import Budget, Receipt, Tally
from fleet.replay import replay
from fleet.tariffs import LongContext, Price

LONG = LongContext(above=500, input=Decimal("0.3"), output=Decimal("3.7"))
CHEAP = Price(
    input=Decimal("0.1337"), cached_input=Decimal("0.0137"), cache_write=Decimal("0.17"), output=Decimal("1.19")
)
PRICES = {
    "small": CHEAP.model_copy(update={"long_context": LONG}),
    "middle": Price(input=Decimal(1), output=Decimal(10), request=Decimal("0.005")),
    "big": Price(input=Decimal(10), output=Decimal(100)),
}
CONFIG = FleetConfig(
    models={name: ModelConfig(context_tokens=1000, price=price) for name, price in PRICES.items()},
    tiers={
        "nano": TierConfig(model="small", escalate_to="mini"),
        "mini": TierConfig(model="middle", escalate_to="flagship"),
        "flagship": TierConfig(model="big"),
    },
)
MODELS = {name: its.model for name, its in CONFIG.tiers.items()}


@st.composite
def entries(draw: st.DrawFn) -> LedgerEntry:
    """A row as the fleet writes it: its cost is its usage at its own prices, and nothing where there was no call to bill."""
    tier, lane = draw(st.sampled_from(sorted(MODELS))), draw(st.sampled_from(["standard", "flex", "batch"]))
    given_, cached, written = (draw(st.integers(0, 800)) for _ in range(3))
    status = draw(st.sampled_from(["ok", "rejected", "failed"]))
    billed = status != "failed" or draw(st.booleans())
    usage = Usage(
        input_tokens=given_ + cached + written,
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=draw(st.integers(0, 400)),
    )
    usage = usage if billed else Usage()
    rates = tariff(MODELS[tier], CONFIG.models[MODELS[tier]], lane).rates(usage)
    number = draw(st.integers(0, 10**9))
    return LedgerEntry.model_validate(
        {
            "call_id": f"j/{number}",
            "job": "j",
            "subtask": draw(st.sampled_from(["j/a/1", "j/a/2", "j/b", None])),
            "step": draw(st.sampled_from(["a", "b", None])),
            "kind": draw(st.sampled_from(["topic", "code", None])),
            "role": draw(st.sampled_from(["plan", "work", "check", "audit", "review", "reduce"])),
            "came_from": draw(st.sampled_from(["nano", "mini", None])),
            "tier": tier,
            "model": MODELS[tier],
            "provider": "p",
            "lane": lane,
            "usage": usage,
            "usage_reported": draw(st.booleans()),
            "cost_nano_usd": rates.cost(usage) if billed else 0,
            "fees_nano_usd": rates.fee if billed else 0,
            "price": rates,
            "status": status,
            "started_at": draw(st.floats(0, 100)),
            "finished_at": draw(st.floats(100, 200)),
            "waited_ms": draw(st.integers(0, 5_000)),
            "latency_ms": draw(st.integers(0, 5_000)),
        }
    )


ledgers = st.lists(entries(), max_size=12, unique_by=lambda entry: entry.call_id)
outcomes_ = st.lists(
    st.builds(
        Outcome,
        step=st.sampled_from(["a", "b"]),
        status=st.sampled_from(["ok", "failed", "skipped"]),
        tier=st.sampled_from(sorted(MODELS)),
    ),
    max_size=6,
)


def receipt_of(ledger: list[LedgerEntry], outcomes: list[Outcome], people: Sequence[Judged] = ()) -> Receipt:
    tally = Tally(CONFIG)
    for said in people:
        tally.judge(said)
    for entry in ledger:
        tally.add(entry)
    for outcome in outcomes:
        tally.count(outcome)
    return tally.receipt(
        job_id="j",
        name="n",
        status=JobStatus.COMPLETED,
        simulated=True,
        wall_s=12.345,
        queue_s=1.5,
        waited_for_s={"paused": 3.25},
        skipped_items=2,
        gaps=1,
        budget=Budget(cap_nano_usd=10**9),
    )


@settings(deadline=None, max_examples=60)
@given(ledgers, outcomes_, st.randoms())
def test_the_same_receipt_from_the_same_books_in_any_order(
    ledger: list[LedgerEntry], outcomes: list[Outcome], random: Any
) -> None:
    told = receipt_of(ledger, outcomes)
    # As files have it: text, lines in any order.
    lines = [entry.model_dump_json() for entry in ledger]
    random.shuffle(lines)
    read = [LedgerEntry.model_validate_json(line) for line in lines]
    found = replay(Receipt.model_validate_json(told.model_dump_json()), read, outcomes[::-1], [], CONFIG)
    assert found.complaints == ()
    assert found.receipt == told


@settings(deadline=None, max_examples=60)
@given(ledgers, outcomes_)
def test_children_sum_to_their_parents(ledger: list[LedgerEntry], outcomes: list[Outcome]) -> None:
    told = receipt_of(ledger, outcomes)
    total = sum(entry.cost_nano_usd for entry in ledger)
    steps, tiers = told.steps.values(), told.tiers.values()
    assert told.cost_nano_usd == total == sum(told.roles.values()) == sum(told.lanes.values())
    assert total == sum(step.cost_nano_usd for step in steps) == sum(tier.cost_nano_usd for tier in tiers)
    assert told.calls == len(ledger) == sum(step.calls for step in steps) == sum(tier.calls for tier in tiers)
    assert told.accepted == sum(step.accepted for step in steps) == sum(tier.accepted for tier in tiers)
    assert (told.failed, told.skipped) == (sum(step.failed for step in steps), sum(step.skipped for step in steps))
    judged = [entry for entry in ledger if entry.role == "audit" and entry.status != "failed"]
    assert sum(row.audited for row in told.quality) == len(judged)
    assert sum(row.right for row in told.quality) == sum(entry.status == "ok" for entry in judged)


@settings(deadline=None, max_examples=40)
@given(ledgers, st.data())
def test_books_cut_in_two_add_up_to_the_whole(ledger: list[LedgerEntry], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(ledger)))
    whole, one, other = (receipt_of(part, []) for part in (ledger, ledger[:cut], ledger[cut:]))
    for name in ("cost_nano_usd", "calls", "usage_estimated_calls", "cache_saved_nano_usd"):
        assert getattr(whole, name) == getattr(one, name) + getattr(other, name)
    for name in ("roles", "lanes"):
        parts = [getattr(part, name) for part in (one, other)]
        sums = {key: sum(part.get(key, 0) for part in parts) for key in parts[0] | parts[1]}
        assert getattr(whole, name) == sums


@settings(deadline=None, max_examples=40)
@given(ledgers.filter(bool), st.data())
def test_an_entry_that_stands_twice_is_counted_once_and_complained_of(
    ledger: list[LedgerEntry], data: st.DataObject
) -> None:
    told = receipt_of(ledger, [])
    again = data.draw(st.sampled_from(ledger))
    found = replay(told, [*ledger, again], [], [], CONFIG)
    assert found.receipt == told
    assert found.complaints == (f"the call {again.call_id} stands twice in the ledger",)


def a_row(**changes: Any) -> LedgerEntry:
    usage = Usage(input_tokens=400, cached_tokens=100, output_tokens=100)
    rates = tariff("small", CONFIG.models["small"]).rates(usage)
    values = {
        "call_id": "j/a/1.1.1",
        "job": "j",
        "subtask": "j/a/1",
        "step": "a",
        "role": "work",
        "tier": "nano",
        "model": "small",
        "provider": "p",
        "usage": usage,
        "cost_nano_usd": rates.cost(usage),
        "price": rates,
        "status": "ok",
        "started_at": 1.0,
        "finished_at": 2.0,
    }
    return LedgerEntry.model_validate(values | changes)


@pytest.mark.parametrize(
    ("changes", "complaints"),
    [
        ({}, []),
        # A row of a version that kept no prices says nothing against itself; what cached input saved is not known then.
        ({"price": None}, ["cache_saved_nano_usd: the receipt says"]),
        (
            {"cost_nano_usd": a_row().cost_nano_usd + 1},
            ["costs something else than its usage at its own prices", "cost_nano_usd: the receipt says"],
        ),
        ({"usage": Usage(input_tokens=400, output_tokens=100)}, ["costs something else", "tiers.nano.cached_tokens"]),
        ({"job": "k"}, ["the call j/a/1.1.1 is of another job"]),
        ({"status": "rejected"}, ["tiers.nano.rejected: the receipt says 0, the books say 1"]),
        ({"tier": "mini"}, ["tiers.nano: the receipt says"]),
    ],
)
def test_books_that_were_changed_do_not_agree(changes: dict[str, Any], complaints: list[str]) -> None:
    told = receipt_of([a_row()], [])
    found = replay(told, [a_row(**changes)], [], [], CONFIG).complaints
    assert bool(found) == bool(complaints)
    for complaint in complaints:
        assert any(complaint in one for one in found), found


def test_an_earlier_versions_receipt_is_not_blamed_for_what_it_does_not_say() -> None:
    told = receipt_of([a_row()], [])
    earlier = Receipt.model_validate(told.model_dump(exclude={"lanes", "steps", "cache_saved_nano_usd", "quality"}))
    assert replay(earlier, [a_row()], [], [], CONFIG).complaints == ()
    assert replay(earlier, [], [], [], CONFIG).complaints != ()


def test_missing_lines_and_missing_results_show() -> None:
    told = receipt_of(
        [a_row(), a_row(call_id="j/a/2.1.1", subtask="j/a/2")], [Outcome(step="a", status="ok", tier="nano")]
    )
    found = replay(told, [a_row()], [], [], CONFIG).complaints
    assert "calls: the receipt says 2, the books say 1" in found
    assert "accepted: the receipt says 1, the books say 0" in found


def test_what_an_audit_is_about_is_known_from_the_work_where_it_does_not_say() -> None:
    work = a_row()
    said = a_row(call_id="j/a/1.2.1", role="audit", tier="flagship", model="big", kind="topic", came_from="mini")
    silent = a_row(call_id="j/a/1.3.1", role="audit", tier="flagship", model="big", kind="topic", status="rejected")
    lost = a_row(call_id="j/a/1.4.1", role="audit", tier="flagship", model="big", kind="topic", status="failed")
    told = receipt_of([silent, lost, said, work], [])
    assert [(row.kind, row.tier, row.audited, row.right) for row in told.quality] == [
        ("topic", "mini", 1, 1),
        ("topic", "nano", 1, 0),
    ]
    assert told.tiers["flagship"].rejected == 0, "a judge who says no was not rejected"


def test_people_are_heard_again() -> None:
    audit = a_row(call_id="j/a/1.2.1", role="audit", tier="flagship", model="big", came_from="nano")
    said = Judged(subtask="a/1", kind="a", tier="nano", right=False, instead=audit.call_id)
    told = receipt_of([a_row(), audit], [], [said])
    assert [(row.audited, row.right) for row in told.quality] == [(1, 0)]
    assert replay(told, [audit, a_row()], [], [said], CONFIG).complaints == ()
    (complaint,) = replay(told, [a_row(), audit], [], [], CONFIG).complaints
    assert complaint.startswith("quality: the receipt says")


def test_an_earlier_versions_row_of_quality_says_no_more_than_what_was_audited() -> None:
    ledger = [a_row(), a_row(call_id="j/a/1.2.1", role="audit", tier="flagship", model="big", came_from="nano")]
    told = receipt_of(ledger, [])
    data = told.model_dump(mode="json")
    data["quality"] = [
        {name: row[name] for name in row if name not in ("accepted", "rejected")} for row in data["quality"]
    ]
    assert replay(Receipt.model_validate(data), ledger, [], [], CONFIG).complaints == ()
    data["quality"][0]["right"] = 0
    assert replay(Receipt.model_validate(data), ledger, [], [], CONFIG).complaints != ()
