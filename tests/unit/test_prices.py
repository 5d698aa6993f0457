"""Money: whole nano-dollars from usage and price, from the configuration or the bundled list."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fleet.config import ModelConfig, Price
from fleet.errors import BadInputError
from fleet.prices import Rates, Usage, billed_as, cost_nano_usd, dearest, tariff, usd

LISTED = ModelConfig(context_tokens=1_000_000)


def priced(**price: object) -> ModelConfig:
    return ModelConfig(context_tokens=1_000, price=Price.model_validate(price))


def test_the_configured_price_is_per_million_and_knows_cached_input() -> None:
    model = priced(input="0.25", cached_input="0.025", output="2")
    usage = Usage(input_tokens=1_000_000, cached_tokens=400_000, output_tokens=500_000)
    assert cost_nano_usd("any", model, usage) == 150_000_000 + 10_000_000 + 1_000_000_000
    assert cost_nano_usd("any", priced(input="0.25", output="2"), usage) == 250_000_000 + 1_000_000_000


def test_a_cost_is_rounded_half_up_to_a_nano_dollar() -> None:
    model = priced(input="0.0005", output="0.0004")
    assert cost_nano_usd("any", model, Usage(input_tokens=1)) == 1
    assert cost_nano_usd("any", model, Usage(output_tokens=1)) == 0
    assert cost_nano_usd("any", model, Usage()) == 0


def test_reasoning_tokens_are_output_tokens_and_not_paid_twice() -> None:
    model = priced(input="1", output="1")
    assert cost_nano_usd("any", model, Usage(output_tokens=10, reasoning_tokens=8)) == 10_000


def test_a_configured_price_wins_over_the_list() -> None:
    usage = Usage(input_tokens=1_000, output_tokens=1_000)
    assert cost_nano_usd("gpt-5.4", priced(input="1", output="1"), usage) == 2_000_000
    assert cost_nano_usd("gpt-5.4", LISTED, usage) != 2_000_000


def test_listed_prices_are_in_order_of_the_tiers_and_cached_input_is_cheaper() -> None:
    usage = Usage(input_tokens=10_000, output_tokens=1_000)
    costs = [cost_nano_usd(name, LISTED, usage) for name in ("gpt-5.4-nano", "gpt-5.4-mini", "gpt-5.4")]
    assert 0 < costs[0] < costs[1] < costs[2]
    cached = usage.model_copy(update={"cached_tokens": 9_000})
    assert cost_nano_usd("gpt-5.4", LISTED, cached) < costs[2]


def test_long_contexts_have_a_price_of_their_own_where_the_list_says_so() -> None:
    """Twice the tokens past the step cost more than twice as much; below it they cost twice as much."""

    def cost(tokens: int) -> int:
        return cost_nano_usd("gpt-5.4", LISTED, Usage(input_tokens=tokens))

    assert cost(200_000) == 2 * cost(100_000)
    assert cost(800_000) > 2 * cost(400_000) or cost(400_000) > 2 * cost(200_000)


def test_a_model_without_a_price_is_an_error_that_says_what_to_write() -> None:
    with pytest.raises(
        BadInputError, match=r'No price is known for the model "own-model"; give models\.own-model\.price'
    ):
        cost_nano_usd("own-model", LISTED, Usage(input_tokens=1))


def test_usage_adds_up() -> None:
    one = Usage(input_tokens=1, cached_tokens=2, output_tokens=3, reasoning_tokens=4)
    assert one + one == Usage(input_tokens=2, cached_tokens=4, output_tokens=6, reasoning_tokens=8)
    assert (one + one).total == 8


@pytest.mark.parametrize(
    ("nano", "shown"), [(0, "$0.0000"), (31_200_000, "$0.0312"), (999_999_999, "$1.0000"), (1_234_567_890, "$1.23")]
)
def test_money_for_people(nano: int, shown: str) -> None:
    assert usd(nano) == shown
    assert Decimal(shown[1:]) == pytest.approx(Decimal(nano) / 10**9, abs=Decimal("0.005"))


def test_input_written_into_a_cache_has_a_price_of_its_own() -> None:
    usage = Usage(input_tokens=1_000, cached_tokens=300, cache_write_tokens=200, output_tokens=10)
    model = priced(input="1", cached_input="0.1", cache_write="1.25", output="10")
    assert cost_nano_usd("any", model, usage) == 500_000 + 30_000 + 250_000 + 100_000
    assert cost_nano_usd("any", priced(input="1", output="10"), usage) == 1_000_000 + 100_000
    (rates,) = tariff("any", model).bands
    assert rates.saved_by_cache(usage) == 300 * 900 - 200 * 250
    assert rates.saved_by_cache(Usage(input_tokens=9)) == 0


def test_a_long_input_has_its_prices_for_all_its_tokens_and_only_above_the_step() -> None:
    long = {"above": 1_000, "input": "2", "output": "20"}
    model = priced(input="1", cached_input="0.5", output="10", long_context=long)
    at, above = Usage(input_tokens=1_000, output_tokens=1), Usage(input_tokens=1_001, cached_tokens=1, output_tokens=1)
    assert cost_nano_usd("any", model, at) == 1_000_000 + 10_000
    assert cost_nano_usd("any", model, above) == 2_002_000 + 20_000
    assert [rates.above for rates in tariff("any", model, "batch").bands] == [0, 1_000]
    assert cost_nano_usd("any", model, above, "batch") == cost_nano_usd("any", model, above) // 2


def test_a_call_can_cost_something_beside_its_tokens() -> None:
    assert cost_nano_usd("any", priced(input="1", output="1", request="0.012"), Usage(input_tokens=1)) == 12_001_000


def test_a_configured_price_says_what_a_lane_costs_as_a_factor_or_by_itself_and_else_the_vendors_half_holds() -> None:
    usage = Usage(input_tokens=100, output_tokens=100)
    lanes = {"flex": "0.8", "priority": {"input": "3", "output": "30"}}
    model = priced(input="1", output="10", lanes=lanes)
    costs = [cost_nano_usd("any", model, usage, lane) for lane in ("standard", "flex", "batch", "priority")]
    assert costs == [1_100_000, 880_000, 550_000, 3_300_000]
    with pytest.raises(
        BadInputError, match=r"in the lane scale: its configured price has none; give models\.any\.price"
    ):
        cost_nano_usd("any", model, usage, "scale")
    with pytest.raises(BadInputError, match="in the lane priority"):
        cost_nano_usd("any", priced(input="1", output="10"), usage, "priority")
    with pytest.raises(ValidationError):
        priced(input="1", output="1", lanes={"night": "0.5"})
    with pytest.raises(ValidationError):
        priced(input="1", output="1", lanes={"flex": "-0.5"})


def test_the_list_has_lanes_and_one_that_it_does_not_have_is_never_the_standard_price() -> None:
    usage = Usage(input_tokens=10_000, output_tokens=1_000)
    standard, flex, batch = (
        cost_nano_usd("gpt-5.4-mini", LISTED, usage, lane) for lane in ("standard", "flex", "batch")
    )
    assert standard == 2 * flex == 2 * batch
    for name, lane in (("gpt-4o", "flex"), ("gpt-5.4-nano", "priority"), ("gpt-5.4-nano", "night")):
        with pytest.raises(BadInputError, match=f'No price is known for the model "{name}" in the lane {lane}; give'):
            cost_nano_usd(name, LISTED, usage, lane)


def test_what_is_held_for_flex_covers_being_served_as_any_other() -> None:
    usage = Usage(input_tokens=100)
    model = priced(input="1", output="1")
    assert dearest("any", model, usage, "flex")[0].context == "standard"
    assert dearest("any", model, usage, "batch")[0].cost(usage) == 50_000
    dear = priced(input="1", output="1", lanes={"flex": "2"})
    assert dearest("any", dear, usage, "flex")[0].cost(usage) == 200_000


def test_what_is_held_is_input_at_the_dearest_that_the_vendor_may_make_of_it() -> None:
    most = Usage(input_tokens=1_000, output_tokens=10)
    written = priced(input="1", cached_input="0.1", cache_write="1.25", output="10")
    rates, usage = dearest("any", written, most)
    assert usage == Usage(input_tokens=1_000, cache_write_tokens=1_000, output_tokens=10)
    assert rates.cost(usage) == 1_250_000 + 100_000
    assert dearest("any", priced(input="1", cached_input="2", output="1"), most)[1].cached_tokens == 1_000
    assert dearest("any", priced(input="1", cached_input="1", output="1"), most)[1] == most


def test_what_is_held_covers_shorter_calls_that_are_dearer() -> None:
    long = {"above": 100, "input": "0.5", "output": "1"}
    rates, usage = dearest("any", priced(input="1", output="1", long_context=long), Usage(input_tokens=1_000))
    assert (rates.above, rates.cost(usage)) == (0, 1_000_000)


def test_priority_is_held_for_what_cannot_ask_for_the_standard_where_there_is_a_price_for_it() -> None:
    most = Usage(input_tokens=100)
    model = priced(input="1", output="1", lanes={"priority": "2"})
    assert dearest("any", model, most)[0].context == "standard"
    rates, usage = dearest("any", model, most, says_default=False)
    assert (rates.context, rates.cost(usage)) == ("priority", 200_000)
    assert dearest("any", model, most, "batch", says_default=False)[0].context == "batch"
    assert dearest("any", priced(input="1", output="1"), most, says_default=False)[0].context == "standard"
    assert dearest("gpt-5.4-mini", LISTED, most, says_default=False)[0].context == "priority"
    assert dearest("gpt-5.4-nano", LISTED, most, says_default=False)[0].context == "standard"


@pytest.mark.parametrize(
    ("lane", "told", "context"),
    [
        ("standard", None, "standard"),
        ("standard", "default", "standard"),
        ("standard", "priority", "priority"),
        ("flex", "flex", "flex"),
        ("flex", "default", "standard"),
        ("flex", None, "standard"),
        ("batch", "default", "batch"),
        ("batch", None, "batch"),
        ("standard", "scale", "scale"),
    ],
)
def test_a_call_is_billed_as_the_vendor_says_it_was_served(lane: str, told: str | None, context: str) -> None:
    assert billed_as(lane, told) == context


def test_two_configurations_may_give_one_model_different_prices() -> None:
    one, other = priced(input="1", output="1"), priced(input="2", output="1")
    costs = [cost_nano_usd("any", model, Usage(input_tokens=1_000)) for model in (one, other, one)]
    assert costs == [1_000_000, 2_000_000, 1_000_000]


dollars = st.decimals(min_value=0, max_value=1_000, places=6)
counts = st.integers(min_value=0, max_value=3_000_000)


@given(dollars, dollars, dollars, dollars, counts, counts, counts, counts)
def test_a_cost_is_usage_times_price_and_its_own_rates_give_it_again(
    into: Decimal, cached: Decimal, write: Decimal, out: Decimal, plain: int, read: int, written: int, said: int
) -> None:
    usage = Usage(
        input_tokens=plain + read + written, cached_tokens=read, cache_write_tokens=written, output_tokens=said
    )
    model = priced(input=into, cached_input=cached, cache_write=write, output=out)
    exact = plain * Fraction(into) + read * Fraction(cached) + written * Fraction(write) + said * Fraction(out)
    cost = cost_nano_usd("any", model, usage)
    assert abs(cost - exact * 1_000) <= Fraction(1, 2)
    rates = tariff("any", model).rates(usage)
    # As a row of the ledger has them: text, and back.
    assert Rates.model_validate_json(rates.model_dump_json()).of_tokens(usage) == cost


@given(dollars, dollars, dollars, dollars, dollars, dollars, st.integers(1, 2_000_000), counts, counts, counts, counts)
def test_no_call_within_its_bounds_costs_more_than_is_held(
    into: Decimal,
    cached: Decimal,
    write: Decimal,
    out: Decimal,
    long_into: Decimal,
    long_out: Decimal,
    above: int,
    plain: int,
    read: int,
    written: int,
    said: int,
) -> None:
    usage = Usage(
        input_tokens=plain + read + written, cached_tokens=read, cache_write_tokens=written, output_tokens=said
    )
    long = {"above": above, "input": long_into, "output": long_out}
    model = priced(input=into, cached_input=cached, cache_write=write, output=out, long_context=long)
    for more in (0, 1, 1_000_000):
        most = Usage(input_tokens=usage.input_tokens + more, output_tokens=said + more)
        rates, worst = dearest("any", model, most)
        assert cost_nano_usd("any", model, usage) <= rates.cost(worst)
        assert worst.total == most.total
