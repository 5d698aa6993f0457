"""Which models a tier may ask, on whose accounts and within which limits, and a request as each of them gets it.

It owns what an account is: a provider and a model, whose limits all tiers on it share. It asks nobody.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import lru_cache

from fleet.config import FleetConfig, ModelConfig
from fleet.counterfactual import compared
from fleet.entries import Call, Draft, Purpose, Worst, draft
from fleet.errors import BadInputError
from fleet.lanes import asked_as, flexible
from fleet.ledger import AT_MOST, Lane, LedgerEntry
from fleet.prices import Rates, Tariff, Usage, billed_as, dearest, tariff
from fleet.providers.base import DEFAULT_TIER, Completion, ModelRequest
from fleet.router import runs_in_background
from queues.tiers import Allowance, Pace

logger = logging.getLogger(__name__)

#: What a wire adds around the texts of a request.
OVERHEAD_TOKENS = 64
#: As what the vendor is asked to serve a call; a batch is a way of sending, and its lines say nothing.
_SERVED: dict[Lane, str | None] = {"standard": DEFAULT_TIER, "flex": "flex", "batch": None}


@dataclass(frozen=True, slots=True)
class Choice:
    """A model that a tier may ask, and the request as it gets it."""

    tier: str
    name: str
    model: ModelConfig
    request: ModelRequest
    #: To ask a permit for; safe for nearly all texts.
    tokens: int
    #: To hold money for: a token per byte, which no text exceeds, at the dearest price that input can have.
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
    config: FleetConfig,
    tier: str,
    name: str,
    request: ModelRequest,
    *,
    reattaches: bool,
    says_default: bool,
    lane: Lane = "standard",
) -> Choice:
    """`request` as the model `name` gets it from a tier.

    What asks for flex is held at the dearer of both prices: the vendor may serve it as any other. What cannot ask to be served as
    the standard is held at the price of `priority`, where that is known: the vendor's project may be set so.

    Args:
        reattaches, says_default: what the model's provider says of itself.

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
        service_tier=_SERVED[lane],
    )
    tokens = request.upper_bound() + OVERHEAD_TOKENS
    most = Usage(input_tokens=2 * (tokens - request.max_output_tokens), output_tokens=request.max_output_tokens)
    price, used = dearest(name, model, most, lane, says_default=says_default)
    worst = Worst(used, price.cost(used))
    if reattaches and request.conversation is None and lane != "batch":
        background = runs_in_background(config.tiers[tier], request.max_output_tokens, worst.cost_nano_usd)
        request = replace(request, background=background)
    return Choice(tier, name, model, request, tokens, worst, price, lane)


def in_time(config: FleetConfig, choice: Choice, due: float | None, *, says_default: bool) -> Choice:
    """A choice that is permitted, as it is asked now to be answered by `due` (Unix seconds; None: there is no deadline).

    Flex ends early enough for a call at once, or is asked at once itself. `says_default`: as in `choose`.
    """
    if choice.lane != "flex" or due is None:
        return choice
    left_s, timeout_s = due - time.time(), config.tiers[choice.tier].timeout_s
    if flexible(left_s, choice.model, config.lanes, timeout_s):
        within_s = min(choice.request.timeout_s, left_s - timeout_s)
        return replace(choice, request=replace(choice.request, timeout_s=within_s))
    price, used = dearest(choice.name, choice.model, choice.worst.usage, says_default=says_default)
    return replace(
        choice,
        request=replace(choice.request, timeout_s=timeout_s, service_tier=_SERVED["standard"]),
        worst=Worst(used, price.cost(used)),
        price=price,
        lane="standard",
    )


def answered(config: FleetConfig, drafted: Draft, completion: Completion) -> Call:
    """An answer to a drafted call with its entry, at the prices of what the vendor says it was served as.

    Usage that is more than the call can use is booked as the most that it can, so that no number in an answer passes a cap. Input
    and output are looked at together, by tokens and by cost: a vendor may add an instruction of its own to a short prompt. So is
    what a line of a batch used that the vendor does not tell: whoever reads its answer has nothing left to estimate it from.
    """
    found = _tariff_of(drafted.entry, config, completion)
    worst, usage = drafted.worst.usage, completion.usage
    rates, reason = found.rates(usage), None
    dearest_rates, dearest_usage = found.worst(worst)
    unknown = drafted.entry.lane == "batch" and not completion.usage_reported
    if unknown or usage.total > worst.total or rates.cost(usage) > dearest_rates.cost(dearest_usage):
        logger.warning(
            "no usage was reported that a call to %s can have; it is booked at its most",
            drafted.entry.model,
            extra={"attempt": drafted.entry.call_id},
        )
        completion = replace(completion, usage=worst, usage_reported=False)
        rates, reason = drafted.entry.price or dearest_rates, AT_MOST
    return Call(completion, compared(config, drafted.answered(completion, rates, reason)), drafted.record)


def _tariff_of(entry: LedgerEntry, config: FleetConfig, completion: Completion) -> Tariff:
    """The prices at which the answer to a drafted call is billed."""
    model = config.models[entry.model]
    context = billed_as(entry.lane, completion.service_tier)
    try:
        return tariff(entry.model, model, context, entry.started_at)
    except BadInputError:
        # It is paid already. The entry tells of both, and the receipt counts such calls.
        _tell(context, entry.model, entry.lane)
        return tariff(entry.model, model, entry.lane, entry.started_at)


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
