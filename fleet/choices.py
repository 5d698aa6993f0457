"""Which models a tier may ask, on whose accounts and within which limits, and a request as each of them gets it.

It owns what an account is: a provider and a model, whose limits all tiers on it share. It asks nobody.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import lru_cache

from fleet.config import FleetConfig, ModelConfig
from fleet.entries import Draft, Purpose, Worst, draft
from fleet.errors import BadInputError
from fleet.lanes import asked_as, flexible
from fleet.ledger import Lane, LedgerEntry
from fleet.prices import Rates, Usage, billed_as, dearest, tariff
from fleet.providers.base import Completion, ModelRequest
from fleet.router import runs_in_background
from queues.tiers import Allowance, Pace

logger = logging.getLogger(__name__)

#: What a wire adds around the texts of a request.
OVERHEAD_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Choice:
    """A model that a tier may ask, and the request as it gets it."""

    tier: str
    name: str
    model: ModelConfig
    request: ModelRequest
    #: To ask a permit for; safe for nearly all texts.
    tokens: int
    #: To hold money for: a token per byte, which no text exceeds.
    worst: Worst
    #: What that was computed from.
    price: Rates
    lane: Lane = "standard"

    @property
    def account(self) -> str:
        return account_of(self.name, self.model)

    @property
    def allowance(self) -> Allowance:
        return allowance_of(self.model)

    def draft(self, purpose: Purpose, call_id: str, waited_ms: int = 0) -> Draft:
        """The ledger entry of this call before it is made."""
        return draft(
            purpose,
            call_id,
            model=self.name,
            provider=self.model.provider,
            waited_ms=waited_ms,
            worst=self.worst,
            price=self.price,
            images=self.request.pictures,
            lane=self.lane,
        )


def choose(
    config: FleetConfig, tier: str, name: str, request: ModelRequest, *, reattaches: bool, lane: Lane = "standard"
) -> Choice:
    """`request` as the model `name` gets it from a tier; `reattaches`: what the model's provider says of itself.

    What asks for flex is held at the dearer of both prices: the vendor may serve it as any other.

    Raises BadInputError: nobody says what it would cost.
    """
    model = config.models[name]
    lane = lane if lane == "batch" else asked_as(lane, model)
    patience = config.lanes.flex_patience if lane == "flex" else 1.0
    request = replace(
        request,
        model=name,
        max_output_tokens=min(request.max_output_tokens, model.max_output_tokens),
        reasoning_effort=model.reasoning_effort,
        timeout_s=config.tiers[tier].timeout_s * patience,
        service_tier="flex" if lane == "flex" else None,
    )
    tokens = request.upper_bound() + OVERHEAD_TOKENS
    most = Usage(input_tokens=2 * (tokens - request.max_output_tokens), output_tokens=request.max_output_tokens)
    price = dearest(name, model, most, lane)
    worst = Worst(most, price.cost(most))
    if reattaches and request.conversation is None and lane != "batch":
        background = runs_in_background(config.tiers[tier], request.max_output_tokens, worst.cost_nano_usd)
        request = replace(request, background=background)
    return Choice(tier, name, model, request, tokens, worst, price, lane)


def in_time(config: FleetConfig, choice: Choice, due: float | None) -> Choice:
    """A choice that is permitted, as it is asked now to be answered by `due` (Unix seconds; None: there is no deadline).

    Flex ends early enough for a call at once, or is asked at once itself.
    """
    if choice.lane != "flex" or due is None:
        return choice
    left_s, timeout_s = due - time.time(), config.tiers[choice.tier].timeout_s
    if flexible(left_s, choice.model, config.lanes, timeout_s):
        within_s = min(choice.request.timeout_s, left_s - timeout_s)
        return replace(choice, request=replace(choice.request, timeout_s=within_s))
    price = dearest(choice.name, choice.model, choice.worst.usage)
    return replace(
        choice,
        request=replace(choice.request, timeout_s=timeout_s, service_tier=None),
        worst=Worst(choice.worst.usage, price.cost(choice.worst.usage)),
        price=price,
        lane="standard",
    )


def rates_of(entry: LedgerEntry, config: FleetConfig, completion: Completion) -> Rates:
    """The prices at which the answer to a drafted call is billed."""
    model = config.models[entry.model]
    context = billed_as(entry.lane, completion.service_tier)
    try:
        found = tariff(entry.model, model, context, entry.started_at)
    except BadInputError:
        # It is paid already. The entry tells of both, and the receipt counts such calls.
        _tell(context, entry.model, entry.lane)
        found = tariff(entry.model, model, entry.lane, entry.started_at)
    return found.rates(completion.usage)


@lru_cache(maxsize=100)  # once, not for each call
def _tell(context: str, model: str, lane: str) -> None:
    logger.warning(
        "no price is known for the service tier %s of %s; booked at that of the lane %s", context, model, lane
    )


def account_of(name: str, model: ModelConfig) -> str:
    return f"{model.provider}/{name}"


def allowance_of(model: ModelConfig) -> Allowance:
    limits = model.limits
    return Allowance(limits.requests_per_minute, limits.tokens_per_minute, limits.in_flight, limits.auto)


def paces(config: FleetConfig) -> dict[str, Pace]:
    """By tier, the account that its work waits for, and the tiers that share it."""
    found: dict[str, Pace] = {}
    for name, tier in config.tiers.items():
        sharing = tuple(other for other, its in config.tiers.items() if its.model == tier.model)
        model = config.models[tier.model]
        found[name] = Pace(
            account_of(tier.model, model), allowance_of(model), sharing, elsewhere=tier.fallback is not None
        )
    return found
