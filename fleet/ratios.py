"""How much more, or less, the flagship spends on the same work: ratio estimators with intervals. Pure functions of numbers.

It knows sizes and costs, not what they are of. A size is a pair (input, output): a subtask's tokens as somebody else used
them, at the flagship's price; a cost is what the flagship's own tokens come to, at the same price. All in nano-dollars.

Where a sample of the work was given to the flagship too, an answer of it costs R = sum(cost) / sum(size) times the size, once
for input and once for output: the ratio estimator (Cochran, Sampling Techniques, 3rd ed. 1977, 6.2). An accepted answer costs
1 / p answers, where p is the share that passed the check. Kinds with few in the sample are drawn to what was found for all,
as if `PRIOR_ASKED` more of their subtasks had been asked with that result: the posterior mean of a normal model with a common
mean (Gelman et al., Bayesian Data Analysis, 3rd ed. 2013, 5.4).

The error of R comes from the residuals cost - R size by the delta method (Cochran, 6.4), that of p from the binomial
distribution, with half a success and half a failure added (Jeffreys' prior: Brown, Cai and DasGupta, Statistical Science 16,
2001), so that neither two subtasks nor twenty that all passed claim certainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.interval import around, student

Pair = tuple[int, int]
Ratios = tuple[float, float]

#: Weight of the common ratio in that of a kind, in subtasks asked.
PRIOR_ASKED = 2.0
#: What the spread of a single subtask is taken to be, relative to its size, and how many observations that is worth.
PRIOR_SPREAD, PRIOR_WORTH = 0.5, 2.0
#: How many observations the spread of all kinds is worth in that of one.
USUAL_WORTH = 4.0
#: So many subtasks that the flagship got first say something of those that others got.
ENOUGH = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """One subtask that the flagship was asked too."""

    size: Pair
    cost: Pair
    passed: bool


@dataclass(frozen=True, slots=True)
class Work:
    """The accepted subtasks of one kind that one tier did: how many, their sizes added up, and the squares of these."""

    count: int
    size: Pair
    squares: int
    asked: tuple[Asked, ...] = ()


@dataclass(frozen=True, slots=True)
class Ratio:
    """What to multiply a size with, and how well that is known. Variances and errors are relative ones."""

    #: Of an answer's input and output, and the share of answers that pass.
    ratios: Ratios
    passing: float = 1.0
    #: Variance that is this kind's alone, and that of a single subtask.
    own: float = 0.0
    spread: float = 0.0
    #: Standard error that it has from what was found for all kinds.
    common: float = 0.0
    #: Observations that the spread was estimated from.
    degrees: float = math.inf

    def of(self, size: Pair) -> float:
        return (size[0] * self.ratios[0] + size[1] * self.ratios[1]) / self.passing


#: The flagship's own work, and work of which nothing is known.
SAME = Ratio((1.0, 1.0))


def from_sample(works: Sequence[Work]) -> list[Ratio] | None:
    """The ratio of each kind; None where nothing was asked, or nothing that was asked passed."""
    everything = [asked for work in works for asked in work.asked]
    passed = sum(one.passed for one in everything)
    if not passed:
        return None
    share = passed / len(everything)
    pooled = (_ratio(everything, 0), _ratio(everything, 1))
    ratios = [(_drawn(work, 0, pooled[0]), _drawn(work, 1, pooled[1])) for work in works]
    squares = [_squares(work, its) for work, its in zip(works, ratios, strict=True)]
    degrees = PRIOR_WORTH + sum(max(0, len(work.asked) - 1) for work in works)
    usual = (PRIOR_WORTH * PRIOR_SPREAD**2 + math.fsum(squares)) / degrees
    common = math.sqrt((usual + _failing(passed, len(everything))) / len(everything))
    found = []
    for work, its, own in zip(works, ratios, squares, strict=True):
        weight = len(work.asked) + PRIOR_ASKED
        of_it = sum(one.passed for one in work.asked) + PRIOR_ASKED * share
        spread = (USUAL_WORTH * usual + own) / (USUAL_WORTH + max(0, len(work.asked) - 1))
        variance = (spread + _failing(of_it, weight)) / weight
        found.append(Ratio(its, of_it / weight, variance, spread, common * PRIOR_ASKED / weight, degrees))
    return found


def from_others(work: Work, costs: Sequence[Pair], passed: int) -> Ratio | None:
    """The ratio to what the flagship spent on other subtasks of the kind, of which `passed` passed; None where these are few.

    Prompts are taken to be as long as they are; of the output the averages are compared.
    """
    if passed < ENOUGH or not work.size[1]:
        return None
    count = len(costs)
    mean = sum(cost[1] for cost in costs) / count
    ratio = work.count * mean / work.size[1]
    squares = math.fsum((cost[1] - mean) ** 2 for cost in costs) / mean**2 if mean else 0.0
    share = work.size[1] * ratio / (work.size[0] + work.size[1] * ratio)
    spread = share**2 * (PRIOR_WORTH * PRIOR_SPREAD**2 + squares) / (PRIOR_WORTH + count - 1)
    own = (spread + _failing(passed, count)) / count
    return Ratio((1.0, ratio), passed / count, own, spread, degrees=PRIOR_WORTH + count - 1)


def total(works: Sequence[Work], ratios: Sequence[Ratio]) -> tuple[float, tuple[float, float] | None]:
    """What all of it would have cost, with its 95 % interval; None where no ratio was measured."""
    values = [ratio.of(work.size) for work, ratio in zip(works, ratios, strict=True)]
    value = math.fsum(values)
    if value <= 0 or not any(ratio.own for ratio in ratios):
        return value, None
    variance = 0.0
    for work, ratio, amount in zip(works, ratios, values, strict=True):
        size = sum(work.size)
        variance += amount**2 * ratio.own + ratio.spread * work.squares * (amount / size if size else 0.0) ** 2
    variance += math.fsum(amount * ratio.common for amount, ratio in zip(values, ratios, strict=True)) ** 2
    reach = student(min(ratio.degrees for ratio in ratios))
    return value, around(value, math.sqrt(variance) / value, reach)


def _ratio(asked: Sequence[Asked], part: int) -> float:
    size = sum(one.size[part] for one in asked)
    return sum(one.cost[part] for one in asked) / size if size else 1.0


def _drawn(work: Work, part: int, pooled: float) -> float:
    mean = PRIOR_ASKED * work.size[part] / work.count
    size = sum(one.size[part] for one in work.asked) + mean
    return (sum(one.cost[part] for one in work.asked) + mean * pooled) / size if size else pooled


def _squares(work: Work, ratios: Ratios) -> float:
    """Residuals of the asked subtasks, relative to what one of the kind is expected to cost, squared and added up."""
    expected = (work.size[0] * ratios[0] + work.size[1] * ratios[1]) / work.count
    if not expected:
        return 0.0
    return (
        math.fsum((sum(one.cost) - one.size[0] * ratios[0] - one.size[1] * ratios[1]) ** 2 for one in work.asked)
        / expected**2
    )


def _failing(passed: float, asked: float) -> float:
    """Relative variance of 1 / p, times the number asked."""
    share = (passed + 0.5) / (asked + 1)
    return (1 - share) / share
