"""Admissible work: how many subtasks of a tier could run now if there were workers, which is what workers are scaled by.

Owns the arithmetic from a survey of the store and the standing of the accounts to a number per tier. It is pure: it asks
nobody, and knows no clock, no pod and no cluster.

Running, and of the backlog as much as limits and budgets let be in flight beside it. A limit says how many calls may
start in a second; how many are in flight then is Little's law, L = λW (J. D. C. Little, "A proof for the queuing
formula: L = λW", Operations Research 9, 1961): starts a second, times the seconds that a call takes. More workers than
hold so many calls would stand beside a limit that is used up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleet.choices import account_of
from fleet.config import FleetConfig
from queues.limits import Standing
from queues.survey import TierSurvey

#: A pause that is over before a new worker could take work keeps none from being started.
BRIEF_S = 10.0
#: Such a part of its timeout a call takes, where none was seen yet. Rather too little: with too much, workers would stand beside
#: the limit until the first calls have ended.
TYPICAL = 1 / 60
#: And so many may be in flight where tokens are limited: queues/lua/release.lua lets out no more before it knows better.
FIRST_CALLS = 10
#: What floating point may be off by, in calls.
NOISE = 1e-6


@dataclass(frozen=True, slots=True)
class Lane:
    """What is configured of a tier that its scaling depends on."""

    #: The accounts that its calls may be made on, the better choice first; none: it waits for no account.
    accounts: tuple[str, ...]
    #: Seconds that a call is taken to last as long as none was seen.
    typical_s: float


@dataclass(frozen=True, slots=True)
class _Demand:
    """What a tier would like to have in flight on its account."""

    work: int
    #: Seconds and tokens of one call; no tokens: they are not limited, or not known.
    took_s: float
    tokens: float | None

    @property
    def rate(self) -> float:
        """Starts a second with which all its work would be in flight."""
        return self.work / self.took_s


def lanes_of(config: FleetConfig) -> dict[str, Lane]:
    """The tiers of a configuration; a tier that is not among them (the coordinator) waits for no account."""
    return {
        name: Lane(
            tuple(account_of(model, config.models[model]) for model in config.models_of(name)),
            TYPICAL * tier.timeout_s,
        )
        for name, tier in config.tiers.items()
    }


def admissible(
    lanes: Mapping[str, Lane], standings: Mapping[str, Standing], tiers: Mapping[str, TierSurvey]
) -> dict[str, int]:
    """By tier, the subtasks that could run now if there were workers.

    Never more than there are, out and ready; at least one where there is any. An account that is paused, or whose vendor
    has an outage and that nothing takes the place of, lets run what runs, and one to try. What tiers on one account may
    have in flight is shared out between them and counted once; rounding up makes it less than one too many per tier.
    """
    found: dict[str, int] = {}
    sharing: dict[str, list[str]] = {}
    for name, tier in tiers.items():
        if name in lanes and lanes[name].accounts:
            sharing.setdefault(_account(lanes[name], standings), []).append(name)
        else:
            found[name] = _work(tier)
    for account, names in sharing.items():
        there = {name: tiers[name] for name in names}
        found |= _on_account(standings[account], {name: lanes[name] for name in names}, there)
    return {name: found[name] for name in tiers}


def _work(tier: TierSurvey) -> int:
    return tier.out + tier.affordable


def _account(lane: Lane, standings: Mapping[str, Standing]) -> str:
    """Where its calls go now: as an executor chooses, the first account without an outage, else the last."""
    return next((one for one in lane.accounts if standings[one].outage_s is None), lane.accounts[-1])


def _on_account(standing: Standing, lanes: Mapping[str, Lane], tiers: Mapping[str, TierSurvey]) -> dict[str, int]:
    # Calls of one account are not told apart by tier: what is out on each says how they are spread.
    out = sum(tier.out for tier in tiers.values())
    begun = min(out, max(0, standing.calls - standing.waiting))
    running = {name: begun * tier.out // out if out else 0 for name, tier in tiers.items()}
    if standing.paused_s > BRIEF_S or standing.outage_s is not None:
        return {name: min(_work(tier), running[name] + 1) for name, tier in tiers.items()}
    demands = {name: _demand(standing, name, lanes[name], tier) for name, tier in tiers.items()}
    rate = _fair_rate(standing, demands.values())
    return {
        name: min(_work(tier), max(running[name], 1, _in_flight(demands[name], rate))) for name, tier in tiers.items()
    }


def _demand(standing: Standing, name: str, lane: Lane, tier: TierSurvey) -> _Demand:
    work = _work(tier)
    seen = standing.took.get(name)
    took_s = lane.typical_s if seen is None else max(seen.seconds, 0.001)
    tokens: float | None = None
    if standing.tokens_per_minute is not None:
        if seen is not None:
            tokens = seen.tokens
        elif standing.requests > 0:
            tokens = standing.tokens / standing.requests
        else:
            work = min(work, FIRST_CALLS)
    return _Demand(work, took_s, tokens)


def _fair_rate(standing: Standing, demands: Iterable[_Demand]) -> float:
    """Starts a second that each tier of an account may have, as far as it has work for them.

    All get the same, and what one has no use for goes to the others: the dispatcher goes round over them and lets each
    release what may start (max-min fairness; progressive filling, Bertsekas and Gallager, Data Networks, 1992, 6.5.2).
    """
    wanted = sorted((one for one in demands if one.work > 0), key=lambda one: one.rate)
    return min(
        _filled(_a_second(standing.requests_per_minute), [(one.rate, 1.0) for one in wanted]),
        _filled(_a_second(standing.tokens_per_minute), [(one.rate, one.tokens or 0.0) for one in wanted]),
        _filled(standing.in_flight, [(one.rate, one.took_s) for one in wanted]),
    )


def _filled(capacity: float | None, wanted: list[tuple[float, float]]) -> float:
    """The rate r at which the sum of min(r, rate) · weight reaches a capacity; infinity where it never does.

    `wanted`: (rate, weight), the lowest rate first.
    """
    if capacity is None:
        return math.inf
    left, weights = capacity, sum(weight for _, weight in wanted)
    for rate, weight in wanted:
        if weights > 0 and rate * weights >= left:
            return left / weights
        left -= rate * weight
        weights -= weight
    return math.inf


def _a_second(a_minute: int | None) -> float | None:
    return None if a_minute is None else a_minute / 60


def _in_flight(demand: _Demand, rate: float) -> int:
    return math.ceil(min(demand.work, rate * demand.took_s) - NOISE)
