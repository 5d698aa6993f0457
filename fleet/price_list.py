"""The bundled price list (genai-prices): what it says of a model, and no more than it says.

It asks nothing over the network. The package bills a context that it does not know (a service tier, a batch) as standard, and a
unit that nobody reported as nothing; here both are no price at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import genai_prices
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, PriceVariant, Provider, StartDateConstraint, TieredPrices

SOURCE = f"genai-prices {genai_prices.__version__}"
STANDARD = "standard"
#: What the list calls the ways of being served. Source: the package's README, "Request pricing context" and "Batch API".
CONTEXTS = {
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast"},
    "batch": {"processing": "batch"},
}
#: The prices that are applied here, by their names there.
_TEXT = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok")
_REQUESTS = "requests_kcount"
#: Prices of what the fleet never asks for: they come to nothing, and a model that has them is a model like others.
_NEVER_ASKED = ("audio", "video", "searches", "document", "code_executions", "_1h_", "_5m_", "tool")
MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Listed:
    """US dollars per million tokens, for calls with more than `above` input tokens; `request`: per call."""

    above: int
    input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    output: Decimal
    request: Decimal


@dataclass(frozen=True, slots=True)
class Listing:
    """A model's prices in one context: by rising length of input, and since when they hold, where the list says it."""

    bands: tuple[Listed, ...]
    since: date | None


class NotListedError(LookupError):
    """The list has no price; the text goes on from "the price list" and says what it lacks."""


@lru_cache(maxsize=4096)
def listing(name: str, context: str, minute: int) -> Listing:
    """What the list has for a model in a context, in one minute since 1970; prices may hold for some hours of the day.

    Raises:
        NotListedError: the model or the context is not on it, or it is billed by what the fleet does not count.
    """
    moment = datetime.fromtimestamp(minute * MINUTE_S, UTC)
    provider, model = _found(name)
    since = _standard_since(model, moment)
    told = None
    if context != STANDARD:
        told = CONTEXTS.get(context)
        variant = None if told is None else _variant(provider, model, told, moment)
        if variant is None:
            raise NotListedError(f'knows the model "{name}" and has no price for it in the lane {context}')
        since = _start(variant.constraint) or since
    prices = {key: price for key, price in vars(model.get_prices(moment, told)).items() if price is not None}
    odd = [key for key in prices if key not in (*_TEXT, _REQUESTS) and not any(part in key for part in _NEVER_ASKED)]
    if odd:
        raise NotListedError(f'bills the model "{name}" by what the fleet does not count ({", ".join(sorted(odd))})')
    if not {"input_mtok", "output_mtok"} <= prices.keys():
        raise NotListedError(f'has no price for both input and output of the model "{name}"')
    starts = {tier.start for price in prices.values() if isinstance(price, TieredPrices) for tier in price.tiers}
    return Listing(tuple(_band(prices, above) for above in sorted({0, *starts})), since)


@lru_cache(maxsize=1)
def dated(minute: int) -> date | None:
    """The day from which the youngest of all its prices holds, of those that hold by then: it is not older than that."""
    today = datetime.fromtimestamp(minute * MINUTE_S, UTC).date()
    starts = (
        _start(one.constraint)
        for provider in get_snapshot().providers
        for model in provider.models
        for one in (*(model.prices if isinstance(model.prices, list) else ()), *(model.price_variants or ()))
    )
    return max((start for start in starts if start is not None and start <= today), default=None)


def _found(name: str) -> tuple[Provider, ModelInfo]:
    try:
        found = genai_prices.calc_price(genai_prices.Usage(), model_ref=name)
    except LookupError:
        raise NotListedError(f'does not know the model "{name}"') from None
    return found.provider, found.model


def _variant(provider: Provider, model: ModelInfo, told: dict[str, str], moment: datetime) -> PriceVariant | None:
    """The first variant that is for this context, and says anything; another provider's are not applied."""
    if not any(model is one for one in provider.models):
        return None
    for variant in model.price_variants or ():
        if variant.when == told and (variant.constraint is None or variant.constraint.active(moment)):
            return variant
    return None


def _standard_since(model: ModelInfo, moment: datetime) -> date | None:
    if isinstance(model.prices, list):
        for one in reversed(model.prices):
            if one.constraint is None or one.constraint.active(moment):
                return _start(one.constraint)
    return None


def _start(constraint: object) -> date | None:
    return constraint.start_date if isinstance(constraint, StartDateConstraint) else None


def _band(prices: dict[str, Any], above: int) -> Listed:
    def of(key: str) -> Decimal | None:
        price = prices.get(key)
        if not isinstance(price, TieredPrices):
            return price
        return next((tier.price for tier in reversed(price.tiers) if above >= tier.start), price.base)

    given = of("input_mtok") or Decimal(0)
    cached, written = of("cache_read_mtok"), of("cache_write_mtok")
    return Listed(
        above=above,
        input=given,
        cached_input=given if cached is None else cached,
        cache_write=given if written is None else written,
        output=of("output_mtok") or Decimal(0),
        request=(of(_REQUESTS) or Decimal(0)) / 1000,
    )
