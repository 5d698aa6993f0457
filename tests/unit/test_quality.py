"""Intervals by known values, floors that need evidence, and what the ledger teaches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.ledger import LedgerEntry
from fleet.quality import Z_95, Counts, Judged, learned, pooled, quality, wilson


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
def test_an_interval_holds_what_was_found_and_ends_where_the_score_test_turns(
    audited: int, data: st.DataObject
) -> None:
    right = data.draw(st.integers(0, audited))
    low, high = wilson(right, audited)
    share = right / audited
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(Z_95 * (end * (1 - end) / audited) ** 0.5, rel=1e-6, abs=1e-9)


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


def rows(entries: list[LedgerEntry], people: list[Judged] = []) -> list[tuple[Any, ...]]:  # noqa: B006
    """What is counted of them, in any order."""
    counts = Counts()
    for said in people:
        counts.judge(said)
    for one in reversed(entries):
        counts.add(one)
    return [(row.kind, row.tier, row.accepted, row.rejected, row.audited, row.right) for row in counts.rows()]


def work(number: int, **fields: Any) -> LedgerEntry:
    return entry(call_id=f"j/a/0.{number}", subtask="j/a/0", started_at=float(number)).model_copy(update=fields)


def audit(number: int, **fields: Any) -> LedgerEntry:
    return work(number, **{"role": "audit", "tier": "flagship", "came_from": "nano"} | fields)


def judged(right: bool, **fields: Any) -> Judged:
    return Judged.model_validate({"subtask": "a/0", "kind": "topic", "tier": "nano", "right": right} | fields)


def test_rows_by_kind_and_tier() -> None:
    others = [entry(kind="b", call_id="1"), entry(kind="b", call_id="2", status="rejected", flaw="schema")]
    climbed = entry(kind="a", call_id="3", tier="mini", came_from="nano")
    wrong = entry(kind="b", call_id="4", role="audit", tier="flagship", came_from="nano", status="rejected")
    right = entry(kind="b", call_id="5", role="audit", tier="flagship", came_from="nano")
    found = [*others, climbed, wrong, right]
    assert rows(found) == [("a", "mini", 1, 0, 0, 0), ("b", "nano", 1, 1, 2, 1)]
    counts = Counts()
    for one in found:
        counts.add(one)
    first, second = counts.rows()
    assert (first.low, first.high) == (0, 1)
    assert (second.low, second.high) == wilson(1, 2)


def test_a_holdout_and_an_audit_without_a_verdict_say_nothing() -> None:
    assert rows([work(1), audit(2, holdout=True), audit(3, status="failed")]) == [("topic", "nano", 1, 0, 0, 0)]


def test_of_an_output_that_both_looked_at_the_persons_word_counts() -> None:
    both = [work(1), audit(2)]
    assert rows(both) == [("topic", "nano", 1, 0, 1, 1)]
    assert rows(both, [judged(False, instead="j/a/0.2")]) == [("topic", "nano", 1, 0, 1, 0)]
    assert rows(both, [judged(False, subtask="a/1")]) == [("topic", "nano", 1, 0, 2, 1)], "another output"


def test_of_a_subtask_that_was_asked_anew_each_output_counts() -> None:
    anew = [work(1), audit(2), work(3), audit(4, status="rejected")]
    assert rows(anew) == [("topic", "nano", 2, 0, 2, 1)]
    assert rows(anew, [judged(True, instead="j/a/0.4")]) == [("topic", "nano", 2, 0, 2, 2)]


def test_a_persons_word_takes_the_place_of_the_latest_audit_that_stands() -> None:
    counts = Counts()
    for one in (audit(4, status="rejected"), work(1), audit(2), audit(6, came_from="mini")):
        counts.add(one)
    assert counts.standing("a/0", "nano") == ("j/a/0.4", False)
    counts.judge(judged(True, instead="j/a/0.4"))
    assert counts.standing("a/0", "nano") == ("j/a/0.2", True)
    counts.judge(judged(True, instead="j/a/0.2"))
    assert counts.standing("a/0", "nano") is None
    assert counts.standing("a/1", "nano") is None


def test_an_audit_that_does_not_say_whose_answer_it_saw_is_of_the_latest_that_passed() -> None:
    silent = audit(4, came_from=None)
    assert rows([work(1), work(2, status="rejected", tier="mini"), silent]) == [
        ("topic", "mini", 0, 1, 0, 0),
        ("topic", "nano", 1, 0, 1, 1),
    ]
    assert rows([silent]) == [("topic", None, 0, 0, 1, 1)]


def test_nothing_audited_says_nothing() -> None:
    assert pooled([]) is None
    assert pooled([quality("a", "nano", 0, 0, accepted=3)]) is None


def test_kinds_add_up() -> None:
    whole = pooled([quality("a", "nano", 30, 28), quality("b", "mini", 10, 9)])
    assert whole is not None
    assert (whole.audited, whole.right) == (40, 37)
    assert (whole.low, whole.high) == wilson(37, 40)
