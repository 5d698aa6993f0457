"""The flagship alone: an estimate that the ledger gives again, parts that add up, and intervals that hold what they promise."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.config import FleetConfig, ModelConfig, Price, TierConfig
from fleet.counterfactual import Comparison, Counterfactual, compared
from fleet.interval import around, student
from fleet.ledger import Compared, LedgerEntry
from fleet.prices import Usage


def model(*prices: str) -> ModelConfig:
    into, cached, out = map(Decimal, prices)
    return ModelConfig(context_tokens=1000, price=Price(input=into, cached_input=cached, output=out))


CONFIG = FleetConfig(
    models={"small": model("0.1", "0.01", "1"), "middle": model("1", "0.1", "10"), "big": model("10", "1", "100")},
    tiers={
        "nano": TierConfig(model="small", escalate_to="mini"),
        "mini": TierConfig(model="middle", escalate_to="flagship"),
        "flagship": TierConfig(model="big"),
    },
)
MODELS = {"nano": "small", "mini": "middle", "flagship": "big"}


def entry(number: int, into: int = 0, out: int = 0, **changes: Any) -> LedgerEntry:
    """An entry whose tokens come to `into` and `out` at the flagship's price."""
    values: dict[str, Any] = {
        "call_id": f"c{number}",
        "job": "j",
        "subtask": "s1",
        "kind": "topic",
        "role": "work",
        "tier": "nano",
        "model": MODELS[changes.get("tier", "nano")],
        "provider": "openai",
        "cost_nano_usd": (into + out) // 10,
        "compared": Compared(flagship_input=into, flagship_output=out),
        "status": "ok",
        "started_at": float(number),
        "finished_at": number + 0.5,
    }
    return LedgerEntry(**{**values, **changes})


def asked(number: int, into: int, out: int, **changes: Any) -> LedgerEntry:
    """The same subtask in the holdout."""
    return entry(number, into, out, **{"role": "audit", "tier": "flagship", "holdout": True} | changes)


def comparison(entries: list[LedgerEntry]) -> Comparison:
    counted = Counterfactual()
    for one in entries:
        counted.add(one)
    return counted.comparison()


def whole(value: Comparison) -> int:
    assert value.savings is not None
    return sum(part for _, part in value.savings)


def test_an_answer_is_compared_with_the_flagship_with_nothing_cached() -> None:
    usage = Usage(input_tokens=1_000, cached_tokens=600, output_tokens=50, reasoning_tokens=20)
    plain = entry(1, compared=None, usage=usage, cost_nano_usd=400 * 100 + 600 * 10 + 50 * 1_000)
    its = compared(CONFIG, plain)
    assert its.compared == Compared(cache_saved=600 * 90, flagship_input=10_000_000, flagship_output=5_000_000)
    assert its.model_copy(update={"compared": None}) == plain
    unknown = CONFIG.model_copy(update={"models": {**CONFIG.models, "big": ModelConfig(context_tokens=1)}})
    assert compared(unknown, plain) == plain


def test_without_anything_measured_it_is_the_tokens_at_the_flagships_price_and_says_so() -> None:
    entries = [entry(1, 700, 300), entry(2, 100, 50, subtask="s2"), entry(3, 4_000, 2_000, role="review", subtask="r")]
    value = comparison(entries)
    assert value.alone == 1_150 + 600
    assert value.interval is None
    assert "as if it wrote as much and needed no retry" in value.estimate
    assert whole(value) == 1_150 - 115


def test_what_a_tier_above_was_shown_of_rejected_answers_is_nothing_to_the_flagship() -> None:
    entries = [
        entry(1, 700, 10, status="rejected"),
        entry(2, 1_500, 300, tier="mini"),
        entry(3, 600, 30, subtask="s2", status="rejected"),  # it failed: nothing of it would have been accepted
    ]
    value = comparison(entries)
    assert value.alone == 700 + 300
    assert whole(value) == 1_000 - (71 + 180 + 63)


def test_an_answer_that_an_audit_found_wrong_stands_until_something_better_comes() -> None:
    kept = [
        entry(1, 700, 10, status="rejected", flaw="schema"),
        entry(2, 900, 300, tier="mini", status="rejected", flaw="audit"),
        entry(3, 0, 0, role="audit", tier="flagship", status="rejected", flaw="audit", came_from="mini"),
    ]
    value = comparison(kept)
    assert value.alone == 700 + 300
    (measured,) = value.measured
    assert (measured.tier, measured.accepted) == ("mini", 1)
    better = [*kept, entry(4, 1_000, 200, tier="flagship")]
    value = comparison(better)
    assert value.alone == 700 + 200
    (measured,) = value.measured
    assert (measured.tier, measured.accepted) == ("flagship", 1)
    assert comparison([*kept, entry(4, 1_000, 200, tier="flagship", status="rejected", flaw="schema")]).alone == 1_000


def test_lanes_and_caching_are_what_they_took_off_and_the_rest_is_routing() -> None:
    its = Compared(flagship_input=900, flagship_output=100, cache_saved=30, lane_saved=20)
    overheads = [
        entry(2, role="check", subtask="s1", tier="mini", cost_nano_usd=7),
        entry(3, subtask="s3", status="failed", cost_nano_usd=11, compared=None),
        entry(4, role="plan", subtask="p", tier="flagship", cost_nano_usd=100, compared=Compared(cache_saved=5)),
    ]
    value = comparison([entry(1, cost_nano_usd=50, compared=its), *overheads])
    assert value.savings is not None
    assert value.alone == 1_000 + 105
    assert (value.savings.caching, value.savings.lanes) == (35, 20)
    assert value.savings.routing == 1_000 - 100 - 7 - 11
    assert whole(value) == value.alone - (50 + 7 + 11 + 100)


def test_the_holdout_measures_what_the_flagship_writes_and_how_often_it_is_rejected() -> None:
    entries = []
    for i in range(200):
        entries.append(entry(i, 1_000, 500, subtask=f"s{i}"))
        if i < 40:
            passed = i % 4 != 0
            entries.append(asked(1_000 + i, 1_000, 750, subtask=f"s{i}", status="ok" if passed else "rejected"))
    value = comparison(entries)
    (measured,) = value.measured
    assert (measured.basis, measured.asked, measured.passed) == ("holdout", 40, 30)
    # Four calls for three accepted answers, each with half as much more output.
    assert (measured.input_ratio, measured.output_ratio, measured.passing) == (1.0, 1.5, 0.75)
    assert value.alone == pytest.approx(200 * (1_000 * 4 / 3 + 500 * 2), rel=0.001)
    assert value.interval is not None
    assert value.alone is not None
    assert value.interval[0] < value.alone < value.interval[1]
    assert "on 40 of them that it was asked too (it passed the check with 30)" in value.estimate


def test_a_kind_with_few_in_the_holdout_leans_on_the_others() -> None:
    entries = [entry(i, 0, 100, subtask=f"a{i}") for i in range(50)]
    entries += [asked(100 + i, 0, 300, subtask=f"a{i}") for i in range(20)]
    entries += [entry(200 + i, 0, 100, subtask=f"b{i}", kind="other") for i in range(50)]
    entries += [asked(300, 0, 100, subtask="b0", kind="other")]
    other, topic = comparison(entries).measured
    assert topic.output_ratio == pytest.approx(3, rel=0.02)
    assert 1.5 < other.output_ratio < 2.5, "one that wrote as much, between it and the threefold of the rest"


def test_without_a_holdout_what_began_on_the_flagship_says_it_and_what_was_handed_to_it_does_not() -> None:
    entries = [entry(i, 1_000, 100, subtask=f"a{i}") for i in range(50)]
    entries += [entry(100 + i, 1_000, 180 + 10 * (i % 5), subtask=f"f{i}", tier="flagship") for i in range(10)]
    entries += [
        entry(200, 1_000, 5, subtask="e", status="rejected"),
        entry(201, 9_000, 9_000, subtask="e", tier="flagship"),
    ]
    value = comparison(entries)
    by = {one.tier: one for one in value.measured}
    assert (by["nano"].basis, by["nano"].asked, by["flagship"].basis) == ("others", 10, "itself")
    assert by["nano"].output_ratio == pytest.approx(2.0)
    assert value.alone == 50 * 1_200 + 10 * 1_200 + 1_000 + 9_000
    assert value.interval is not None
    few = comparison(entries[:54])
    assert few.measured[-1].basis == "assumed"


def test_no_price_is_no_failure() -> None:
    value = comparison([entry(1, compared=None, cost_nano_usd=5)])
    assert (value.alone, value.savings) == (None, None)
    assert "No price is known" in value.estimate


def any_entries(dice: random.Random) -> list[LedgerEntry]:
    def amount() -> int:
        return dice.choice([0, 1, dice.randrange(1_000), dice.randrange(10**9)])

    found = []
    for number in range(dice.randrange(40)):
        role = dice.choice(["plan", "work", "work", "work", "work", "review", "reduce", "check", "audit", "audit"])
        its = Compared(
            flagship_input=amount(),
            flagship_output=amount(),
            cache_saved=dice.randrange(-1_000, 10**6),
            lane_saved=dice.randrange(-1_000, 10**6),
        )
        found.append(
            entry(
                number,
                compared=its,
                subtask=dice.choice(["s1", "s2", "s3", "s4", None]),
                kind=dice.choice(["topic", "other", None]),
                role=role,
                holdout=role == "audit" and dice.random() < 0.8,
                tier=dice.choice(list(MODELS)),
                status=dice.choice(["ok", "ok", "rejected", "failed"]),
                cost_nano_usd=amount(),
                started_at=dice.choice([1.0, dice.random()]),
            )
        )
    return found


@settings(deadline=None, max_examples=100)
@given(st.randoms(use_true_random=False))
def test_the_parts_add_up_whatever_the_order_and_a_replay_gives_the_same(dice: random.Random) -> None:
    entries = any_entries(random.Random(dice.randrange(2**32)))
    value = comparison(entries)
    assert value.alone is not None
    assert whole(value) == value.alone - sum(one.cost_nano_usd for one in entries)
    if value.interval is not None:
        assert value.interval[0] <= value.alone <= value.interval[1]
    lines = [one.model_dump_json() for one in entries]
    dice.shuffle(lines)
    again = comparison([LedgerEntry.model_validate_json(line) for line in lines])
    assert again == value
    assert Comparison.model_validate_json(again.model_dump_json()) == value


def a_job(dice: random.Random, share: float) -> tuple[list[LedgerEntry], float]:
    """Three kinds whose flagship writes and fails differently; what the flagship alone really costs."""
    entries: list[LedgerEntry] = []
    truth = 0.0
    for kind in ("a", "b", "c"):
        ratio, failing = dice.lognormvariate(0.2, 0.4), dice.choice([0.0, 0.05, 0.2])
        into, out = dice.randint(200, 3_000), dice.randint(100, 3_000)
        for i in range(150):
            size = dice.lognormvariate(0, 0.5)
            prompt, answer = round(into * size), round(out * size * dice.lognormvariate(0, 0.3))
            flagship = round(answer * ratio * dice.lognormvariate(0, 0.3))
            truth += (prompt + flagship) / (1 - failing)
            number, subtask = len(entries), f"{kind}{i}"
            entries.append(entry(number, prompt, answer, subtask=subtask, kind=kind))
            if dice.random() < share:
                status = "rejected" if dice.random() < failing else "ok"
                entries.append(asked(number + 1, prompt, flagship, subtask=subtask, kind=kind, status=status))
    return entries, truth


def test_the_interval_holds_the_truth_as_often_as_it_says_and_is_no_wider_than_it_must_be() -> None:
    dice = random.Random(7)
    jobs = 60
    inside, widths = 0, []
    for _ in range(jobs):
        entries, truth = a_job(dice, 0.1)
        value = comparison(entries)
        assert value.alone is not None
        assert value.interval is not None
        inside += value.interval[0] <= truth <= value.interval[1]
        widths.append((value.interval[1] - value.interval[0]) / value.alone)
    assert inside >= 0.88 * jobs, f"{inside} of {jobs}"
    # 15 of 150 subtasks asked of each of three kinds: the estimate is good to about an eighth to each side.
    assert sorted(widths)[jobs // 2] < 0.30, sorted(widths)[jobs // 2]


def test_quantiles_and_intervals() -> None:
    # Of Student's distribution: Abramowitz and Stegun, table 26.10.
    for degrees, quantile in {5: 2.571, 10: 2.228, 30: 2.042, 1e9: 1.960}.items():
        assert student(degrees) == pytest.approx(quantile, abs=0.004)
    assert student(2) == pytest.approx(4.303, rel=0.04)
    low, high = around(100.0, 0.1, 2.0)
    assert low * high == pytest.approx(10_000)
    assert around(1.0, 50.0, 4.0) == (0.01, 100.0)
