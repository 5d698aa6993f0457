"""Which tiers of a kind can be trusted with what its check lets through, and how much of it an audit should look at.

Pure functions over counts of audited answers: how many were looked at, and how many of those were right. It knows neither who
looks (the flagship, or a person) nor where the counts are kept.

An audit costs about as much as the flagship's own answer, so it is spent where it can change something: on the first answers of
a tier, until a check that lets much through would have shown; then on a share of the kind's cost; and again on many answers as
soon as wrong ones were found, until it is clear whether they are too many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log, log1p

#: Of the accepted answers of a tier so many have to be right, and how sure one has to be that they are not before the kind starts
#: higher.
FLOOR, SURE = 0.95, 0.9
#: Wrong answers that have to have been found, discounted: a single one may be the auditor's mistake.
FOUND = 1.5
#: What is thought before anything was audited: a Beta with the floor for its mean, most of it near 1.
PRIOR_WEIGHT = 10.0
#: Audits of a kind's first answers: as many as cost what so many of its outcomes do, but at least and at most so many.
FIRST, FEWEST, MOST_FIRST = 12.0, 5.0, 18.0
#: The share of answers that those, and the audits after a finding, are taken from, and how likely it has to be that the floor is
#: missed for that.
MANY, DOUBT = 0.2, 0.5
#: Audits without a verdict that are enough in doubt.
PENDING = 6.0
#: What audits may cost besides, of what the kind costs; and the least and the most of its answers.
SPENT, LEAST, MOST = 0.005, 0.002, 0.01


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


def audit_share(counts: Audits, part: float, worth: float, floor: float = FLOOR) -> float:
    """The share of a tier's accepted answers to audit, 0 to 1.

    `part`: of the kind's accepted outcomes those that are this tier's. `worth`: what an outcome of the kind costs, over what an
    audit does.
    """
    first = part * min(MOST_FIRST, max(FEWEST, FIRST * worth))
    asked = max(counts.asked, counts.audited)
    if asked < first or (asked - counts.audited < PENDING and misses(counts, floor) > DOUBT):
        return MANY
    return min(MOST, max(LEAST, SPENT * worth))


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
