"""What audits found: how many accepted outputs of a kind and tier were looked at again, and how many of them were right.

It knows ledger entries of the role `audit` only as verdicts: `ok` is judged right, `rejected` is judged wrong, `failed` is no
verdict. What is made of the figures (floors, routes) is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from fleet.config import Frozen

#: The normal quantile of a two-sided interval of 95 %.
Z_95 = 1.959963984540054


class Quality(Frozen):
    """Audited outputs of one kind that were accepted from one tier. Shares run from 0 to 1."""

    kind: str
    #: The tier whose output was audited; None: the ledger does not say.
    tier: str | None
    audited: int
    right: int
    #: The 95 % interval of the share that is right.
    low: float
    high: float


def quality(kind: str, tier: str | None, audited: int, right: int) -> Quality:
    """The figures of so many verdicts."""
    low, high = wilson(right, audited)
    return Quality(kind=kind, tier=tier, audited=audited, right=right, low=low, high=high)


def pooled(rows: Iterable[Quality]) -> Quality | None:
    """All of them as one; None where nothing was audited."""
    counts = [(row.audited, row.right) for row in rows]
    audited, right = sum(one for one, _ in counts), sum(one for _, one in counts)
    return quality("all", None, audited, right) if audited else None


def wilson(right: int, audited: int, z: float = Z_95) -> tuple[float, float]:
    """The score interval of a share: (low, high); (0, 1) of nothing.

    Unlike the textbook's p ± z·s it stays within 0 and 1 and holds for few verdicts and for shares near 1. Source: E. B. Wilson,
    "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927).
    """
    if audited == 0:
        return 0.0, 1.0
    share, square = right / audited, z * z
    middle = share + square / (2 * audited)
    spread = z * math.sqrt(share * (1 - share) / audited + square / (4 * audited * audited))
    whole = 1 + square / audited
    # At the ends the two sides are equal, but for the last digit.
    low = 0.0 if right == 0 else max(0.0, (middle - spread) / whole)
    return low, 1.0 if right == audited else min(1.0, (middle + spread) / whole)
