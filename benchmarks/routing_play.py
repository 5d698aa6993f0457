"""Owns the event simulation of routing alone: subtasks of a correctness table under way at a time, outcomes seen late.

It drives the policy itself (`fleet.routing`, `fleet.trust`) with neither processes nor clock, some thousand subtasks a second, so
that it can be tried on many tables: `python -m benchmarks.money --policy-only`.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from benchmarks.routing_world import Tally, World
from fleet.quality_config import RoutingConfig
from fleet.routes import AUDITED, FIRST, POOLED, RECENT
from fleet.routing import START, Arm, Beliefs, beliefs, choose
from fleet.trust import Audits, audit_share, below_floor

#: Seconds that a call takes about, by rank of its tier, and after which a worker looks at what others have learned.
CALL_S, LOOK_S = (1.0, 1.5, 2.5), 0.5
IN_FLIGHT = 400


@dataclass
class Book:
    """Discounted sums of one kind, as the store keeps them: a new lesson weighs more than one of a half-life ago, by 2."""

    half_life: float
    age: float = 0.0
    arms: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    audits: dict[str, list[float]] = field(default_factory=dict)

    def learn(self, path: Sequence[str], accepted: bool, cost: float) -> None:
        self.age += 1
        whole, recent = 2 ** (self.age / self.half_life), 2 ** (self.age / RECENT)
        arm = self.arms.setdefault((path[-1], path[-2] if len(path) > 1 else START), [0.0] * 5)
        more = (whole, whole * accepted, whole * cost, recent, recent * accepted)
        arm[:] = [kept + new for kept, new in zip(arm, more, strict=True)]

    def audited(self, tier: str, right: bool) -> None:
        weight = 2 ** (self.age / self.half_life / AUDITED)
        counts = self.audits.setdefault(tier, [0.0, 0.0, 0.0])
        counts[:] = [counts[0] + weight, counts[1] + weight * right, counts[2]]

    def asked(self, tier: str) -> None:
        self.audits.setdefault(tier, [0.0, 0.0, 0.0])[2] += 2 ** (self.age / self.half_life / AUDITED)

    def read(self) -> dict[tuple[str, str], Arm]:
        whole, recent = 2 ** (self.age / self.half_life), 2 ** (self.age / RECENT)
        scale = (whole, whole, whole, recent, recent)
        return {key: Arm(*(kept / by for kept, by in zip(arm, scale, strict=True))) for key, arm in self.arms.items()}

    def counts(self) -> dict[str, Audits]:
        weight = 2 ** (self.age / self.half_life / AUDITED)
        return {tier: Audits(*(kept / weight for kept in counts)) for tier, counts in self.audits.items()}


@dataclass
class _Seen:
    """What a worker knows of a kind, from when it last looked."""

    at: float
    beliefs: Beliefs
    #: By tier, the share of its accepted answers that is audited.
    shares: dict[str, float]


@dataclass
class Ended:
    """A subtask that has ended: what it was, and what it cost, audit included."""

    kind: str
    item: int
    cost: float


class Play:
    """One simulated run over a world."""

    def __init__(
        self,
        world: World,
        *,
        seed: int,
        in_flight: int = IN_FLIGHT,
        half_life: float = RoutingConfig().half_life,
        audits: bool = True,
    ) -> None:
        self._world, self._dice, self._audits, self._in_flight = world, Random(seed), audits, in_flight
        self._books = {kind: Book(half_life) for kind in world.table.kinds}
        self._pool = Book(half_life * POOLED)
        self._seen: dict[str, _Seen] = {}
        self._prices = [1_000 * world.prices[tier][0] + 300 * world.prices[tier][1] for tier in world.tiers]
        self._events: list[tuple[float, int, str, int, tuple[str, ...], float, bool]] = []
        self._number = 0
        self.tallies = {kind: Tally(items=its.items) for kind, its in world.table.kinds.items()}
        self.ended: list[Ended] = []

    def run(self) -> dict[str, Tally]:
        """What it came to, by kind."""
        waiting = {kind: deque(range(its.items)) for kind, its in self._world.table.kinds.items()}
        out, ended, now = Counter[str](), Counter[str](), 0.0
        while any(waiting.values()) or self._events:
            while out.total() < self._in_flight and (kind := self._next(waiting, out, ended)) is not None:
                self._call(now, kind, waiting[kind].popleft(), (), 0.0)
                out[kind] += 1
            now, _, kind, item, path, spent, audit = heapq.heappop(self._events)
            if audit:
                self._judge(kind, item, path[-1])
            elif self._answer(now, kind, item, path, spent):
                out[kind] -= 1
                ended[kind] += 1
        return self.tallies

    def _next(self, waiting: Mapping[str, deque[int]], out: Counter[str], ended: Counter[str]) -> str | None:
        """The kind whose turn it is, of those that may have more under way: each begins slowly, as a job of one kind does."""
        kinds = self._world.table.kinds
        may = [kind for kind, items in waiting.items() if items and out[kind] < max(FIRST, 2 * ended[kind])]
        return min(may, key=lambda kind: waiting[kind][0] / kinds[kind].items, default=None)

    def _call(self, now: float, kind: str, item: int, path: tuple[str, ...], spent: float) -> bool:
        """Begin the next call of a subtask; False: there is no tier left."""
        tier = choose(self._look(now, kind).beliefs, path[-1] if path else START, self._dice)
        if tier is None:
            return False
        took = CALL_S[min(self._world.tiers.index(tier), len(CALL_S) - 1)] * self._dice.uniform(0.6, 1.4)
        self._later(now + took, kind, item, (*path, tier), spent)
        return True

    def _later(
        self, at: float, kind: str, item: int, path: tuple[str, ...], spent: float, *, audit: bool = False
    ) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, kind, item, path, spent, audit))

    def _answer(self, now: float, kind: str, item: int, path: tuple[str, ...], spent: float) -> bool:
        """A call ends; whether its subtask does."""
        tally, tier = self.tallies[kind], path[-1]
        cost, truth = self._world.cost(kind, item, path), self._world.truth(kind, item, tier)
        for book in (self._books[kind], self._pool):
            book.learn(path, truth != "seen", cost)
        spent += cost
        if truth == "seen":
            if self._call(now, kind, item, path, spent):
                return False
        else:
            tally.accepted += 1
            tally.right += truth == "right"
            if self._audits and self._dice.random() < self._look(now, kind).shares.get(tier, 0.0):
                price = self._world.audit_cost(kind)
                tally.audit_cost += price
                self._books[kind].asked(tier)
                spent += price
                self._later(now + 2 * CALL_S[-1], kind, item, path, 0.0, audit=True)
        tally.cost += spent
        self.ended.append(Ended(kind, item, spent))
        return True

    def _judge(self, kind: str, item: int, tier: str) -> None:
        right = self._world.truth(kind, item, tier) == "right"
        mistaken = self._dice.random() < self._world.table.judge_error
        self._books[kind].audited(tier, right != mistaken)

    def _look(self, now: float, kind: str) -> _Seen:
        seen = self._seen.get(kind)
        if seen is None or now - seen.at > LOOK_S:
            book, tiers = self._books[kind], self._world.tiers
            arms, counts = book.read(), book.counts()
            barred = below_floor(counts, tiers) if self._audits else ()
            known = beliefs(kind, tiers, self._prices, arms, self._pool.read(), barred)
            worth = sum(arm.cost for arm in arms.values()) / known.cost[-1, len(tiers) - 1]
            shares = {}
            for tier in tiers[:-1]:
                accepted = sum(arm.accepted for (its, _), arm in arms.items() if its == tier)
                shares[tier] = audit_share(counts.get(tier, Audits()), accepted, worth)
            seen = self._seen[kind] = _Seen(now, known, shares)
        return seen
