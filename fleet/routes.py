"""Which tier a subtask goes to, by what the whole fleet has learned: the policy of `fleet.routing` over the books in the store.

It owns what routing counts (a lesson for each answer, in the book of its tenant and kind, and in one of all kinds), and what a
process remembers of the books: each is read when it is first needed and again in the background a second after that, so a
decision waits for the store once per kind. Where nothing checks the answers of a step there is nothing to be learned from them,
and it starts where its kind says. One tenant does not teach another's routes; the guess about a kind that nothing
is known of is the fleet's.

The dice are seeded by configuration, subtask and where the item comes from: asked again after a crash, they fall the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random

from redis.exceptions import RedisError

from fleet.config import AUTO, FleetConfig
from fleet.jobs import Step
from fleet.lanes import lane_of
from fleet.ledger import LedgerEntry
from fleet.prices import Usage, cost_nano_usd
from fleet.quality import learned
from fleet.router import is_checked, ladder_of, next_tier, start_tier
from fleet.routing import START, Arm, Beliefs, beliefs, choose
from fleet.tenants import DEFAULT
from fleet.trust import FLOOR, Audits, audit_share, is_below
from queues.lessons import Learned, Lessons
from queues.subtasks import Lesson

logger = logging.getLogger(__name__)

#: Seconds after which a book is read again, and how many are remembered.
LOOK_S, REMEMBERED = 0.5, 500
#: The shelf and book of all kinds of the fleet together.
FLEET = ("", "*")
#: The half-lives in a book, in lessons: the configured one; that of what is recent; audits are few and last longer; so does what
#: all kinds say together.
RECENT, AUDITED, POOLED = 60.0, 4.0, 4.0
#: That of a clock which stands still.
STILL = 1e300
NOTHING: Mapping[str, float] = {}
#: A usual call, for the proportion of prices before there are costs.
USUAL = Usage(input_tokens=1_000, output_tokens=300)
#: Draws from which the odds of a choice are told.
DRAWS = 400
#: Outcomes of a kind after which it is known well enough, and subtasks that run at first where it is not.
ENOUGH, FIRST = 100, 12
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
    #: Tiers below the kind's floor: it is not started on them, but where routing was frozen before that was found.
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
    arms: Mapping[tuple[str, str], Arm]
    audits: Mapping[str, Audits]
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
        #: Audits asked for here since a book was read, by (tenant, book, tier): many answers are accepted within a second.
        self._asked: Counter[tuple[str, str, str]] = Counter()

    async def start(self, step: Step, tenant: str, subtask: str | None) -> str:
        """The tier that a subtask starts on; None: the likeliest one, to wait for its claim on.

        Dice that are thrown for all that wait would fill the tiers that hardly anything is for with the few that they fell so
        for, long before the rest has its turn. So they are thrown for each when it is claimed.

        Raises LinkError: its kind is asked for the first time and the store is away.
        """
        if step.tier != AUTO or not is_checked(step):
            return start_tier(step, self._config)
        return await self._choose(step, tenant, subtask, START) or start_tier(step, self._config)

    async def unknown(self, steps: Iterable[tuple[Step, float | None]], tenant: str) -> tuple[str, ...]:
        """The tiers of those steps of whose kinds little is known; with each, in how many seconds it is due (None: no deadline).

        Many that start at the same moment would all start by a guess. What goes in batches does so anyway. Raises LinkError like
        `start`.
        """
        found: dict[str, None] = {}
        enough = min(ENOUGH, self._config.routing.half_life)  # their sum comes to 1.4 half-lives at most
        for step, left_s in steps:
            if step.tier != AUTO or not is_checked(step) or self._config.routing.frozen:
                continue
            tiers = ladder_of(step, self._config)
            model, timeout_s = self._config.model_of(tiers[0])[1], self._config.tiers[tiers[0]].timeout_s
            if lane_of(left_s, model, self._config.lanes, timeout_s=timeout_s, batches=True) == "batch":
                continue
            known = await self._known_of(tenant, step.label, tiers)
            if sum(arm.n for (_, came_from), arm in known.arms.items() if came_from == START) < enough:
                found |= dict.fromkeys(tiers)
        return tuple(found)

    async def next(self, step: Step, tier: str, tenant: str, subtask: str) -> str | None:
        """The tier that answers after `tier` was rejected, None at the top. Raises LinkError like `start`."""
        if step.tier != AUTO or not is_checked(step) or tier not in ladder_of(step, self._config):
            return next_tier(step, tier, self._config)
        return await self._choose(step, tenant, subtask, tier)

    def taught(self, entry: LedgerEntry) -> tuple[Lesson, ...] | None:
        """What an entry with its final verdict teaches, for the charge that books it; None: nothing.

        Where routing is frozen an audit's does all the same: what it found is to be known, and no choice hangs on it.
        """
        one = learned(entry)
        if one is None:
            return None
        if one.verdict in ("right", "wrong"):
            return self.judged(_shelf(entry), one.kind, one.tier, one.verdict == "right", None)
        if self._config.routing.frozen:
            return None
        arm = f"{one.tier}:{one.came_from or START}"
        # At once: what a lane takes off is its deadline's doing, and says nothing of the next job.
        cost = entry.cost_nano_usd + (0 if entry.compared is None else entry.compared.lane_saved)
        whole = {f"n:{arm}": 1.0, f"cost:{arm}": float(cost)}
        recent = {f"n:{arm}": 1.0}
        if one.verdict == "accepted":
            whole[f"ok:{arm}"] = recent[f"ok:{arm}"] = 1.0
        return (
            self._lesson(_shelf(entry), one.kind, {}, whole, recent),
            Lesson(*FLEET, (POOLED * self._config.routing.half_life,), (whole,)),
        )

    def asked(self, entry: LedgerEntry) -> tuple[Lesson, ...]:
        """What it teaches that an accepted answer is given to an auditor, whose verdict comes later."""
        kind = entry.kind or entry.step or ""
        if self._config.audit_share(kind) == "auto":
            self._asked[_shelf(entry), book_of(kind), entry.tier] += 1
        return (self._lesson(_shelf(entry), kind, {f"asked:{entry.tier}": 1.0}),)

    def judged(self, tenant: str, kind: str, tier: str, right: bool, before: bool | None) -> tuple[Lesson, ...]:
        """What a verdict on an accepted answer teaches; `before`: the one that it takes the place of, which is unlearned."""
        audits = {f"audited:{tier}": float(before is None), f"right:{tier}": float(right - (before or False))}
        return () if before is right else (self._lesson(tenant, kind, audits),)

    async def audit_share(self, step: Step, tenant: str, tier: str) -> float:
        """The share of what `tier` has accepted of a step's kind to audit. Raises LinkError like `start`.

        Where the configuration leaves it to us nothing of the last tier: there is no higher one to judge it, or to start on.
        """
        told = self._config.audit_share(step.label)
        if told != "auto":
            return told
        tiers = ladder_of(step, self._config)
        if tier not in tiers[:-1]:
            return 0.0
        known = await self._known_of(tenant, step.label, tiers)
        accepted = sum(arm.accepted for (its, _), arm in known.arms.items() if its == tier)
        # An audit costs about what an answer of the last tier does.
        worth = sum(arm.cost for arm in known.arms.values()) / max(1.0, known.beliefs.cost[-1, len(tiers) - 1])
        floor = self._config.floor(step.label)
        floor = FLOOR if floor is None else floor
        counts = known.audits.get(tier, Audits())
        asked = max(counts.asked, counts.audited) + self._asked[tenant, book_of(step.label), tier]
        return audit_share(replace(counts, asked=asked), accepted, worth, floor)

    async def look(self, tenant: str) -> list[Route]:
        """What is known of each kind of a tenant, the latest first. Raises LinkError."""
        pool = arms_of(await self._lessons.read(*FLEET))
        tiers = self._config.ladder("nano", None)
        found = []
        for name, last in (await self._lessons.books(tenant)).items():
            book = await self._lessons.read(tenant, name)
            found.append(self._route(name, tiers, book, pool, last))
        return found

    async def _choose(self, step: Step, tenant: str, subtask: str | None, came_from: str) -> str | None:
        tiers = ladder_of(step, self._config)
        known = (await self._known_of(tenant, step.label, tiers)).beliefs
        routing = self._config.routing
        # No secret; the same whenever it is asked again.
        dice = None
        if subtask is not None and not routing.frozen:
            dice = Random(f"{routing.seed}/{subtask}/{came_from}")  # noqa: S311
        return choose(known, came_from, dice)

    async def _known_of(self, tenant: str, kind: str, tiers: tuple[str, ...]) -> _Known:
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
        finally:
            known.reading, known.at = False, time.monotonic()

    async def _read(self, key: tuple[str, str, tuple[str, ...]]) -> None:
        tenant, kind, tiers = key
        for tier in tiers:
            self._asked.pop((tenant, book_of(kind), tier), None)
        if time.monotonic() - self._pool[0] > LOOK_S:
            self._pool = (time.monotonic(), await self._lessons.read(*FLEET))
        book = await self._lessons.read(tenant, book_of(kind))
        found = self._believe(kind, tiers, book, arms_of(self._pool[1]))
        self._known[key] = _Known(found, arms_of(book), audits_of(book), time.monotonic())
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        if book.sums and (notes := self._notes(kind, book, choose(found, START, None) or "")):
            await self._lessons.note(tenant, book_of(kind), notes)

    def _notes(self, kind: str, book: Learned, choice: str) -> dict[str, str]:
        """What is new of how a kind stands."""
        below = " ".join(sorted(self._heeded(kind, book)))
        new = {"below": below} if book.notes.get("below") != below else {}
        if book.notes.get("choice") != choice and not self._config.routing.frozen:
            new |= {"choice": choice, "since": f"{time.time():.3f}"}
        return new

    def _believe(self, kind: str, tiers: Sequence[str], book: Learned, pool: Mapping[tuple[str, str], Arm]) -> Beliefs:
        prices = [float(cost_nano_usd(*self._config.model_of(tier), USUAL)) for tier in tiers]
        barred = self._heeded(kind, book).intersection(tiers[:-1])
        return beliefs(kind, tiers, prices, arms_of(book), pool, barred)

    def _heeded(self, kind: str, book: Learned) -> frozenset[str]:
        """The tiers below the floor that nothing starts on: where routing is frozen, those that were it when that began."""
        if self._config.routing.frozen and "below" in book.notes:
            return frozenset(book.notes["below"].split())
        begun = not self._config.routing.frozen or book.sums.get(1)
        return self._below(kind, book) if begun else frozenset()

    def _below(self, kind: str, book: Learned) -> frozenset[str]:
        """The tiers whose accepted answers are surely too often wrong."""
        floor = self._config.floor(kind)
        return frozenset(tier for tier, its in audits_of(book).items() if floor is not None and is_below(its, floor))

    def _lesson(
        self,
        tenant: str,
        kind: str,
        audits: Mapping[str, float],
        whole: Mapping[str, float] = NOTHING,
        recent: Mapping[str, float] = NOTHING,
    ) -> Lesson:
        half_life = self._config.routing.half_life
        # Where routing is frozen nothing is added to what came of answers, nor does that grow old.
        lives = (STILL, STILL) if self._config.routing.frozen else (half_life, RECENT)
        return Lesson(tenant, book_of(kind), (*lives, AUDITED * half_life), (whole, recent, audits))

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
            barred=self._below(kind, book).intersection(tiers[:-1]),
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
    found = {}
    for tier in {name.partition(":")[2] for name in sums}:
        audited, right, asked = (sums.get(f"{what}:{tier}", 0.0) for what in ("audited", "right", "asked"))
        # What is unlearned is taken off whole, however old the verdict was that it takes back.
        found[tier] = Audits(audited, min(max(right, 0.0), audited), asked)
    return found


def _shelf(entry: LedgerEntry) -> str:
    return entry.tenant or DEFAULT
