"""What audits found: intervals that are Wilson's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.quality import Z_95, wilson
from fleet.verdicts import pooled, quality


@pytest.mark.parametrize(
    ("right", "audited", "low", "high"),
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_intervals(right: int, audited: int, low: float, high: float) -> None:
    assert wilson(right, audited) == pytest.approx((low, high), abs=5e-5)


def test_nothing_audited_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert pooled([]) is None


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_its_ends_are_where_the_score_test_turns(counted: tuple[int, int]) -> None:
    right, audited = counted
    low, high = wilson(right, audited)
    share = right / audited
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(Z_95 * (end * (1 - end) / audited) ** 0.5, rel=1e-6, abs=1e-9)


def test_kinds_add_up() -> None:
    whole = pooled([quality("a", "nano", 30, 28), quality("b", "mini", 10, 9)])
    assert whole is not None
    assert (whole.audited, whole.right) == (40, 37)
    assert (whole.low, whole.high) == wilson(37, 40)
