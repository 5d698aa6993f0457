"""What audits found: how many accepted outputs of a kind and tier were looked at again, and how many of them were right.

It knows ledger entries of the role `audit` only as verdicts: `ok` is judged right, `rejected` is judged wrong, `failed` is no
verdict. What is made of the figures (floors, routes) is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from fleet.config import Frozen
from fleet.quality import wilson


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
