"""Admissible work: what limits, pauses, outages and budgets let run at once, shared out between the tiers of an account."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.scaling import BRIEF_S, FIRST_CALLS, Lane, admissible, lanes_of
from queues.limits import Standing, Took
from queues.survey import TierSurvey
from tests.support.bench import config

FREE = Standing(
    requests_per_minute=None,
    tokens_per_minute=None,
    in_flight=None,
    requests=0,
    tokens=0,
    calls=0,
    next_s=0,
    paused_s=0,
    outage_s=None,
)
TWO_SECONDS = {"nano": Took(2.0, 1_000), "mini": Took(20.0, 1_000)}
LANES = {"nano": Lane(("a",), 3.0), "mini": Lane(("a",), 9.0)}


def tier(affordable: int = 0, *, out: int = 0, ready: int | None = None) -> TierSurvey:
    return TierSurvey(affordable if ready is None else ready, out, workers=0, capacity=0, affordable=affordable)


def of_nano(standing: Standing, there: TierSurvey, lane: Lane = LANES["nano"]) -> int:
    """The admissible work of one tier that has its account for itself."""
    standings = dict.fromkeys(lane.accounts, standing)
    return admissible({"nano": lane}, standings, {"nano": there})["nano"]


def test_without_limits_all_work_is_admissible() -> None:
    assert of_nano(FREE, tier(5_000, out=30)) == 5_030
    assert of_nano(FREE, tier()) == 0


def test_a_tier_that_waits_for_no_account_may_run_whatever_it_has() -> None:
    assert admissible(LANES, {"a": FREE}, {"coordinator": tier(7, out=2), "nano": tier(), "mini": tier()}) == {
        "coordinator": 9,
        "nano": 0,
        "mini": 0,
    }


def test_a_limit_on_requests_lets_in_flight_what_it_starts_while_a_call_lasts() -> None:
    limited = replace(FREE, requests_per_minute=3_000, took=TWO_SECONDS)
    assert of_nano(limited, tier(10_000)) == 100, "fifty a second for two seconds"
    assert of_nano(limited, tier(40)) == 40


def test_a_limit_on_tokens_counts_as_so_many_calls() -> None:
    limited = replace(FREE, requests_per_minute=3_000, tokens_per_minute=600_000, took=TWO_SECONDS)
    assert of_nano(limited, tier(10_000)) == 20, "ten a second for two seconds"


def test_where_no_call_was_seen_a_part_of_its_timeout_counts() -> None:
    assert of_nano(replace(FREE, requests_per_minute=600), tier(10_000)) == 30, "ten a second for three seconds"
    assert lanes_of(config())["nano"].typical_s == pytest.approx(2.0)


def test_where_nobody_knows_how_many_tokens_calls_take_a_few_begin() -> None:
    limited = replace(FREE, tokens_per_minute=60_000)
    assert of_nano(limited, tier(10_000)) == FIRST_CALLS
    other = replace(
        limited, requests=10, tokens=1_000
    )  # an earlier version's workers called, who do not say how long it took
    assert of_nano(other, tier(10_000)) == 30, "ten a second for three seconds"


def test_what_may_be_in_flight_is_a_limit_too() -> None:
    assert of_nano(replace(FREE, in_flight=12, took=TWO_SECONDS), tier(10_000)) == 12
    assert of_nano(replace(FREE, in_flight=12, requests_per_minute=60, took=TWO_SECONDS), tier(10_000)) == 2


def test_what_runs_counts_although_the_limit_has_become_less() -> None:
    lower = replace(FREE, requests_per_minute=60, calls=50, took=TWO_SECONDS)
    assert of_nano(lower, tier(10_000, out=50)) == 50
    assert of_nano(replace(lower, waiting=20), tier(10_000, out=50)) == 30, "those that wait for their start do not run"


@pytest.mark.parametrize("held_up", [{"paused_s": 600.0}, {"outage_s": 30.0}])
def test_behind_a_pause_or_an_outage_there_is_what_runs_and_one_to_try(held_up: dict[str, float]) -> None:
    standing = replace(FREE, calls=4, **held_up)  # type: ignore[arg-type]
    assert of_nano(standing, tier(10_000, out=4)) == 5
    assert of_nano(replace(standing, calls=0), tier(10_000)) == 1
    assert of_nano(replace(standing, calls=0), tier()) == 0
    assert of_nano(replace(standing, calls=0), tier(out=3)) == 1, "what is claimed keeps a worker"


def test_a_pause_that_is_over_before_a_worker_has_started_does_not_count() -> None:
    assert of_nano(replace(FREE, paused_s=BRIEF_S), tier(100)) == 100


def test_in_an_outage_a_fallback_takes_the_work() -> None:
    lane = Lane(("a", "b"), 3.0)
    standings = {
        "a": replace(FREE, outage_s=5.0),
        "b": replace(FREE, requests_per_minute=600, took={"nano": Took(1.0, 10)}),
    }
    assert admissible({"nano": lane}, standings, {"nano": tier(500)}) == {"nano": 10}
    assert admissible({"nano": lane}, standings | {"a": FREE}, {"nano": tier(500)}) == {"nano": 500}
    assert admissible({"nano": lane}, dict.fromkeys("ab", standings["a"]), {"nano": tier(500)}) == {"nano": 1}


def test_tiers_on_one_account_share_its_starts_and_each_has_its_own_time() -> None:
    shared = replace(FREE, requests_per_minute=600, took=TWO_SECONDS)
    assert admissible(LANES, {"a": shared}, {"nano": tier(1_000), "mini": tier(1_000)}) == {"nano": 10, "mini": 100}
    assert admissible(LANES, {"a": shared}, {"nano": tier(1_000), "mini": tier()}) == {"nano": 20, "mini": 0}
    few = admissible(LANES, {"a": shared}, {"nano": tier(1_000), "mini": tier(20)})
    assert few == {"nano": 18, "mini": 20}, "a start a second holds twenty in flight; the other nine are nano's"


def test_tiers_on_one_account_share_its_places() -> None:
    shared = replace(FREE, in_flight=110, took=TWO_SECONDS)
    assert admissible(LANES, {"a": shared}, {"nano": tier(1_000), "mini": tier(1_000)}) == {"nano": 10, "mini": 100}


def test_what_budgets_hold_back_does_not_count() -> None:
    assert of_nano(FREE, tier(3, out=2, ready=10_000)) == 5


standings = st.builds(
    Standing,
    requests_per_minute=st.none() | st.integers(1, 20_000),
    tokens_per_minute=st.none() | st.integers(1, 10_000_000),
    in_flight=st.none() | st.integers(1, 2_000),
    requests=st.integers(0, 1_000),
    tokens=st.integers(0, 1_000_000),
    calls=st.integers(0, 2_000),
    next_s=st.just(0.0),
    paused_s=st.sampled_from([0.0, 1.0, 600.0]),
    outage_s=st.none() | st.just(5.0),
    waiting=st.integers(0, 100),
    took=st.dictionaries(
        st.sampled_from(["nano", "mini"]), st.builds(Took, st.floats(0, 600), st.integers(0, 100_000))
    ),
)
surveys = st.builds(
    lambda affordable, held, out: tier(affordable, out=out, ready=affordable + held),
    st.integers(0, 100_000),
    st.integers(0, 1_000),
    st.integers(0, 2_000),
)
both = st.fixed_dictionaries({"nano": surveys, "mini": surveys})


@given(standings, both)
def test_never_more_than_there_is_and_one_at_least_where_there_is_any(
    standing: Standing, tiers: dict[str, TierSurvey]
) -> None:
    for name, number in admissible(LANES, {"a": standing}, tiers).items():
        work = tiers[name].out + tiers[name].affordable
        assert min(work, 1) <= number <= work


@given(standings, both, st.sampled_from(["nano", "mini"]), st.integers(1, 10_000))
def test_more_work_never_makes_less_of_it_admissible(
    standing: Standing, tiers: dict[str, TierSurvey], name: str, more: int
) -> None:
    grown = replace(tiers[name], affordable=tiers[name].affordable + more, ready=tiers[name].ready + more)
    before, after = (admissible(LANES, {"a": standing}, there)[name] for there in (tiers, tiers | {name: grown}))
    assert after >= before


@given(standings, both)
def test_a_shared_account_is_counted_once(standing: Standing, tiers: dict[str, TierSurvey]) -> None:
    """What its tiers may have in flight together keeps every limit of it, but for what runs, what tries, and rounding."""
    quiet = replace(standing, calls=0, paused_s=0.0, outage_s=None, took=TWO_SECONDS)
    found = admissible(LANES, {"a": quiet}, tiers)
    at_least = {name: number - 1 for name, number in found.items() if number > 0}  # rounded up, or one in any case
    if quiet.in_flight is not None:
        assert sum(at_least.values()) <= quiet.in_flight
    starts = {name: number / TWO_SECONDS[name].seconds for name, number in at_least.items()}
    if quiet.requests_per_minute is not None:
        assert sum(starts.values()) <= quiet.requests_per_minute / 60 + 1e-6
    if quiet.tokens_per_minute is not None:
        tokens = sum(rate * TWO_SECONDS[name].tokens for name, rate in starts.items())
        assert tokens <= quiet.tokens_per_minute / 60 + 1e-6


@given(standings, both)
def test_a_limit_that_has_room_is_used_up(standing: Standing, tiers: dict[str, TierSurvey]) -> None:
    """Where work is held back, some limit is reached by what is not."""
    quiet = replace(standing, calls=0, paused_s=0.0, outage_s=None, took=TWO_SECONDS)
    found = admissible(LANES, {"a": quiet}, tiers)
    if all(number == tiers[name].out + tiers[name].affordable for name, number in found.items()):
        return
    starts = {name: number / TWO_SECONDS[name].seconds for name, number in found.items()}
    used = [
        (quiet.in_flight, sum(found.values())),
        (quiet.requests_per_minute, 60 * sum(starts.values())),
        (quiet.tokens_per_minute, 60 * sum(rate * TWO_SECONDS[name].tokens for name, rate in starts.items())),
    ]
    assert any(limit is not None and amount >= limit - 1e-3 for limit, amount in used)
