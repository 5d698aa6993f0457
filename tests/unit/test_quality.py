"""Intervals by known values, floors that need evidence, and what the ledger teaches."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.ledger import LedgerEntry
from fleet.quality import Counts, Learned, below_floor, learned, wilson


def entry(**fields: Any) -> LedgerEntry:
    known: dict[str, Any] = {
        "call_id": "j/a.1.1",
        "job": "j",
        "kind": "topic",
        "role": "work",
        "tier": "nano",
        "model": "m",
        "provider": "p",
        "cost_nano_usd": 1,
        "status": "ok",
        "started_at": 1.0,
        "finished_at": 2.0,
    }
    return LedgerEntry.model_validate(known | fields)


@pytest.mark.parametrize(
    ("right", "audited", "low", "high"),
    [
        # R: prop.test(x, n, correct = FALSE)$conf.int
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_intervals_of_known_counts(right: int, audited: int, low: float, high: float) -> None:
    """The first four are those of R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson(right, audited) == pytest.approx((low, high), abs=5e-5)


def test_of_nothing_anything_may_be() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert not below_floor(0, 0, 0.99)


@given(audited=st.integers(1, 5_000), data=st.data())
def test_an_interval_holds_what_was_found(audited: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, audited))
    low, high = wilson(right, audited)
    assert 0 <= low <= right / audited <= high <= 1


@pytest.mark.parametrize("floor", [0.5, 0.9, 0.95, 0.99, 0.999, 1.0])
def test_one_or_two_bad_audits_are_no_evidence(floor: float) -> None:
    assert not below_floor(0, 1, floor)
    assert not below_floor(0, 2, floor)
    assert not below_floor(10_000, 10_002, floor)


@pytest.mark.parametrize(
    ("right", "audited", "floor", "below"),
    [
        (0, 4, 0.9, True),
        (90, 100, 0.9, False),
        (78, 100, 0.9, True),
        (85, 100, 0.9, False),
        (850, 1_000, 0.9, True),
        (9_000, 10_000, 0.95, True),
        (9_490, 10_000, 0.95, False),
        (7, 10, None, False),
        (0, 10, 0.0, False),
        (7.5, 12.5, 0.95, True),
        (997, 1_000, 1.0, True),
    ],
)
def test_what_is_surely_below_its_floor(right: float, audited: float, floor: float | None, below: bool) -> None:
    assert below_floor(right, audited, floor) is below


@given(audited=st.integers(3, 2_000), wrong=st.integers(0, 2_000), floor=st.floats(0.05, 0.99))
@settings(deadline=None)
def test_more_wrong_is_never_less_evidence(audited: int, wrong: int, floor: float) -> None:
    # Only below the floor: above it all evidence is for the tier.
    right = max(0, audited - wrong)
    if right / audited < floor and below_floor(right, audited, floor):
        assert below_floor(right, audited + 1, floor)


def test_whoever_keeps_the_floor_is_rarely_blamed_however_often_one_looks() -> None:
    dice = random.Random(7)
    blamed = 0
    for _ in range(100):
        right = 0
        for audited in range(1, 201):
            right += dice.random() < 0.9
            if audited % 5 == 0 and below_floor(right, audited, 0.9):
                blamed += 1
                break
    assert blamed <= 5


def test_whoever_is_far_below_is_found_out_soon() -> None:
    dice = random.Random(7)
    needed = []
    for _ in range(100):
        right = audited = 0
        while not below_floor(right, audited, 0.9):
            audited += 1
            right += dice.random() < 0.67
        needed.append(audited)
    assert sorted(needed)[50] <= 40


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("nano", None, "accepted")),
        ({"status": "rejected", "flaw": "schema", "came_from": "nano", "tier": "mini"}, ("mini", "nano", "rejected")),
        ({"status": "rejected", "flaw": "judge"}, ("nano", None, "rejected")),
        ({"status": "rejected", "flaw": "audit"}, ("nano", None, "accepted")),
        ({"status": "rejected", "flaw": "check_broken"}, None),
        ({"status": "failed", "reason": "timeout"}, None),
        ({"role": "audit", "tier": "flagship", "came_from": "mini"}, ("mini", None, "right")),
        (
            {"role": "audit", "tier": "flagship", "came_from": "mini", "status": "rejected", "flaw": "audit"},
            ("mini", None, "wrong"),
        ),
        ({"role": "audit", "tier": "flagship", "came_from": "mini", "status": "failed", "flaw": "invalid_json"}, None),
        ({"role": "audit", "tier": "flagship"}, None),
        ({"role": "check", "tier": "mini", "came_from": "nano"}, None),
        ({"role": "review", "tier": "flagship"}, None),
    ],
)
def test_what_an_entry_teaches(fields: dict[str, Any], expected: tuple[str, str | None, str] | None) -> None:
    found = learned(entry(**fields))
    assert (None if found is None else (found.tier, found.came_from, found.verdict)) == expected


def test_rows_by_kind_and_tier() -> None:
    counts = Counts()
    for verdict in ("accepted", "accepted", "rejected", "right", "wrong"):
        counts.add(Learned.model_validate({"kind": "b", "tier": "nano", "came_from": None, "verdict": verdict}))
    counts.add(Learned(kind="a", tier="mini", came_from="nano", verdict="accepted"))
    first, second = counts.rows()
    assert (first.kind, first.tier, first.accepted, first.audited, first.low, first.high) == ("a", "mini", 1, 0, 0, 1)
    assert (second.accepted, second.rejected, second.audited, second.right) == (2, 1, 2, 1)
    assert (second.low, second.high) == wilson(1, 2)
