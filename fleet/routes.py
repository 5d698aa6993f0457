"""Which tier a subtask goes to, by what the whole fleet has learned: the policy of `fleet.routing` over the books in the store.

It owns what routing counts (a lesson for each answer, in the book of its tenant and kind, and in one of all kinds), and what a
process remembers of the books: each is read when it is first needed and again in the background a second after that, so a
decision waits for the store once per kind. One tenant does not teach another's routes; the guess about a kind that nothing
is known of is the fleet's.

The dice are seeded by configuration, subtask and where the item comes from: asked again after a crash, they fall the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

from redis.exceptions import RedisError

from fleet.config import AUTO, FleetConfig
from fleet.jobs import Step
from fleet.ledger import LedgerEntry
from fleet.prices import Usage, cost_nano_usd
from fleet.quality import learned
from fleet.router import ladder_of, next_tier
from fleet.routing import START, Arm, Beliefs, beliefs, choose
from fleet.tenants import DEFAULT
from fleet.trust import FLOOR, Audits, audit_share, below_floor
from queues.lessons import Learned, Lessons
from queues.subtasks import Lesson

logger = logging.getLogger(__name__)

#: Seconds after which a book is read again, and how many are remembered.
LOOK_S, REMEMBERED = 1.0, 500
#: The shelf and book of all kinds of the fleet together.
FLEET = ("", "*")
#: The half-lives in a book, in lessons: the configured one; that of what is recent; audits are few and last longer; so does what
#: all kinds say together.
RECENT, AUDITED, POOLED = 60.0, 4.0, 4.0
#: A usual call, for the proportion of prices before there are costs.
USUAL = Usage(input_tokens=1_000, output_tokens=300)
#: Draws from which the odds of a choice are told.
DRAWS = 400
#: Bytes of a kind that are the name of its book as they are.
MOST_NAME = 120


@dataclass(frozen=True, slots=True)
class Route:
    """What is known of a kind: what `fleet routes` shows."""

    kind: str
    tiers: tuple[str, ...]
    #: By (tier, where from).
    arms: Mapping[tuple[str, str], Arm]
    audits: Mapping[str, Audits]
    barred: frozenset[str]
    #: By the means, and with which odds each tier is chosen to start on.
    choice: str
    odds: Mapping[str, float]
    #: Unix seconds: since when that is the choice, and of the latest lesson.
    since: float | None
    last: float


@dataclass(slots=True)
class _Known:
    beliefs: Beliefs
    #: By tier, the share of accepted answers that is worth an audit.
    shares: Mapping[str, float]
    at: float
    reading: bool = False


class Routes:
    """Chooses tiers for one process."""

    def __init__(self, config: FleetConfig, lessons: Lessons) -> None:
        self._config = config
        self._lessons = lessons
        self._known: OrderedDict[tuple[str, str, tuple[str, ...]], _Known] = OrderedDict()
        self._pool: tuple[float, Learned] = (float("-inf"), Learned())
        self._looking: set[asyncio.Task[None]] = set()

    async def start(self, step: Step, tenant: str, subtask: str) -> str:
        """The tier that a subtask starts on. Raises LinkError: its kind is asked for the first time and the store is away."""
        if step.tier != AUTO:
            return step.tier
        return await self._choose(step, tenant, subtask, START) or step.tier

    async def next(self, step: Step, tier: str, tenant: str, subtask: str) -> str | None:
        """The tier that answers after `tier` was rejected, None at the top. Raises LinkError like `start`."""
        if step.tier != AUTO or tier not in ladder_of(step, self._config):
            return next_tier(step, tier, self._config)
        return await self._choose(step, tenant, subtask, tier)

    async def audit_share(self, step: Step, tenant: str, tier: str) -> float:
        """The share of what is accepted from a tier that is audited. Raises LinkError like `start`."""
        told = self._config.audit_share(step.label)
        if told != "auto":
            return told
        known = await self._recall(tenant, step.label, ladder_of(step, self._config))
        return known.shares.get(tier, 0.0)

    def taught(self, entry: LedgerEntry) -> tuple[Lesson, ...] | None:
        """What an entry with its final verdict teaches, for the charge that books it; None: nothing, or routing is frozen."""
        one = None if self._config.routing.frozen else learned(entry)
        if one is None:
            return None
        tenant, half_life = entry.tenant or DEFAULT, self._config.routing.half_life
        half_lives = (half_life, RECENT, AUDITED * half_life)
        if one.verdict in ("right", "wrong"):
            found = {f"audited:{one.tier}": 1.0} | ({f"right:{one.tier}": 1.0} if one.verdict == "right" else {})
            return (Lesson(tenant, book_of(one.kind), half_lives, ({}, {}, found)),)
        arm = f"{one.tier}:{one.came_from or START}"
        whole = {f"n:{arm}": 1.0, f"cost:{arm}": float(entry.cost_nano_usd)}
        recent = {f"n:{arm}": 1.0}
        if one.verdict == "accepted":
            whole[f"ok:{arm}"] = recent[f"ok:{arm}"] = 1.0
        return (
            Lesson(tenant, book_of(one.kind), half_lives, (whole, recent, {})),
            Lesson(*FLEET, (POOLED * half_life,), (whole,)),
        )

    async def look(self, tenant: str) -> list[Route]:
        """What is known of each kind of a tenant, the latest first. Raises LinkError."""
        pool = arms_of(await self._lessons.read(*FLEET))
        tiers = self._config.ladder("nano", None)
        found = []
        for name, last in (await self._lessons.books(tenant)).items():
            book = await self._lessons.read(tenant, name)
            found.append(self._route(name, tiers, book, pool, last))
        return found

    async def _choose(self, step: Step, tenant: str, subtask: str, came_from: str) -> str | None:
        tiers = ladder_of(step, self._config)
        known = (await self._recall(tenant, step.label, tiers)).beliefs
        routing = self._config.routing
        # No secret; the same whenever it is asked again.
        dice = None if routing.frozen else Random(f"{routing.seed}/{subtask}/{came_from}")  # noqa: S311
        return choose(known, came_from, dice)

    async def _recall(self, tenant: str, kind: str, tiers: tuple[str, ...]) -> _Known:
        key = (tenant, kind, tiers)
        known = self._known.get(key)
        if known is None:
            await self._read(key)
            known = self._known[key]
        elif not known.reading and time.monotonic() - known.at > LOOK_S:
            known.reading = True
            looking = asyncio.create_task(self._look_again(key, known))
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)
        return known

    async def _look_again(self, key: tuple[str, str, tuple[str, ...]], known: _Known) -> None:
        try:
            await self._read(key)
        except RedisError as error:
            # What is known goes on being used; the store's absence is told by whoever needs it.
            logger.info("routes are not up to date: %s", error)
            known.reading, known.at = False, time.monotonic()

    async def _read(self, key: tuple[str, str, tuple[str, ...]]) -> None:
        tenant, kind, tiers = key
        if time.monotonic() - self._pool[0] > LOOK_S:
            self._pool = (time.monotonic(), await self._lessons.read(*FLEET))
        book = await self._lessons.read(tenant, book_of(kind))
        found = self._believe(kind, tiers, book, arms_of(self._pool[1]))
        self._known[key] = _Known(found, self._shares(kind, tiers, book, found), time.monotonic())
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        choice = choose(found, START, None) or ""
        if book.sums and book.notes.get("choice") != choice and not self._config.routing.frozen:
            await self._lessons.note(tenant, book_of(kind), {"choice": choice, "since": f"{time.time():.3f}"})

    def _believe(self, kind: str, tiers: Sequence[str], book: Learned, pool: Mapping[tuple[str, str], Arm]) -> Beliefs:
        prices = [float(cost_nano_usd(*self._config.model_of(tier), USUAL)) for tier in tiers]
        floor = self._config.floor(kind)
        barred = frozenset[str]() if floor is None else below_floor(audits_of(book), tiers, floor)
        return beliefs(kind, tiers, prices, arms_of(book), pool, barred)

    def _shares(self, kind: str, tiers: Sequence[str], book: Learned, known: Beliefs) -> dict[str, float]:
        """By tier, what is worth an audit: one costs about what an answer of the last tier does."""
        counts, arms, floor = audits_of(book), arms_of(book), self._config.floor(kind)
        accepted = {tier: sum(arm.accepted for (one, _), arm in arms.items() if one == tier) for tier in tiers}
        total = sum(accepted.values())
        worth = sum(arm.cost for arm in arms.values()) / max(total, 1.0) / max(known.cost[-1, len(tiers) - 1], 1.0)
        return {
            tier: audit_share(
                counts.get(tier, Audits()), accepted[tier] / total if total else 1.0, worth, floor or FLOOR
            )
            for tier in tiers[:-1]
        }

    def _route(
        self, kind: str, tiers: tuple[str, ...], book: Learned, pool: Mapping[tuple[str, str], Arm], last: float
    ) -> Route:
        known = self._believe(kind, tiers, book, pool)
        choice = choose(known, START, None) or ""
        dice = Random(self._config.routing.seed)  # noqa: S311
        drawn = [choice if self._config.routing.frozen else choose(known, START, dice) for _ in range(DRAWS)]
        since = float(book.notes["since"]) if book.notes.get("choice") == choice else None
        return Route(
            kind=kind,
            tiers=tiers,
            arms=arms_of(book),
            audits=audits_of(book),
            barred=frozenset(tiers[i] for i in known.barred),
            choice=choice,
            odds={tier: drawn.count(tier) / DRAWS for tier in tiers},
            since=since,
            last=last,
        )


def book_of(kind: str) -> str:
    """The name of a kind's book: the kind, or the beginning of one that is long."""
    raw = kind.encode()
    if len(raw) <= MOST_NAME:
        return kind
    return f"{raw[:MOST_NAME].decode(errors='ignore')}~{blake2b(raw, digest_size=8).hexdigest()}"


def arms_of(book: Learned) -> dict[tuple[str, str], Arm]:
    """What came of a kind's answers, by (tier, where from), as lessons wrote it down."""
    whole, recent = book.sums.get(1, {}), book.sums.get(2, {})
    found = {}
    for name, n in whole.items():
        what, _, arm = name.partition(":")
        if what == "n":
            tier, _, came_from = arm.partition(":")
            sums = (whole.get(f"ok:{arm}", 0.0), whole.get(f"cost:{arm}", 0.0))
            found[tier, came_from] = Arm(n, *sums, recent.get(f"n:{arm}", 0.0), recent.get(f"ok:{arm}", 0.0))
    return found


def audits_of(book: Learned) -> dict[str, Audits]:
    """What audits said of a kind's tiers."""
    sums = book.sums.get(3, {})
    return {
        name.removeprefix("audited:"): Audits(n, sums.get(name.replace("audited:", "right:", 1), 0.0))
        for name, n in sums.items()
        if name.startswith("audited:")
    }
