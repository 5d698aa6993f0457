"""What a call costs, as a pure function of usage and price, in integer nano-dollars.

A price in the configuration wins over the bundled list of genai-prices (data in the package, no network).
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from pydantic import BaseModel, ConfigDict

from fleet.config import ModelConfig
from fleet.errors import BadInputError

NANO_PER_USD = 1_000_000_000


class Usage(BaseModel):
    """Tokens of one call. `input_tokens` includes `cached_tokens` and `cache_write_tokens`; `output_tokens` includes
    `reasoning_tokens`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    #: Input that the vendor wrote into its cache, where it bills that.
    cache_write_tokens: int = 0

    @property
    def total(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
        )


def cost_nano_usd(name: str, model: ModelConfig, usage: Usage, lane: str = "standard") -> int:
    """The cost of one call to the model called `name` by a lane, rounded half up to a nano-dollar.

    Raises:
        BadInputError: the configuration has no price and the bundled list does not know the model.
    """
    # Stand-in: half for flex and batch, until prices have service tiers of their own (whose `cost_nano_usd` replaces this one).
    share = Decimal(1) if lane == "standard" else Decimal("0.5")
    price = model.price
    if price is None:
        return _listed(name, usage, share)
    cached = price.input if price.cached_input is None else price.cached_input
    per_million = (
        (usage.input_tokens - usage.cached_tokens) * price.input
        + usage.cached_tokens * cached
        + usage.output_tokens * price.output
    )
    return _nano(share * per_million / 1_000_000)


def _listed(name: str, usage: Usage, share: Decimal) -> int:
    try:
        calculation = calc_price(
            PricedUsage(
                input_tokens=usage.input_tokens,
                cache_read_tokens=usage.cached_tokens or None,
                output_tokens=usage.output_tokens,
            ),
            model_ref=name,
        )
    except LookupError as error:
        raise BadInputError(
            f'No price is known for the model "{name}"; give models.{name}.price '
            "{input, cached_input, output} in US dollars per million tokens."
        ) from error
    return _nano(share * calculation.total_price)


def _nano(usd: Decimal) -> int:
    return int((usd * NANO_PER_USD).to_integral_value(rounding=ROUND_HALF_UP))


def usd(nano: int) -> str:
    """Nano-dollars for people: `$0.0312`."""
    value = Decimal(nano) / NANO_PER_USD
    return f"${value:.2f}" if value >= 1 else f"${value:.4f}"
