"""Owns a simulated fleet that knows nothing but routing: subtasks of a correctness table under way at a time, outcomes seen late.

An event simulation of the policy itself (`fleet.routing`, `fleet.trust`), with neither processes nor clock: thousands of subtasks
a second, so that it can be tried on many tables. Costs are in nano-dollars of the prices given.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from random import Random

from fleet.routing import START, Arm, beliefs, choose
from fleet.sim.table import Table
from fleet.trust import Audits, audit_share, below_floor

#: Seconds that a tier's call takes about, and after which a worker looks at what others have learned.
CALL_S, LOOK_S = (1.0, 1.5, 2.5), 1.0
#: A rejected answer makes the next prompt longer by its own tokens, and a judge answers in so many.
VERDICT_TOKENS = 20


@dataclass
class Sums:
    """Discounted sums, as the store keeps them: each lesson weighs more than the one before by the half-life."""

    half_life: float
    arms: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    audits: dict[str, list[float]] = field(default_factory=dict)
    weight: float = 1.0
    fast: float = 1.0
    recent: float = 60

    def learn(self, tier: str, came_from: str, accepted: bool, cost: float) -> None:
        self.weight *= 2 ** (1 / self.half_life)
        self.fast *= 2 ** (1 / self.recent)
        arm = self.arms.setdefault((tier, came_from), [0.0, 0.0, 0.0, 0.0, 0.0])
        for place, value in enumerate((1.0, float(accepted), cost)):
            arm[place] += self.weight * value
        for place, value in enumerate((1.0, float(accepted))):
            arm[3+place] += self.fast * value

    def audited(self, tier: str, right: bool) -> None:
        counts = self.audits.setdefault(tier, [0.0, 0.0])
        counts[0] += self.weight
        counts[1] += self.weight * right

    def book(self) -> dict[tuple[str, str], Arm]:
        return {key: Arm(*(value / self.weight for value in arm[:3]), *(value / self.fast for value in arm[3:])) for key, arm in self.arms.items()}

    def counts(self) -> dict[str, Audits]:
        return {tier: Audits(*(value / self.weight for value in counts)) for tier, counts in self.audits.items()}


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

    def cost(self, kind: str, item: int, tier: str, came_from: str) -> float:
        its, price = self.table.kinds[kind], self.prices[tier]
        asked = its.input_tokens + (its.writes(came_from) + 20 if came_from else 0)
        return 1_000 * (asked * price[0] + its.writes(tier) * self.table.spread(kind, item, tier) * price[1])

    def audit_cost(self, kind: str) -> float:
        its, price = self.table.kinds[kind], self.prices[self.tiers[-1]]
        return 1_000 * ((its.input_tokens + 150) * price[0] + VERDICT_TOKENS * price[1])

    def ladder(self, kind: str, ladder: Sequence[str], items: Sequence[int]) -> Tally:
        """What a fixed ladder comes to over these items."""
        tally = Tally(items=len(items))
        for item in items:
            came_from = START
            for tier in ladder:
                tally.cost += self.cost(kind, item, tier, came_from)
                truth = self.truth(kind, item, tier)
                if truth != "seen":
                    tally.accepted += 1
                    tally.right += truth == "right"
                    break
                came_from = tier
        return tally

    def best(self, kind: str, items: Sequence[int], margin: float = 0.005) -> tuple[tuple[str, ...], Tally]:
        """The fixed ladder up to the last tier that costs least per accepted outcome, among those whose share of right outcomes
        is not more than `margin` below the last tier's alone."""
        *below, last = self.tiers
        ladders = [(*some, last) for size in range(len(self.tiers)) for some in combinations(below, size)]
        tallies = {ladder: self.ladder(kind, ladder, items) for ladder in ladders}
        least = tallies[(last,)].right - margin * len(items)
        fine = {ladder: tally for ladder, tally in tallies.items() if tally.right >= least}
        best = min(fine, key=lambda ladder: fine[ladder].each)
        return best, fine[best]


def run(
    world: World,
    *,
    seed: int,
    in_flight: int = 400,
    half_life: float = 500,
    recent: float = 60,
    audits: bool = True,
    curve: list[tuple[str, int, float]] | None = None,
) -> dict[str, Tally]:
    """What routing comes to, by kind. `curve` gets (kind, item, what it cost) in the order in which they end."""
    table, tiers, dice = world.table, world.tiers, Random(seed)
    books = {kind: Sums(half_life, recent=recent) for kind in table.kinds}
    pool = Sums(half_life * 4)
    prices = [1_000 * world.prices[tier][0] + 300 * world.prices[tier][1] for tier in tiers]
    tallies = {kind: Tally(items=its.items) for kind, its in table.kinds.items()}
    todo = [
        (item / its.items, place, kind, item)
        for place, (kind, its) in enumerate(table.kinds.items())
        for item in range(its.items)
    ]
    todo.sort(reverse=True)
    events: list[tuple[float, int, str, int, str, str, float]] = []
    known: dict[str, tuple[float, object]] = {}
    number = 0

    def look(kind: str, now: float):
        at, found = known.get(kind, (-1e9, None))
        if found is None or now - at > LOOK_S:
            sums = books[kind]
            counts = sums.counts()
            barred = below_floor(counts, tiers) if audits else ()
            found = (beliefs(kind, tiers, prices, sums.book(), pool.book(), barred), counts, sums.book())
            known[kind] = (now, found)
        return found

    def begin(now: float, kind: str, item: int, came_from: str, spent: float) -> None:
        nonlocal number
        tier = choose(look(kind, now)[0], came_from, dice)
        if tier is None:
            tallies[kind].cost += spent
            if curve is not None:
                curve.append((kind, item, spent))
            return
        number += 1
        took = CALL_S[min(tiers.index(tier), 2)] * dice.uniform(0.6, 1.4)
        heapq.heappush(events, (now + took, number, kind, item, tier, came_from, spent))

    now = 0.0
    for _ in range(min(in_flight, len(todo))):
        _, _, kind, item = todo.pop()
        begin(now + dice.random() * 0.2, kind, item, START, 0.0)
    while events:
        now, _, kind, item, tier, came_from, spent = heapq.heappop(events)
        sums, tally = books[kind], tallies[kind]
        if came_from.startswith("audit "):
            right = world.truth(kind, item, tier) == "right"
            if dice.random() < table.judge_error:
                right = not right
            sums.audited(tier, right)
            continue
        cost = world.cost(kind, item, tier, came_from)
        truth = world.truth(kind, item, tier)
        accepted = truth != "seen"
        sums.learn(tier, came_from, accepted, cost)
        pool.learn(tier, came_from, accepted, cost)
        spent += cost
        if not accepted:
            begin(now, kind, item, tier, spent)
            if tier != tiers[-1]:
                continue
        else:
            tally.accepted += 1
            tally.right += truth == "right"
            if audits and tier != tiers[-1]:
                _, counts, book = look(kind, now)
                worth = sum(arm.cost for arm in book.values()) / max(1e-9, sum(arm.accepted for arm in book.values()))
                price = world.audit_cost(kind)
                if dice.random() < audit_share(counts.get(tier, Audits()), worth / price):
                    tally.audit_cost += price
                    spent += price
                    number += 1
                    heapq.heappush(events, (now + 3, number, kind, item, tier, "audit " + came_from, 0.0))
            tally.cost += spent
            if curve is not None:
                curve.append((kind, item, spent))
        if todo:
            _, _, kind, item = todo.pop()
            begin(now, kind, item, START, 0.0)
    return tallies
