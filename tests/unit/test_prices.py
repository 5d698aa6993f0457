"""Money: whole nano-dollars from usage and price, from the configuration or the bundled list."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fleet.config import ModelConfig, Price
from fleet.errors import BadInputError
from fleet.prices import Usage, cost_nano_usd, usd

LISTED = ModelConfig(context_tokens=1_000_000)


def priced(**price: str) -> ModelConfig:
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
