"""How the calls of a job may turn out to be asked: by which lane, which share of them at once in the end, and how long they wait.

It owns what is guessed of lanes: how much slower flex is, how often it is refused, and when a vendor ends a batch that it has
promised within a day. Which lane a call takes is `fleet.lanes`' to decide. It knows dice and the configuration, no prices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from fleet.config import FleetConfig
from fleet.lanes import audit_lane, lane_of
from fleet.ledger import Lane

#: How many times as long an answer takes as flex (standard deviation of the logarithm), and the share of calls that are refused
#: for want of room or served as the standard (Beta).
SLOWER, SLOWER_SPREAD, REFUSED = 2.5, 0.5, (0.2, 4.0)
#: Seconds that a batch takes at the vendor's: any order of magnitude from a few seconds up to the day that it is promised within
#: is as likely, and now and then it takes all of that.
SOONEST_S, PROMISED_S, SLOWEST = 5.0, 86_400.0, 0.06


@dataclass(frozen=True, slots=True)
class Way:
    """How the calls of a tier for one step are asked."""

    lane: Lane
    #: By lane that they are billed in, the share of them; the shares add up to 1.
    billed: Mapping[Lane, float]
    #: Share of them that takes a place and a permit: all that is no line of a batch.
    at_once: float = 1.0
    #: Seconds in a batch, and how many times as long as otherwise a call takes.
    waits_s: float = 0.0
    slower: float = 1.0


AT_ONCE = Way("standard", {"standard": 1.0})


class Ways:
    """Draws ways of one configuration."""

    def __init__(self, config: FleetConfig, dice: Random) -> None:
        self._config = config
        self._dice = dice

    def work(self, tier: str, left_s: float | None) -> Way:
        """Of a step's calls with so many seconds until they are due (None: there is no deadline)."""
        model, timeout_s = self._config.model_of(tier)[1], self._config.tiers[tier].timeout_s
        lane = lane_of(left_s, model, self._config.lanes, timeout_s=timeout_s, batches=True)
        if lane != "batch" or left_s is None:
            return self._asked(lane)
        its = self._config.lanes
        latest_s = min(left_s - its.back_s, its.gather_s + PROMISED_S)
        waits_s = its.gather_s + its.poll_s * self._dice.random() + self._in_batch_s()
        if waits_s < latest_s:
            return Way("batch", {"batch": 1.0}, at_once=0.0, waits_s=waits_s)
        # It was run in part. The rest is asked by what is in time then; where the vendor's day is over, as the standard.
        expired = latest_s < left_s - its.back_s
        late, after = self._dice.random(), AT_ONCE if expired else self.work(tier, its.back_s)
        billed: dict[Lane, float] = {its_lane: late * share for its_lane, share in after.billed.items()}
        billed["batch"] = 1.0 - late
        return Way("batch", billed, at_once=late, waits_s=latest_s, slower=after.slower)

    def audits(self, tier: str, left_s: float | None) -> Way:
        """Of the audits of a step."""
        model, timeout_s = self._config.model_of(tier)[1], self._config.tiers[tier].timeout_s
        lane = audit_lane(left_s, model, self._config.lanes, timeout_s=timeout_s)
        return self._asked(lane if "flex" in model.service_tiers else "standard")

    def _asked(self, lane: Lane) -> Way:
        if lane != "flex":
            return AT_ONCE
        refused = self._dice.betavariate(*REFUSED)
        slower = max(1.0, SLOWER * math.exp(self._dice.gauss(0.0, SLOWER_SPREAD)))
        return Way("flex", {"flex": 1.0 - refused, "standard": refused}, slower=slower)

    def _in_batch_s(self) -> float:
        if self._dice.random() < SLOWEST:
            return PROMISED_S
        return SOONEST_S * math.exp(self._dice.random() * math.log(PROMISED_S / SOONEST_S))
