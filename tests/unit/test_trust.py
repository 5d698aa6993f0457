"""`fleet.trust`: how sure audits make one that a tier misses its floor, and how many of its answers are audited."""

from __future__ import annotations

from random import Random

import pytest

from fleet.trust import FEW, LEAST, MANY, SPENT, Audits, audit_share, below, below_floor, is_below, usual_share

TIERS = ("nano", "mini", "flagship")


@pytest.mark.parametrize(
    ("x", "a", "b"), [(0.5, 2, 2), (0.3, 2, 5), (0.95, 9.75, 1.25), (0.95, 60, 2), (0.1, 0.5, 0.5)]
)
def test_the_incomplete_beta_function_is_what_draws_say(x: float, a: float, b: float) -> None:
    dice = Random(1)
    drawn = sum(dice.betavariate(a, b) < x for _ in range(20_000)) / 20_000
    assert below(x, a, b) == pytest.approx(drawn, abs=0.015)


def test_known_values_and_ends() -> None:
    assert below(0.5, 3, 3) == pytest.approx(0.5)
    assert below(0.7, 1, 1) == pytest.approx(0.7)
    assert below(0.7, 2, 1) == pytest.approx(0.49)
    assert (below(0, 2, 3), below(1, 2, 3)) == (0, 1)


def test_a_tier_is_barred_once_audits_leave_little_doubt_and_the_last_never() -> None:
    counts = {"nano": Audits(20, 14), "mini": Audits(20, 20), "flagship": Audits(20, 2)}
    assert below_floor(counts, TIERS) == {"nano"}
    assert below_floor({"nano": Audits(1, 0)}, TIERS, floor=0.5) == frozenset()
    assert below_floor({}, TIERS) == frozenset()


@pytest.mark.parametrize("audited", [20, 60, 200])
def test_whoever_keeps_the_floor_is_rarely_blamed_and_whoever_is_far_below_is(audited: int) -> None:
    dice = Random(7)

    def blamed(share: float) -> float:
        found = [sum(dice.random() < share for _ in range(audited)) for _ in range(300)]
        return sum(is_below(Audits(audited, right), 0.95) for right in found) / 300

    assert blamed(0.96) < 0.1
    assert blamed(0.5) > 0.9


def test_one_bad_audit_is_no_evidence() -> None:
    assert not is_below(Audits(1, 0), 0.99)
    assert not is_below(Audits(0, 0), 0.99)


def test_many_are_audited_at_first_and_in_doubt_and_few_when_all_is_well() -> None:
    assert audit_share(Audits(), 0, 0) == MANY
    calm = [audit_share(Audits(20, 20), accepted, 1_000) for accepted in (100, 1_000, 10_000, 1_000_000)]
    assert calm == sorted(calm, reverse=True)
    assert calm[0] < MANY
    assert calm[-1] == LEAST
    assert audit_share(Audits(10, 8), 100, 1_000) == MANY


@pytest.mark.parametrize("accepted", [30, 300, 3_000])
def test_audits_come_to_the_usual_share_of_what_was_accepted(accepted: int) -> None:
    found = 0.0
    for before in range(accepted):
        found += audit_share(Audits(found, found), before, 1e9)
    assert found / accepted == pytest.approx(usual_share(accepted), rel=0.35)


def test_a_cheap_kind_pays_for_a_few_audits_and_then_for_a_part_of_what_it_costs() -> None:
    # An audit costs what 20 of its outcomes do.
    found, cheap = 0.0, 1 / 20
    for before in range(400):
        found += audit_share(Audits(found, found), before, before * cheap)
    assert FEW <= found <= FEW + 1 + SPENT * 400 * cheap + 400 * LEAST


def test_a_doubt_is_looked_into_as_long_as_verdicts_come_and_not_for_ever() -> None:
    assert audit_share(Audits(10, 8, asked=30), 400, 1_000) < MANY
    borderline = Audits(300, 280)
    assert audit_share(borderline, 2_000, 1_000) < MANY
    assert audit_share(borderline, 20_000, 1_000) == MANY
