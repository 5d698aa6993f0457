"""The policy of `fleet.routing`: first guesses, what counts teach, what may not be skipped, and a play over a small table."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.money_figures import figures_of, lines
from benchmarks.routing_play import Play
from benchmarks.routing_world import World
from fleet.routing import START, Arm, Book, beliefs, choose
from fleet.sim.table import Drift, KindTable, Table

TIERS = ("nano", "mini", "flagship")
PRICES = (1.0, 4.0, 12.0)


def arm(n: float, share: float, cost: float) -> Arm:
    return Arm(n, n * share, n * cost)


def greedy(kind: str, book: Book, came_from: str = START, barred: tuple[str, ...] = ()) -> str | None:
    return choose(beliefs(kind, TIERS, PRICES, book, {}, barred), came_from, None)


@pytest.mark.parametrize(
    ("kind", "tier"),
    [
        ("ticket-topic", "nano"),
        ("extract-fields", "nano"),
        ("rank", "nano"),
        ("code-change", "mini"),
        ("summary", "mini"),
        ("migration-plan", "flagship"),
    ],
)
def test_the_first_guess_goes_by_the_kind_of_work(kind: str, tier: str) -> None:
    assert greedy(kind, {}) == tier


def test_what_happened_outweighs_the_guess() -> None:
    hopeless = {("nano", START): arm(60, 0.02, 1), ("mini", "nano"): arm(50, 0.8, 4)}
    assert greedy("ticket-topic", hopeless) == "mini"
    good = {("nano", START): arm(60, 0.9, 1)}
    assert greedy("migration-plan", good) == "nano"


def test_a_tier_that_fails_where_a_lower_one_did_is_skipped_there_alone() -> None:
    book = {
        ("nano", START): arm(200, 0.6, 1),
        ("mini", "nano"): arm(80, 0.02, 4),
        ("flagship", "nano"): arm(80, 0.9, 12),
    }
    assert greedy("rank", book) == "nano"
    assert greedy("rank", book, "nano") == "flagship"
    assert greedy("rank", book, "mini") == "flagship"
    assert greedy("rank", book, "flagship") is None


def test_costs_are_those_that_were_paid() -> None:
    # Reasoning makes nano dearer than its price says: six times as many tokens.
    book = {
        ("nano", START): arm(100, 0.4, 6),
        ("mini", START): arm(100, 0.7, 4),
        ("flagship", "mini"): arm(30, 0.9, 12),
    }
    assert greedy("extract", book) == "mini"


def test_recent_outcomes_that_contradict_older_ones_win() -> None:
    steady = {("nano", START): Arm(400, 360, 400, recent_n=60, recent_accepted=54), ("mini", "nano"): arm(40, 0.8, 4)}
    fallen = steady | {("nano", START): Arm(400, 300, 400, recent_n=60, recent_accepted=1)}
    assert greedy("topic", steady) == "nano"
    assert greedy("topic", fallen) == "mini"


def test_other_kinds_say_something_about_one_that_is_new() -> None:
    pool = {("nano", START): arm(10_000, 0.9, 1)}
    assert choose(beliefs("summary", TIERS, PRICES, {}, pool), START, None) == "nano"


def test_a_barred_tier_is_not_chosen_and_the_last_one_cannot_be_barred() -> None:
    good = {("nano", START): arm(60, 0.99, 1)}
    assert greedy("topic", good, barred=("nano",)) == "mini"
    assert greedy("topic", good, barred=TIERS) == "flagship"
    known = beliefs("topic", TIERS, PRICES, good, {}, TIERS)
    assert {choose(known, START, Random(seed)) for seed in range(50)} == {"flagship"}


def test_the_same_dice_choose_alike_and_the_unknown_is_tried() -> None:
    known = beliefs("summary", TIERS, PRICES, {}, {})
    chosen = [choose(known, START, Random(f"7/{number}")) for number in range(300)]
    assert chosen == [choose(known, START, Random(f"7/{number}")) for number in range(300)]
    often = Counter(chosen)
    assert often["nano"] > 30
    assert often["mini"] > 30


@given(
    st.dictionaries(
        st.sampled_from([(tier, s) for i, tier in enumerate(TIERS) for s in (START, *TIERS[:i])]),
        st.tuples(st.floats(0, 1e6), st.floats(0, 1), st.floats(0, 1e12), st.floats(0, 1), st.floats(0, 1)).map(
            lambda v: Arm(v[0], v[0] * v[1], v[2], v[0] * v[3], v[0] * v[3] * v[4])
        ),
    ),
    st.sampled_from([START, *TIERS, "gone"]),
    st.integers(0, 1000),
)
def test_whatever_the_counts_the_choice_is_a_tier_above(book: Book, came_from: str, seed: int) -> None:
    chosen = choose(beliefs("kind", TIERS, PRICES, book, book), came_from, Random(seed))
    if came_from == "flagship":
        assert chosen is None
    else:
        above = TIERS[TIERS.index(came_from) + 1 :] if came_from in TIERS else TIERS
        assert chosen in above


def test_a_ladder_of_one_tier_or_of_other_names() -> None:
    assert choose(beliefs("topic", ("solo",), (1.0,), {}, {}), START, Random(1)) == "solo"
    assert choose(beliefs("topic", ("solo",), (1.0,), {}, {}), "solo", Random(1)) is None
    assert choose(beliefs("topic", ("small", "large"), (1.0, 9.0), {}, {}), START, None) == "small"


def test_a_play_over_a_small_table_costs_little_more_than_hindsight() -> None:
    def kind(nano: float, mini: float, flagship: float, **more: object) -> KindTable:
        right = {"nano": nano, "mini": mini, "flagship": flagship}
        return KindTable.model_validate({"right": right, "items": 600, **more})

    table = Table(
        kinds={
            "topic": kind(0.95, 0.97, 0.98),
            "code": kind(0.02, 0.8, 0.96),
            "tag": kind(0.6, 0.03, 0.96),
            "turns": kind(0.9, 0.95, 0.97, drift=Drift(right={"nano": 0.05})),
            "leaks": kind(0.3, 0.9, 0.97, leak={"nano": 0.9}),
        },
        seed=3,
    )
    world = World(table, {"nano": (0.2, 1.25), "mini": (0.75, 4.5), "flagship": (2.5, 15.0)})
    play = Play(world, seed=1, in_flight=100)
    found = lines(world, figures_of(world, play.run()))
    assert len(play.ended) == 3_000
    assert found["cost_over_hindsight_without_audits"] < 1.08
    assert found["cost_over_hindsight_drift"] < 1.07
    # Two thirds of what nano lets through of the last kind is wrong.
    assert found["true_correct_minus_flagship"] > -0.01


@pytest.mark.parametrize("barred", [(), ("nano",)])
@pytest.mark.parametrize(
    "book", [{}, {("nano", START): Arm(50, 0, 0.0, 50, 0)}, {("nano", START): Arm(50, 50, 0.0, 50, 50)}]
)
@pytest.mark.parametrize("prices", [(0, 1, 5), (0, 0, 0), (1, 0, 5), (1, 2, 5)])
def test_models_that_cost_nothing_are_chosen_like_others(
    prices: tuple[float, ...], book: dict[tuple[str, str], Arm], barred: tuple[str, ...]
) -> None:
    tiers = ("nano", "mini", "flagship")
    known = beliefs("topic", tiers, prices, book, {}, barred)
    dice = Random(3)
    starts = {choose(known, START, dice) for _ in range(200)}
    assert starts <= set(tiers) - set(barred)
    assert choose(known, "nano", dice) in ("mini", "flagship")
    assert choose(known, START, None) in starts
