"""What fails a run of the chaos, and what is only told."""

from __future__ import annotations

import pytest

from tests.chaos.verdict import ZERO, failures, missed

GOOD = dict.fromkeys(ZERO, 0.0) | {
    "paid_twice_per_kill": 5.0,
    "in_flight_per_process": 5.0,
    "kills": 200.0,
    "calls_by_wrong_clocks": 7.0,
    "recovery_p99_over_lease_s": 10.0,
    "poison_throughput_kept": 0.9,
}


def test_figures_at_their_limits_pass() -> None:
    assert failures(GOOD, asked=200, wrong_clocks=True) == []
    assert missed(GOOD) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [*((name, 1.0) for name in ZERO), ("paid_twice_per_kill", 6.0), ("kills", 199.0), ("calls_by_wrong_clocks", 0.0)],
)
def test_a_figure_beyond_its_limit_fails_the_run(name: str, value: float) -> None:
    (found,) = failures(GOOD | {name: value}, asked=200, wrong_clocks=True)
    assert found.startswith(name)


def test_no_wrong_clock_is_asked_for_where_there_can_be_none() -> None:
    assert failures(GOOD | {"calls_by_wrong_clocks": 0.0}, asked=200, wrong_clocks=False) == []


def test_missed_aims_are_told_with_their_limits_and_fail_nothing() -> None:
    figures = GOOD | {"recovery_p99_over_lease_s": 12.5, "poison_throughput_kept": 0.85}
    assert missed(figures) == ["recovery_p99_over_lease_s 12.5 (10)", "poison_throughput_kept 0.85 (0.9)"]
    assert failures(figures, asked=200, wrong_clocks=True) == []
