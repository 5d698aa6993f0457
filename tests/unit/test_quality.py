"""Intervals by known values, floors that need evidence, and what the ledger teaches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.ledger import LedgerEntry
from fleet.quality import Counts, Learned, learned, wilson


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


@given(audited=st.integers(1, 5_000), data=st.data())
def test_an_interval_holds_what_was_found(audited: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, audited))
    low, high = wilson(right, audited)
    assert 0 <= low <= right / audited <= high <= 1


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
