"""Forecasts: what is known narrows them, what is not widens them, and the same input gives the same figures."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from fleet.config import FleetConfig
from fleet.errors import BadInputError
from fleet.estimate import Look, Work
from fleet.evidence import START, Evidence, Seen, from_history, from_ledger
from fleet.forecast import Forecast, Range, forecast, scaled
from fleet.jobs import JobSpec, Outcome
from fleet.sampling import evidence_of, sample_job, spread
from tests.support.bench import config
from tests.support.lanes import lanes_config
from tests.unit.test_counterfactual import entry

CONFIG = config()
#: Its models are served as flex with a minute left, and in batches with ten of which five are kept.
LANES = lanes_config()
LADDER = ("nano", "mini", "flagship")


def work(step: str = "a", subtasks: int = 100, **changes: Any) -> Work:
    values = {"kind": step, "ladder": LADDER, "input_tokens": 1_000, "output_tokens": 50, "most_output_tokens": 2_000}
    return Work(**{"step": step, "subtasks": subtasks, **values, **changes})


def told(works: list[Work], evidence: dict[str, Evidence] | None = None, on: FleetConfig = CONFIG) -> Forecast:
    return forecast(works, evidence or {}, on)


def width(value: Range) -> float:
    return value.high / value.low


def test_the_same_input_gives_the_same_figures_and_they_are_in_order() -> None:
    found = told([work(), work("b", needs=("a",))])
    assert found == told([work(), work("b", needs=("a",))])
    for value in (found.cost_nano_usd, found.time_s, *(step.cost_nano_usd for step in found.steps)):
        assert 0 < value.low < value.typical < value.high


def test_a_guess_is_the_price_of_the_tokens_within_the_length_of_an_answer() -> None:
    (step,) = told([work()]).steps
    typical = 100 * (1_000 * 200 + 50 * 1_000)
    assert step.cost_nano_usd.low < typical < step.cost_nano_usd.high
    assert (step.basis, step.seen, step.tier, step.model) == ("prior", 0, "nano", "good")
    assert 100 <= step.calls.typical < 110


def test_what_is_rejected_goes_up_and_is_paid_there() -> None:
    seen = {
        ("nano", START): Seen(200, 100, 200 * 1_000, 200 * 1_000**2),
        ("mini", "nano"): Seen(100, 100, 100 * 2_000, 100 * 2_000**2),
    }
    (step,) = told([work(subtasks=1_000)], {"a": Evidence("sample", seen)}).steps
    assert step.calls.typical == pytest.approx(1_500, rel=0.02)
    assert step.cost_nano_usd.typical == pytest.approx(1_000 * 1_000 + 500 * 2_000, rel=0.05)
    assert width(step.cost_nano_usd) < 1.5


def test_the_more_was_seen_the_narrower_it_gets_and_history_never_as_narrow_as_a_sample() -> None:
    def of(n: int, basis: Any) -> float:
        seen = {("nano", START): Seen(n, n, n * 1_000.0, n * 1_100_000.0 if basis == "sample" else None)}
        return width(told([work(subtasks=10_000)], {"a": Evidence(basis, seen)}).cost_nano_usd)

    guess = width(told([work(subtasks=10_000)]).cost_nano_usd)
    assert of(100, "sample") < of(10, "sample") < of(3, "sample") < 5
    assert of(100, "sample") < of(1_000, "history") < 3 < guess + 3
    assert of(1_000, "history") > 2


def test_a_tier_that_nobody_saw_is_taken_to_be_off_as_much_as_one_that_was_seen() -> None:
    dear = Evidence("sample", {("nano", START): Seen(10, 0, 10 * 2_500_000.0, 10 * 2_500_000.0**2)})
    (step,) = told([work(ladder=("nano", "mini"))], {"a": dear}).steps
    # Ten times what was expected, and nearly all of it goes up to a tier with the same price.
    assert step.cost_nano_usd.typical == pytest.approx(2 * 100 * 2_500_000, rel=0.25)


def test_what_a_condition_skips_costs_nothing_and_neither_does_what_needs_it() -> None:
    half = work("b", conditional=True, holds=(50, 100))
    first, second = told([half, work("c", needs=("b",))]).steps
    assert first.calls.typical == pytest.approx(50, abs=6)
    assert second.calls.typical == pytest.approx(50, abs=8)
    seen = Evidence("sample", {("nano", START): Seen(3, 3, 3_000.0, 3_000_000.0)}, ran=1, skipped=9)
    (skipping,) = told([work(conditional=True)], {"a": seen}).steps
    assert skipping.calls.typical < 40


def test_a_review_reads_what_was_written_and_condenses_what_is_too_much() -> None:
    review = work("review", 1, ladder=("flagship",), input_tokens=100, gathers=("a",))
    few, many = (told([work(subtasks=n), review]).steps[1] for n in (10, 1_000))
    assert many.cost_nano_usd.typical - few.cost_nano_usd.typical > 2_000 * 900 * 50 * 0.5
    small = config(context_tokens=20_000)
    cut = told([work(subtasks=1_000), review], on=small).steps[1]
    assert cut.cost_nano_usd.typical < many.cost_nano_usd.typical
    assert cut.calls.typical > 3
    again = told(
        [work(subtasks=1), review.__class__(**{f: getattr(review, f) for f in review.__slots__} | {"rounds": 3})]
    ).steps[1]
    assert again.calls.high >= 2


def test_judges_audits_and_the_holdout_are_paid_too() -> None:
    plain, looked_at = (
        told([work(looks=looks)]).steps[0] for looks in ((), (Look("flagship", 0.5, output_tokens=60),))
    )
    assert looked_at.calls.typical - plain.calls.typical == pytest.approx(50, abs=5)
    more = looked_at.cost_nano_usd.typical - plain.cost_nano_usd.typical
    assert more == pytest.approx(50 * (1_050 * 2_000 + 60 * 10_000), rel=0.2)


def lane_of(told_: Forecast) -> str:
    (step,) = told_.steps
    return step.lane


def test_a_step_with_a_deadline_costs_what_its_lane_does() -> None:
    plain, flex, batch, near = (told([work(due_s=due_s)], on=LANES) for due_s in (None, 500.0, 86_400.0, 10.0))
    assert [lane_of(one) for one in (plain, flex, batch, near)] == ["standard", "flex", "batch", "standard"]
    for cheaper in (flex, batch):
        assert cheaper.cost_nano_usd.typical == pytest.approx(0.5 * plain.cost_nano_usd.typical, rel=0.12)
        assert cheaper.cost_nano_usd.low == pytest.approx(0.5 * plain.cost_nano_usd.low, rel=0.2)
    assert near.cost_nano_usd.typical == plain.cost_nano_usd.typical
    assert flex.time_s.typical > 1.5 * plain.time_s.typical
    assert lane_of(told([work(due_s=86_400.0)])) == "standard", "the models have no other"


def test_a_batch_may_take_the_day_that_the_vendor_has_and_no_longer_than_until_it_is_taken_back() -> None:
    long, short = (told([work(due_s=due_s, ladder=("nano",))], on=LANES) for due_s in (7 * 86_400.0, 700.0))
    assert 86_400 <= long.time_s.high < 86_400 + 600
    assert long.time_s.low < 600 < long.time_s.typical
    assert long.batches_until_s == 7 * 86_400 - 300
    # Of what has 400 s, much is taken back, and asked at once: as flex, as that is still in time then.
    assert 400 <= short.time_s.high < 500
    assert short.batches_until_s == 400
    document = LANES.model_dump(mode="json")
    document["lanes"]["flex_from_s"] = 500
    at_once = told([work(due_s=700.0, ladder=("nano",))], on=FleetConfig.model_validate(document))
    assert at_once.cost_nano_usd.typical > 1.1 * short.cost_nano_usd.typical
    assert told([work()], on=LANES).batches_until_s is None


def test_what_needs_a_batch_has_the_lane_that_is_left() -> None:
    first, second = told([work("a", due_s=1_000.0), work("b", needs=("a",), due_s=1_000.0)], on=LANES).steps
    assert first.lane == "batch"
    assert second.lane == "flex"


def test_a_sample_that_was_asked_at_once_tells_what_a_lane_costs() -> None:
    seen = Evidence("sample", {("nano", START): Seen(50, 50, 50 * 9_000.0, 50 * 9_000.0**2)})
    for due_s, factor in ((None, 1.0), (500.0, 0.5), (86_400.0, 0.5)):
        (step,) = told([work(due_s=due_s)], {"a": seen}, LANES).steps
        assert step.cost_nano_usd.typical == pytest.approx(factor * 100 * 9_000, rel=0.12)


def test_audits_take_flex_where_the_flagship_has_it() -> None:
    audits = (Look("flagship", 0.5, output_tokens=60, audit=True),)
    looked_at, plain = (told([work(looks=looks)], on=LANES).cost_nano_usd.typical for looks in (audits, ()))
    at_once = told([work(looks=audits)]).cost_nano_usd.typical - told([work()]).cost_nano_usd.typical
    assert looked_at - plain == pytest.approx(0.5 * at_once, rel=0.2)
    near = told([work(looks=audits, due_s=10.0)], on=LANES).cost_nano_usd.typical
    assert near - plain == pytest.approx(at_once, rel=0.2)


def test_audits_that_go_by_what_was_found_may_be_none_and_may_be_many() -> None:
    auto = (Look("flagship", 0.1, most_share=0.25, audit=True),)
    (step,) = told([work(looks=auto)]).steps
    (bare,) = told([work()]).steps
    assert step.cost_nano_usd.low == pytest.approx(bare.cost_nano_usd.low, rel=0.5)
    assert step.calls.low <= 102
    assert step.calls.high >= 124
    seen = {("nano", START): Seen(500, 500, 500 * 9_000.0)}
    (known,) = told([work(looks=auto)], {"a": Evidence("history", seen)}).steps
    assert known.calls.high < 120


def test_limits_places_and_chains_make_the_time() -> None:
    document = CONFIG.model_dump(mode="json")
    document["models"]["good"]["limits"] = {"requests_per_minute": 60}
    limited = FleetConfig.model_validate(document)
    found = told([work(subtasks=600, structured=False)], on=limited)
    assert found.limits_s == pytest.approx(600, rel=0.1)
    assert found.time_s.low > 550
    document["models"]["good"]["limits"] = {"tokens_per_minute": 60_000}
    assert told([work(subtasks=600)], on=FleetConfig.model_validate(document)).limits_s > 500
    free = told([work(subtasks=600)])
    assert free.limits_s == 0
    document["models"]["good"]["limits"] = {"in_flight": 1}
    one = told([work(subtasks=600)], on=FleetConfig.model_validate(document))
    assert one.time_s.typical > 50 * free.time_s.typical
    chain = told([work("a", 1), work("b", 1, needs=("a",)), work("c", 1, needs=("b",))])
    assert chain.time_s.typical > 2 * told([work("a", 1)]).time_s.typical
    timed = Evidence("sample", {("nano", START): Seen(4, 4, 4_000.0, 4_000_000.0, seconds=40.0, written=200)})
    assert told([work("a", 1)], {"a": timed}).time_s.typical == pytest.approx(10, rel=0.2)


def test_a_budget_is_enough_or_too_small_in_some_of_the_draws() -> None:
    free = forecast([work()], {}, CONFIG)
    assert free.over_budget is None
    middle = forecast([work()], {}, CONFIG, round(free.cost_nano_usd.typical))
    assert middle.over_budget == pytest.approx(0.5, abs=0.01)


def test_the_interval_of_a_sample_holds_the_truth_as_often_as_it_says() -> None:
    dice = random.Random(3)
    inside = 0
    widths = []
    jobs = 24
    for _ in range(jobs):
        mean, spread_, accepted = dice.uniform(500, 50_000), dice.uniform(0.1, 0.8), dice.choice([1.0, 0.95, 0.7, 0.3])
        calls = [mean * dice.lognormvariate(-(spread_**2) / 2, spread_) for _ in range(300)]
        fine = [dice.random() < accepted for _ in calls]
        above = [20 * cost * dice.lognormvariate(0, 0.2) for cost in calls]
        truth = sum(calls) + sum(cost for cost, passed in zip(above, fine, strict=True) if not passed)
        few = dice.sample(range(300), 5)
        failed = [i for i in few if not fine[i]]
        seen = {("nano", START): Seen(5, 5 - len(failed), sum(calls[i] for i in few), sum(calls[i] ** 2 for i in few))}
        if failed:
            costs = [above[i] for i in failed]
            seen["mini", "nano"] = Seen(len(failed), len(failed), sum(costs), sum(cost**2 for cost in costs))
        step = work(subtasks=300, structured=True, ladder=("nano", "flagship") if not failed else ("nano", "mini"))
        value = told([step], {"a": Evidence("sample", seen)}).cost_nano_usd
        inside += value.low <= truth <= value.high
        widths.append(width(value))
    assert inside >= 0.83 * jobs, inside
    assert sorted(widths)[jobs // 2] < 8, sorted(widths)[jobs // 2]


def test_a_ledger_says_what_each_tier_did_by_where_the_item_came_from() -> None:
    calls = [
        entry(1, subtask="s1", step="a", status="rejected", cost_nano_usd=10, latency_ms=500),
        entry(2, subtask="s1", step="a", tier="mini", cost_nano_usd=40, latency_ms=1_500),
        entry(3, subtask="s2", step="a", cost_nano_usd=20, latency_ms=500),
        entry(4, subtask="s2", step="a", status="failed", cost_nano_usd=99),
        entry(5, subtask="r", step="review", role="review", cost_nano_usd=99),
    ]
    random.Random(1).shuffle(calls)
    (evidence,) = from_ledger(calls).values()
    assert evidence.seen == {
        ("nano", START): Seen(2, 1, 30, 500, seconds=1.0, written=0),
        ("mini", "nano"): Seen(1, 1, 40, 1_600, seconds=1.5, written=0),
    }
    assert from_history({}).basis == "prior"
    assert from_history({("nano", START): Seen(2.5, 2, 100)}).basis == "history"


def test_longer_items_than_those_that_were_seen_cost_more() -> None:
    seen = {("nano", START): Seen(5, 5, 5_000.0, 5_000_000.0)}
    longer = scaled(Evidence("sample", seen), work(input_tokens=1_000), work(input_tokens=3_000), CONFIG)
    assert longer.scale == pytest.approx((3_000 * 200 + 50_000) / (1_000 * 200 + 50_000))
    plain, scaled_ = (told([work()], {"a": its}).cost_nano_usd.typical for its in (Evidence("sample", seen), longer))
    assert scaled_ == pytest.approx(plain * longer.scale, rel=0.01)


def test_a_sample_has_what_runs_once_per_item_and_what_that_needs() -> None:
    spec = JobSpec.model_validate(
        {
            "name": "x" * 200,
            "items": [f"item {i}" for i in range(100)],
            "steps": [
                {"id": "rules", "prompt": "Rules."},
                {"id": "a", "each": "items", "needs": ["rules"], "prompt": "{{ rules }} {{ item }}"},
                {"id": "brief", "needs": ["a"], "prompt": "{{ a }}"},
            ],
            "review": {"prompt": "R."},
            "holdout": {},
            "webhook": "https://example.com/x",
            "budget_usd": 5,
        }
    )
    assert spread(4, 100) == [12, 37, 62, 87]
    assert spread(9, 3) == [0, 1, 2]
    small = sample_job(spec, ["one", "two"], Decimal("0.05"))
    assert [step.id for step in small.steps] == ["rules", "a"]
    assert (small.items, small.review, small.holdout, small.webhook) == (("one", "two"), None, None, None)
    assert small.budget_usd == Decimal("0.05")
    timed = spec.model_copy(
        update={"deadline": 86_400.0, "steps": tuple(one.model_copy(update={"deadline": 60.0}) for one in spec.steps)}
    )
    hurried = sample_job(timed, ["one"], Decimal(1))
    assert [hurried.deadline, *(step.deadline for step in hurried.steps)] == [None, None, None]
    with pytest.raises(BadInputError, match="nothing to sample"):
        sample_job(spec.model_copy(update={"steps": spec.steps[:1]}), ["one"], Decimal(1))
    images = JobSpec.model_validate(
        {
            "name": "x",
            "goal": "g",
            "items": {"images": {"root": "."}},
            "steps": [{"id": "a", "each": "items", "prompt": "P"}],
        }
    )
    taken = sample_job(images, [{"path": "a[1].png"}], Decimal(1)).items
    assert taken.images.include == ("a[[]1].png",)  # type: ignore[union-attr]


def test_outcomes_say_how_many_a_condition_let_run() -> None:
    outcomes = [
        Outcome(step="a", status="ok"),
        Outcome(step="a", status="failed"),
        Outcome(step="a", status="skipped", error="when: item"),
        Outcome(step="a", status="skipped", error="it needs b, which is skipped"),
    ]
    found = evidence_of([entry(1, step="a", cost_nano_usd=7)], outcomes, [work()], [work()], CONFIG)["a"]
    assert (found.ran, found.skipped, found.basis) == (2, 1, "sample")
    assert found.seen["nano", START].cost == 7
