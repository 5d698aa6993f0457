"""What a call costs, as a pure function of usage and price, in integer nano-dollars.

A price in the configuration wins over the bundled list (`fleet.price_list`). What has no price has none: an unknown model, or a
lane that nobody gave a price for, is an error before anything is spent, never nothing and never the standard price.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property

from pydantic import BaseModel, ConfigDict

from fleet import price_list
from fleet.config import ModelConfig
from fleet.errors import BadInputError
from fleet.price_list import MINUTE_S, STANDARD, NotListedError
from fleet.tariffs import LanePrice, Price, TokenPrices

NANO_PER_USD = 1_000_000_000
CONFIG = "config"
#: What flex and batch cost of the standard price where the configuration has a price and does not say. Source: the vendor's
#: price page and its guides "Flex processing" and "Batch API"; the bundled list has both, model by model, as of 2026-10-14.
VENDOR_FACTORS = {"flex": Decimal("0.5"), "batch": Decimal("0.5")}
#: As what a vendor may serve a call that does not say how it is to be served: that is a setting of its account's projects.
UNASKED = "priority"
#: Names that vendors have for being served at once and at the standard price.
_AT_STANDARD = ("default", "standard", "auto", "on_demand")
#: Models whose tariff is kept; a configuration has a handful.
_MOST_KEPT = 1_000


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


class Rates(BaseModel):
    """The prices that one call has: what a ledger entry says its cost was computed from. US dollars per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    output: Decimal
    #: Dollars of the call itself.
    request: Decimal = Decimal(0)
    #: What it was billed as: `standard`, `flex`, `batch`, or what else the vendor says it served it with.
    context: str = STANDARD
    #: They hold for calls with more input tokens than these.
    above: int = 0
    #: `config`, or the bundled list and its version.
    source: str
    #: Since when they hold, where the list says it.
    since: date | None = None

    @cached_property
    def _per_token(self) -> tuple[int, int, int, int, int]:
        """Nano-dollars of a token (input, cached, written, output) as whole numbers over the last one: exact, and quick."""
        prices = (self.input, self.cached_input, self.cache_write, self.output)
        digits = max(0, *(-int(price.as_tuple().exponent) for price in prices))
        into, cached, written, out = (int(price.scaleb(digits)) * 1_000 for price in prices)
        return into, cached, written, out, 10**digits

    def of_tokens(self, usage: Usage) -> int:
        """The tokens of a call in nano-dollars, rounded half up."""
        into, cached, written, out, whole = self._per_token
        read, wrote = usage.cached_tokens, usage.cache_write_tokens
        parts = (usage.input_tokens - read - wrote) * into + read * cached + wrote * written + usage.output_tokens * out
        return (2 * parts + whole) // (2 * whole)

    @cached_property
    def fee(self) -> int:
        """The call itself in nano-dollars."""
        return _rounded(self.request * NANO_PER_USD)

    def cost(self, usage: Usage) -> int:
        """A billed call in nano-dollars."""
        return self.of_tokens(usage) + self.fee

    def worst(self, most: Usage) -> Usage:
        """So much input and output at the dearest: all of the input plain, written into the vendor's cache, or read from it."""
        plain = Usage(input_tokens=most.input_tokens, output_tokens=most.output_tokens)
        dear = max(self.input, self.cache_write, self.cached_input)
        if dear == self.input:
            return plain
        field = "cache_write_tokens" if dear == self.cache_write else "cached_tokens"
        return plain.model_copy(update={field: most.input_tokens})

    def saved_by_cache(self, usage: Usage) -> int:
        """What cached input cost less than other input would have, less what writing it cost more; in nano-dollars."""
        if not usage.cached_tokens and not usage.cache_write_tokens:
            return 0
        into, cached, written, _, whole = self._per_token
        parts = usage.cached_tokens * (into - cached) - usage.cache_write_tokens * (written - into)
        return (2 * parts + whole) // (2 * whole)


@dataclass(frozen=True, slots=True)
class Tariff:
    """A model's prices in one context, by rising length of input; the first of them holds from the first token."""

    bands: tuple[Rates, ...]

    def rates(self, usage: Usage) -> Rates:
        """Those of a call that used so much."""
        found, *longer = self.bands
        for rates in longer:
            if usage.input_tokens > rates.above:
                found = rates
        return found

    def worst(self, most: Usage) -> tuple[Rates, Usage]:
        """The prices, of calls with no more than so much input and output, at which these cost most; and as what.

        Prices of shorter calls count, too: what is used in the end may be less input, and should that cost more it was held.
        """
        first, *longer = self.bands
        reached = [rates for rates in reversed(longer) if most.input_tokens > rates.above]
        found = [(rates, rates.worst(most)) for rates in (*reached, first)]
        return max(found, key=_cost)


def tariff(name: str, model: ModelConfig, context: str = STANDARD, at: float | None = None) -> Tariff:
    """The prices of the model called `name` in a lane, or of what its vendor says it was served with.

    Args:
        at: seconds since 1970; left out: now. The bundled list has prices from a day on, and of some hours of the day.

    Raises:
        BadInputError: nobody says what that costs; the sentence says what to write where.
    """
    minute = int((time.time() if at is None else at) // MINUTE_S)
    kept = _tariffs.get((name, context))
    # The same object: the numbers of two configurations may differ under one name.
    if kept is not None and kept[0] is model and (kept[1] == minute or model.price is not None):
        found = kept[2]
    else:
        try:
            found = _configured(name, model.price, context) if model.price else _listed(name, context, minute)
        except BadInputError as error:
            found = str(error)  # that there is none is asked for each call, too
        if len(_tariffs) >= _MOST_KEPT:
            _tariffs.clear()
        _tariffs[name, context] = (model, minute, found)
    if isinstance(found, str):
        raise BadInputError(found)
    return found


#: By model and context: its configuration, the minute, and its prices, or why there are none.
_tariffs: dict[tuple[str, str], tuple[ModelConfig, int, Tariff | str]] = {}


def cost_nano_usd(name: str, model: ModelConfig, usage: Usage, lane: str = STANDARD) -> int:
    """The cost of one call to the model called `name` in a lane, rounded half up to a nano-dollar.

    Raises:
        BadInputError: neither the configuration nor the bundled list has a price for that.
    """
    return tariff(name, model, lane).rates(usage).cost(usage)


def dearest(
    name: str, model: ModelConfig, most: Usage, lane: str = STANDARD, *, says_default: bool = True
) -> tuple[Rates, Usage]:
    """The prices at which a call in a lane, of so much input and output, costs most; and as what its input does.

    One that asks for flex may be served, and billed, as any other; so may one that asks for nothing.

    Args:
        says_default: a call of the lane standard asks for that, so that it is served so.

    Raises like `cost_nano_usd`.
    """
    found = [tariff(name, model, lane).worst(most)]
    if lane == "flex":
        found.append(tariff(name, model).worst(most))
    elif lane == STANDARD and not says_default:
        with contextlib.suppress(BadInputError):
            found.append(tariff(name, model, UNASKED).worst(most))
    return max(found, key=_cost)


def _cost(found: tuple[Rates, Usage]) -> int:
    rates, usage = found
    return rates.cost(usage)


def billed_as(lane: str, told: str | None) -> str:
    """The context whose prices a call has that went out in a lane and was, as the vendor tells, served with a service tier.

    A batch is a way of sending and not a service tier: its answers tell of the `default` one. Flex that the vendor does not
    confirm is billed as standard, which is never less.
    """
    if lane == "batch":
        return lane
    return STANDARD if told is None or told in _AT_STANDARD else told


def _configured(name: str, price: Price, context: str) -> Tariff:
    told = price.lanes.get(context) if context != STANDARD else Decimal(1)  # type: ignore[call-overload]
    if told is None:
        told = VENDOR_FACTORS.get(context)
    if told is None:
        raise BadInputError(
            f'No price is known for the model "{name}" in the lane {context}: its configured price has none; '
            f"give models.{name}.price.lanes.{context} as a factor or as {{input, cached_input, output}}."
        )
    of_lane, factor = (told, Decimal(1)) if isinstance(told, LanePrice) else (price, told)
    bands: list[tuple[int, TokenPrices]] = [(0, of_lane)]
    if of_lane.long_context is not None:
        bands.append((of_lane.long_context.above, of_lane.long_context))
    return Tariff(
        tuple(
            Rates(
                input=band.input * factor,
                cached_input=_or(band.cached_input, band.input) * factor,
                cache_write=_or(band.cache_write, band.input) * factor,
                output=band.output * factor,
                request=price.request,
                context=context,
                above=above,
                source=CONFIG,
            )
            for above, band in bands
        )
    )


def _listed(name: str, context: str, minute: int) -> Tariff:
    try:
        found = price_list.listing(name, context, minute)
    except NotListedError as error:
        where = "" if context == STANDARD else f" in the lane {context}"
        raise BadInputError(
            f'No price is known for the model "{name}"{where}; give models.{name}.price '
            f"{{input, cached_input, output}} in US dollars per million tokens. The bundled list {error}."
        ) from error
    return Tariff(
        tuple(
            Rates(
                input=band.input,
                cached_input=band.cached_input,
                cache_write=band.cache_write,
                output=band.output,
                request=band.request,
                context=context,
                above=band.above,
                source=price_list.SOURCE,
                since=found.since,
            )
            for band in found.bands
        )
    )


def _or(given: Decimal | None, instead: Decimal) -> Decimal:
    return instead if given is None else given


def _rounded(nano: Decimal) -> int:
    return int(nano.to_integral_value(rounding=ROUND_HALF_UP))


def usd(nano: int) -> str:
    """Nano-dollars for people: `$0.0312`."""
    value = Decimal(nano) / NANO_PER_USD
    return f"${value:.2f}" if value >= 1 else f"${value:.4f}"
