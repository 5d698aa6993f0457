"""What budgets are made of: caps of the configuration, periods, words about what is short, what calls were seen to write."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.caps import Caps, caps_of, exact, exceeded, used_up
from fleet.config import FleetConfig
from fleet.observed import KINDS, LEAST, MARGIN, Observed
from queues.shared import Cap, Per, ends_at, number_at
from queues.subtasks import Refused

KIND = ("acme", "topic", "nano")
CONFIG = FleetConfig.model_validate(
    {
        "models": {"m": {"context_tokens": 1, "price": {"input": 1, "output": 1}}},
        "tiers": {name: {"model": "m"} for name in ("nano", "mini", "flagship")},
        "tenants": {"acme": {"usd_per_day": "0.5", "usd_per_month": 9}},
        "budgets": {"usd_per_month": 100},
    }
)


def test_a_tenants_calls_are_under_its_own_caps_and_the_fleets() -> None:
    fleets = Cap("*", "month", 100 * 10**9)
    assert caps_of(CONFIG, "acme") == (Cap("acme", "day", 5 * 10**8), Cap("acme", "month", 9 * 10**9), fleets)
    assert caps_of(CONFIG, "other") == (fleets,)
    caps = Caps(CONFIG)
    assert caps.of("acme.j1") == "acme:day:500000000 acme:month:9000000000 *:month:100000000000"
    assert caps.of("j1") == "*:month:100000000000"


@given(st.sampled_from(["day", "month"]), st.integers(0, 4_000_000_000))
def test_a_moment_is_in_the_period_that_ends_next(per: Per, seconds: int) -> None:
    number = number_at(per, seconds)
    end = ends_at(per, number)
    assert seconds < end
    assert (number_at(per, end - 1), number_at(per, end)) == (number, number + 1)


def test_what_is_short_is_named_with_what_is_left_and_the_fleets_amounts_are_nobodys_business() -> None:
    own = exceeded("acme.j1", Refused("short", 1_000_000, 400_000), 700_001)
    assert str(own) == "The job's budget of $0.001 has $0.0006 left and this call may cost $0.000700001."
    assert (own.until, own.guards) == (None, (("q:acme.j1", "cap", "1000000"),))
    day = number_at("day", 1_795_700_000)
    tenants = exceeded("acme.j1", Refused("short", 10**9, 10**9, 0, "acme", "day", day), 5)
    assert "The budget of $1.00 that acme has for this day (usd_per_day) has $0.00 left" in str(tenants)
    assert str(tenants).endswith("there is more at 2026-11-27 00:00 UTC.")
    assert tenants.until == ends_at("day", day)
    fleets = exceeded("acme.j1", Refused("short", 10**9, 10**9, 0, "*", "month", 24_322), 5)
    assert "$" not in str(fleets)
    assert str(fleets).startswith("The fleet's budget for this month (budgets.usd_per_month) is used up")
    assert used_up("*:month:24322")[0].startswith("the fleet has spent")


@pytest.mark.parametrize(
    ("nano", "text"), [(0, "$0.00"), (1, "$0.000000001"), (2_500_000_000, "$2.50"), (10**10, "$10.00")]
)
def test_amounts_are_told_to_the_last_nano_dollar(nano: int, text: str) -> None:
    assert exact(nano) == text


@given(st.lists(st.integers(0, 100_000), min_size=LEAST, max_size=300))
def test_hardly_a_call_writes_more_than_the_bound(outputs: list[int]) -> None:
    observed = Observed()
    for tokens in outputs:
        observed.add(KIND, tokens)
    bound = observed.bound(KIND)
    assert bound is not None
    assert sum(tokens > bound for tokens in outputs) <= 0.01 * len(outputs)
    assert bound <= math.ceil(MARGIN * 2 ** (1 / 4) * max(1, *outputs))


def test_nothing_is_said_of_what_was_seen_too_seldom_and_others_teach_nothing() -> None:
    observed = Observed()
    for _ in range(LEAST - 1):
        observed.add(KIND, 10)
    assert observed.bound(KIND) is None
    observed.add(KIND, 10)
    assert observed.bound(KIND) is not None
    assert observed.bound(("other", "topic", "nano")) is None
    for number in range(KINDS):
        observed.add(("acme", f"kind {number}", "nano"), 1)
    assert observed.bound(KIND) is None, "memory is bounded"


def test_the_bound_follows_what_changes() -> None:
    observed = Observed()
    for _ in range(5_000):
        observed.add(KIND, 1_000)
    for _ in range(5_000):
        observed.add(KIND, 50)
    bound = observed.bound(KIND)
    assert bound is not None
    assert bound < 100
