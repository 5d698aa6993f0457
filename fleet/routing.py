"""Where a subtask of a kind starts, and which tier takes over: the ladder of least expected cost per accepted outcome.

Pure: from what happened (a `Book` per kind, and one of all kinds together) and dice to a tier. It knows neither store nor
configuration nor step; the tiers it may choose from are handed to it in rising order, and the last of them is never skipped:
to give up earlier is for whoever wrote the job to say (`max_tier`).

A ladder is a choice of the tiers below the last. It costs what its first tier costs, and, with the chance that this one's
answer is rejected, what comes after it. The chances are not known. Each is a Beta posterior over discounted counts, and each
decision is taken as if one draw from the posteriors were true (Thompson sampling: Thompson 1933; Russo et al. 2018, "A
Tutorial on Thompson Sampling"). So a ladder is chosen as often as it is likely to be the best, which keeps looking where looking
is cheap and stops where it is dear. With many subtasks under way, whose outcomes nobody has seen, the draws differ (batched
Thompson sampling), so not all of them follow one guess.

An item that a tier was wrong about is a harder one. So what a tier does with what it was handed on is counted apart, by the tier
it came from, and the counts of both sides tie each other: for what starts at a higher tier the prior is the law of total
probability over what the lower one accepts and hands on (`Draw`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from random import Random

#: Who an item comes from that no tier has answered yet.
START = ""

#: How likely an answer of a tier is to be accepted before anything is known, by the kind of work: at the bottom of a ladder,
#: in its middle and at its top. Bulk work (classify, extract, rank) begins at the bottom; code, tools and what has several
#: steps in the middle, and so does what says nothing of itself; plans, and what is dear to get wrong, at the top.
_BULK = (0.75, 0.85, 0.95)
_USUAL = (0.2, 0.7, 0.95)
_HARD = (0.03, 0.12, 0.9)
_SAYS_BULK = re.compile(r"classif|extract|rank|filter|label|triage|topic|sort|detect|tag|route|score|dedup|match", re.I)
_SAYS_HARD = re.compile(r"plan|architect|strateg|legal|contract|diagnos|complian|safety|audit", re.I)

#: Outcomes that the first guess counts as, those that the other kinds' count as, and those that the counts of a tier's own
#: start and of what it was handed on count as for each other.
GUESS_WEIGHT = 1.0
POOL_WEIGHT = 2.0
TIE_WEIGHT = 10.0
#: What is left of a tier's chance for items that a lower one was wrong about, before they have been seen; and the chance that a
#: higher tier is right about what a lower one is right about.
HARDER = 0.8
AGREES = 0.96
#: As how many each outcome counts when chances are drawn. With more, less is tried that is likely to be worse: kinds have
#: hundreds or thousands of subtasks, not millions, and many are drawn at a time. At 1, as in the theory, a kind costs about a
#: hundredth more (`python -m benchmarks.money --policy-only`).
CONFIDENCE = 4.0
#: Standard deviations by which recent outcomes may differ from older ones before something is thought to have changed.
BY_CHANCE = 2.0
#: What a draw needs of either; of less it would be nothing or all for ever.
LEAST = 0.02
#: Calls that the prices count as, for what a call costs.
PRICE_WEIGHT = 2.0
#: What is spent on trying a tier that a ladder skips, of what an outcome costs, and how often it is tried at most: once its
#: chance is thought to be small, nothing else tells that it has become better.
PROBES, MOST_PROBED = 0.003, 0.04


@dataclass(frozen=True, slots=True)
class Arm:
    """What came of a tier's answers to items from one place, discounted: how many, how many accepted, what they cost."""

    n: float = 0.0
    accepted: float = 0.0
    cost: float = 0.0
    #: Of that, what is recent: the same two sums with a short half-life.
    recent_n: float = 0.0
    recent_accepted: float = 0.0


#: By (tier, where the item came from: a tier, or `START`).
Book = Mapping[tuple[str, str], Arm]
NOTHING = Arm()


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What is thought of a kind: made from its book once, asked for each subtask.

    `starts`, `moved`, `cost`: by index of a tier, and of (where from, which tier), -1 for the start.
    """

    tiers: tuple[str, ...]
    #: (successes, failures) as of a Beta, without what the other side's counts say.
    starts: tuple[tuple[float, float], ...]
    moved: Mapping[tuple[int, int], tuple[float, float]]
    #: Evidence that ties a tier's start to a lower one: that one's index, and how much it counts; None: there is none.
    ties: tuple[tuple[int, float] | None, ...]
    cost: Mapping[tuple[int, int], float]
    #: Tiers whose accepted answers are too often wrong, by index.
    barred: frozenset[int]
    #: Tiers to go through from each place on (-1: the start), each ending at the last.
    ladders: Mapping[int, tuple[tuple[int, ...], ...]] = field(repr=False)
    #: Cost per accepted outcome of the best ladder, by the means.
    worth: float = 0.0


def first_guess(kind: str, rank: float) -> float:
    """The chance of a tier at `rank` of the ladder (0 the lowest, 1 the last) with this kind of work."""
    low, middle, high = _BULK if _SAYS_BULK.search(kind) else _HARD if _SAYS_HARD.search(kind) else _USUAL
    return low + (middle - low) * 2 * rank if rank < 0.5 else middle + (high - middle) * (2 * rank - 1)


def first_tier(kind: str, tiers: Sequence[str]) -> str:
    """Where this kind of work starts as long as nothing is known of it."""
    if _SAYS_BULK.search(kind):
        return tiers[0]
    if _SAYS_HARD.search(kind):
        return tiers[-1]
    return "mini" if "mini" in tiers else tiers[0]


def beliefs(
    kind: str,
    tiers: Sequence[str],
    prices: Sequence[float],
    book: Book,
    pool: Book,
    barred: Collection[str] = (),
) -> Beliefs:
    """What to think of a kind on these tiers, in rising order; `prices`: what a usual call costs on each, in any unit.

    `pool`: what came of all kinds of the fleet together. `barred`: tiers whose accepted answers are too often wrong.
    """
    last = len(tiers) - 1
    guesses = [first_guess(kind, i / last if last else 1.0) for i in range(len(tiers))]
    starts, ties = [], []
    moved: dict[tuple[int, int], tuple[float, float]] = {}
    for i, tier in enumerate(tiers):
        own = book.get((tier, START), NOTHING)
        starts.append(_posterior(own, _prior(guesses[i], pool.get((tier, START), NOTHING)), GUESS_WEIGHT))
        # What it is expected to do with harder items: a part of what it does, or would do, with all.
        good, bad = starts[i]
        for s in range(i):
            among = pool.get((tier, tiers[s]), NOTHING)
            prior = _prior(HARDER * good / (good + bad), among)
            moved[s, i] = _posterior(book.get((tier, tiers[s]), NOTHING), prior, GUESS_WEIGHT)
        evidence = [
            (min(book.get((tiers[s], START), NOTHING).n, book.get((tier, tiers[s]), NOTHING).n), s) for s in range(i)
        ]
        most, lower = max(evidence, default=(0.0, 0))
        ties.append((lower, min(TIE_WEIGHT, most / 2)) if most > 1 else None)
    found = Beliefs(
        tiers=tuple(tiers),
        starts=tuple(starts),
        moved=moved,
        ties=tuple(ties),
        cost=_costs(tiers, prices, book),
        barred=frozenset(i for i, tier in enumerate(tiers) if tier in barred and i != last),
        ladders=_ladders(len(tiers), frozenset(i for i, tier in enumerate(tiers) if tier in barred and i != last)),
    )
    means = Draw(found, None)
    return replace(found, worth=min(means.ratio(ladder) for ladder in found.ladders[-1]))


class Draw:
    """One guess at the truth: the chances of every tier, drawn from the posteriors; without dice, their means."""

    __slots__ = ("_beliefs", "_moved", "_starts")

    def __init__(self, known: Beliefs, dice: Random | None) -> None:
        self._beliefs = known
        self._moved = {where: _sample(of_it, dice) for where, of_it in known.moved.items()}
        starts: list[float] = []
        for i, (good, bad) in enumerate(known.starts):
            weight, whole = 0.0, 0.0
            if (tie := known.ties[i]) is not None:
                lower, weight = tie
                at = starts[lower]
                whole = at * AGREES + (1 - at) * self._moved[lower, i]
            starts.append(_sample((good + weight * whole, bad + weight * (1 - whole)), dice))
        self._starts = starts

    def ratio(self, ladder: Sequence[int]) -> float:
        """Expected cost per accepted outcome of a ladder from the start."""
        cost, accepted = self.outlook(-1, ladder)
        return cost / max(accepted, 1e-9)

    def outlook(self, came_from: int, ladder: Sequence[int]) -> tuple[float, float]:
        """(Expected cost, chance that an answer is accepted) of going up a ladder from there."""
        costs, left, cost = self._beliefs.cost, 1.0, 0.0
        for tier in ladder:
            cost += left * costs[came_from, tier]
            left *= 1 - (self._starts[tier] if came_from < 0 else self._moved[came_from, tier])
            came_from = tier
        return cost, 1 - left

    def loss(self, came_from: int, ladder: Sequence[int]) -> float:
        """Expected cost of a ladder from there, less what the outcome is worth.

        An accepted one is worth what one costs in the kind (Dinkelbach 1967, "On Nonlinear Fractional Programming").
        """
        cost, accepted = self.outlook(came_from, ladder)
        return cost - self._beliefs.worth * accepted


def choose(known: Beliefs, came_from: str, dice: Random | None) -> str | None:
    """The tier that answers next, None at the top; without dice, as the means have it."""
    tiers = known.tiers
    at = tiers.index(came_from) if came_from in tiers else -1
    ladders = known.ladders[at]
    if len(ladders) < 2:
        return tiers[ladders[0][0]] if ladders else None
    draw = Draw(known, dice)
    first = min(ladders, key=draw.ratio if at < 0 else lambda ladder: draw.loss(at, ladder))[0]
    return tiers[first if dice is None else _probed(known, at, first, dice)]


def _probed(known: Beliefs, at: int, first: int, dice: Random) -> int:
    """The chosen tier, or now and then one that it skips."""
    for tier in range(at + 1, first):
        cost = known.cost[at, tier]
        if tier not in known.barred and dice.random() * cost < min(MOST_PROBED * cost, PROBES * known.worth):
            return tier
    return first


def _ladders(count: int, barred: frozenset[int]) -> dict[int, tuple[tuple[int, ...], ...]]:
    found: dict[int, tuple[tuple[int, ...], ...]] = {}
    last = count - 1
    for at in range(-1, count):
        between = [i for i in range(at + 1, last) if i not in barred]
        found[at] = (
            tuple((*some, last) for size in range(len(between), -1, -1) for some in combinations(between, size))
            if at < last
            else ()
        )
    return found


def _costs(tiers: Sequence[str], prices: Sequence[float], book: Book) -> dict[tuple[int, int], float]:
    """What a call costs, by (where from, which tier): what it has cost, and before that what it would by the prices."""
    seen = [
        (i, arm) for i, tier in enumerate(tiers) for s in (START, *tiers[:i]) if (arm := book.get((tier, s), NOTHING)).n
    ]
    nominal = sum(prices[i] * arm.n for i, arm in seen)
    # What was free until now may have a price since.
    scale = (sum(arm.cost for _, arm in seen) / nominal if nominal else 0.0) or 1.0
    found = {}
    for i, tier in enumerate(tiers):
        arms = [book.get((tier, s), NOTHING) for s in (START, *tiers[:i])]
        n, cost = sum(arm.n for arm in arms), sum(arm.cost for arm in arms)
        usual = (PRICE_WEIGHT * prices[i] * scale + cost) / (PRICE_WEIGHT + n)
        for s, arm in enumerate(arms):
            found[s - 1, i] = (PRICE_WEIGHT * usual + arm.cost) / (PRICE_WEIGHT + arm.n)
    return found


def _prior(guess: float, pool: Arm) -> float:
    """The guess, drawn towards what is usual in the fleet."""
    weight = min(pool.n, POOL_WEIGHT)
    usual = pool.accepted / pool.n if pool.n else 0.0
    return (GUESS_WEIGHT * guess + weight * usual) / (GUESS_WEIGHT + weight)


def _posterior(arm: Arm, prior: float, weight: float) -> tuple[float, float]:
    accepted, n = _current(arm)
    good, bad = accepted + weight * prior, n - accepted + weight * (1 - prior)
    return good, bad


def _current(arm: Arm) -> tuple[float, float]:
    """(Accepted, how many): what is older counts as far as what is recent does not contradict it.

    By how much the two differ beyond chance is how far the truth has moved, and a count of the past is worth no more than
    a guess with that error.
    """
    new, good = arm.recent_n, arm.recent_accepted
    old = arm.n - new
    if new < 1 or old < 1:
        return arm.accepted, arm.n
    old_share, share = (arm.accepted - good) / old, good / new
    both = (arm.accepted + 1) / (arm.n + 2)
    spread = both * (1 - both)
    moved = (old_share - share) ** 2 - BY_CHANCE**2 * spread * (1 / old + 1 / new)
    if moved <= 0:
        return arm.accepted, arm.n
    kept = 1 / (1 / old + moved / spread)
    return good + kept * old_share, new + kept


def _sample(of_it: tuple[float, float], dice: Random | None) -> float:
    good, bad = of_it
    if dice is None:
        return good / (good + bad)
    return dice.betavariate(max(CONFIDENCE * good, LEAST), max(CONFIDENCE * bad, LEAST))
