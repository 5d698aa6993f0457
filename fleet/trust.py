"""Which tiers of a kind can be trusted with what its check lets through, and how much of it an audit should look at.

Pure functions over counts of audited answers: how many were looked at, and how many of those were right. It knows neither who
looks (the flagship, or a person) nor where the counts are kept.

An audit costs about as much as the flagship's own answer, so it is spent where it can change something: as many as the square
root of a tier's accepted answers, so many of the first of them and ever fewer after that, within a part of what the kind costs;
and more as soon as wrong ones were found, until it is clear whether they are too many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log, log1p, sqrt

#: Of the accepted answers of a tier so many have to be right, and how sure one has to be that they are not before the kind starts
#: higher: it is asked after each audit, so by chance alone it is said more often than asking once would say it.
FLOOR, SURE = 0.95, 0.95
#: Wrong answers that have to have been found, discounted: a single one may be the auditor's mistake.
FOUND = 1.5
#: What is thought before anything was audited: a Beta with the floor for its mean, most of it near 1.
PRIOR_WEIGHT = 10.0
#: Audits of a tier, as a multiple of the square root of its accepted answers: of 100 five, of 1,600 twenty. Of an answer of each
#: next one that is the share whose sum they are.
ROOT = 0.5
#: The first few are made soon, whatever they cost: without them nothing is known. The others cost at most such a part of what
#: the kind does.
FEW, SPENT = 4.0, 0.1
#: How likely it has to be that the floor is missed to look closer, and up to which multiple of the square root.
DOUBT, CLOSER = 0.5, 4.0
#: Audits without a verdict that are enough in doubt.
PENDING = 6.0
#: The least and the most of its answers.
LEAST, MANY = 0.002, 0.25
#: Answers of a kind that is new that may be accepted before it is known how many audits were asked for.
UNSEEN = 200


@dataclass(frozen=True, slots=True)
class Audits:
    """Of the accepted answers of a tier: how many were audited and how many of those were right, discounted."""

    audited: float = 0.0
    right: float = 0.0
    #: How many were given to an auditor, those without a verdict included; 0 where that is not counted.
    asked: float = 0.0


def below_floor(counts: Mapping[str, Audits], tiers: Sequence[str], floor: float = FLOOR) -> frozenset[str]:
    """The tiers below the last whose accepted answers are surely too often wrong; `tiers` in rising order."""
    return frozenset(tier for tier in tiers[:-1] if tier in counts and is_below(counts[tier], floor))


def is_below(counts: Audits, floor: float) -> bool:
    """Whether accepted answers with such audits are surely too often wrong."""
    return counts.audited - counts.right > FOUND and misses(counts, floor) > SURE


def audit_share(counts: Audits, accepted: float, worth: float, floor: float = FLOOR) -> float:
    """The share of a tier's next accepted answers to audit, 0 to 1.

    `accepted`: how many of its answers were so far, discounted. `worth`: what the kind has cost so far, in audits.
    """
    asked = max(counts.asked, counts.audited)
    root = sqrt(accepted + 1)
    in_doubt = misses(counts, floor) > DOUBT and asked < CLOSER * root and asked - counts.audited < PENDING
    if asked < FEW or in_doubt:
        return MANY
    if asked >= FEW + SPENT * worth:
        return LEAST
    return min(MANY, max(LEAST, ROOT / (2 * root)))


def usual_share(accepted: int) -> float:
    """The share of so many answers that comes to be audited where none is found wrong."""
    return min(MANY, max(LEAST, FEW / max(1, accepted), ROOT / sqrt(max(1, accepted))))


def most_share(accepted: int) -> float:
    """The same where many answers come at once: the first audits are counted only after others were asked for."""
    return max(usual_share(accepted), MANY * min(1.0, UNSEEN / max(1, accepted)))


def misses(counts: Audits, floor: float) -> float:
    """How likely it is that fewer than `floor` of all accepted answers are right."""
    good = PRIOR_WEIGHT * floor + counts.right
    bad = PRIOR_WEIGHT * (1 - floor) + max(0.0, counts.audited - counts.right)
    return below(floor, good, bad)


def below(x: float, a: float, b: float) -> float:
    """P(X < x) for X ~ Beta(a, b): the regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - below(1 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    # Lentz's method, as modified by Thompson and Barnett.
    tiny = 1e-30
    fraction, c, d = 1.0, 1.0, 1 / _apart(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 200):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = fraction
        for term in (even, odd):
            d = 1 / _apart(1 + term * d, tiny)
            c = _apart(1 + term / c, tiny)
            fraction *= c * d
        if abs(fraction - before) < 1e-10 * fraction:
            break
    return front * fraction


def _apart(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
