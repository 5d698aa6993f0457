"""Owns what can be worked out of a correctness table alone: what any ladder of tiers costs and comes to, item by item.

Costs are in nano-dollars. What a call costs is a model of it here; a measured fleet puts its ledger in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from fleet.sim.table import Table

#: A rejected answer makes the next prompt longer by itself and the reason; a judge reads so much besides, and answers briefly.
REASON_TOKENS, JUDGE_TOKENS, VERDICT_TOKENS = 20, 150, 20
#: What flex costs, by which audits are asked, over the standard.
FLEX = 0.5
#: By how much the share of right outcomes may be below the last tier's alone.
MARGIN = 0.005


@dataclass
class Tally:
    """What a kind, or all, came to."""

    cost: float = 0.0
    audit_cost: float = 0.0
    accepted: int = 0
    right: int = 0
    items: int = 0

    def add(self, other: Tally) -> None:
        self.cost += other.cost
        self.audit_cost += other.audit_cost
        self.accepted += other.accepted
        self.right += other.right
        self.items += other.items

    @property
    def each(self) -> float:
        return self.cost / max(1, self.accepted)


class World:
    """A table, prices in dollars per million tokens (input, output) by tier, and what each call costs and comes to."""

    def __init__(self, table: Table, prices: Mapping[str, tuple[float, float]]) -> None:
        self.table = table
        self.prices = prices
        self.tiers = tuple(sorted(table.tiers, key=lambda tier: prices[tier]))
        self._truths: dict[tuple[str, int, str], str] = {}

    def truth(self, kind: str, item: int, tier: str) -> str:
        key = (kind, item, tier)
        if key not in self._truths:
            self._truths[key] = self.table.truth(kind, item, tier)
        return self._truths[key]

    def cost(self, kind: str, item: int, path: Sequence[str]) -> float:
        """What a call to the last tier of `path` costs, behind the rejected answers of the others."""
        its, tier = self.table.kinds[kind], path[-1]
        asked = its.input_tokens + sum(its.writes(before) + REASON_TOKENS for before in path[:-1])
        into, out = self.prices[tier]
        return 1_000 * (asked * into + its.writes(tier) * self.table.spread(kind, item, tier) * out)

    def audit_cost(self, kind: str) -> float:
        its, price = self.table.kinds[kind], self.prices[self.tiers[-1]]
        return FLEX * 1_000 * ((its.input_tokens + JUDGE_TOKENS) * price[0] + VERDICT_TOKENS * price[1])

    def ladder(self, kind: str, ladder: Sequence[str], items: Sequence[int]) -> Tally:
        """What a fixed ladder comes to over these items."""
        tally = Tally(items=len(items))
        for item in items:
            tally.add(self.climb(kind, ladder, item))
        return tally

    def climb(self, kind: str, ladder: Sequence[str], item: int) -> Tally:
        """What a fixed ladder comes to with one item."""
        cost = 0.0
        for number, tier in enumerate(ladder, 1):
            cost += self.cost(kind, item, ladder[:number])
            truth = self.truth(kind, item, tier)
            if truth != "seen":
                return Tally(cost=cost, accepted=1, right=int(truth == "right"))
        return Tally(cost=cost)

    def best(self, kind: str, items: Sequence[int], margin: float = MARGIN) -> tuple[tuple[str, ...], Tally]:
        """The fixed ladder up to the last tier that costs least per accepted outcome, among those whose share of right outcomes
        is not more than `margin` below the last tier's alone."""
        *below, last = self.tiers
        ladders = [(*some, last) for size in range(len(self.tiers)) for some in combinations(below, size)]
        tallies = {ladder: self.ladder(kind, ladder, items) for ladder in ladders}
        least = tallies[(last,)].right - margin * len(items)
        fine = {ladder: tally for ladder, tally in tallies.items() if tally.right >= least}
        best = min(fine, key=lambda ladder: fine[ladder].each)
        return best, fine[best]
