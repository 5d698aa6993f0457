"""True quality from verdicts: of the outputs that a tier's check let through, how many are right, and is that too few?

Pure functions over ledger entries and counts. A verdict is an audit's, by the flagship or by a person; it says something about
the kind of work and the tier whose output was looked at. Who samples, who is asked and where counts are kept is not known here.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

from fleet.config import Frozen
from fleet.ledger import LedgerEntry

#: What routing learns of an answer: whether its check let it through, and whether what it let through was right.
Verdict = Literal["accepted", "rejected", "right", "wrong"]

#: The normal quantile of a two-sided interval of 95 %.
Z_95 = 1.959963984540054


class Learned(Frozen):
    """What one entry of the ledger teaches about a kind of work on a tier."""

    kind: str
    tier: str
    #: The tier whose rejected answer was shown along; None: it was the first, or that is not known of what was audited.
    came_from: str | None
    verdict: Verdict


def learned(entry: LedgerEntry) -> Learned | None:
    """What an entry with its final verdict teaches; None: nothing, it was no work, without an answer, or without a verdict.

    An answer that was let through and found wrong by an audit afterwards was accepted by its check; that it was wrong is what
    the audit's own entry says. One that the check broke on teaches nothing.
    """
    kind = entry.kind or entry.step
    if kind is None or entry.status == "failed" or entry.flaw == "check_broken":
        return None
    if entry.role == "work":
        passed = entry.status == "ok" or entry.flaw == "audit"
        return Learned(
            kind=kind, tier=entry.tier, came_from=entry.came_from, verdict="accepted" if passed else "rejected"
        )
    if entry.role == "audit" and entry.came_from is not None:
        return Learned(
            kind=kind, tier=entry.came_from, came_from=None, verdict="right" if entry.status == "ok" else "wrong"
        )
    return None


class Quality(Frozen):
    """What is known of the outputs of one kind from one tier. Shares run from 0 to 1."""

    kind: str
    tier: str
    #: Answers that the check let through and that it did not.
    accepted: int
    rejected: int
    #: Of the accepted outputs: those that were looked at again, and those of them that were right.
    audited: int
    right: int
    #: The 95 % interval of the share of accepted outputs that are right.
    low: float
    high: float


class Counts:
    """Adds up what was learned."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[Verdict]] = {}

    def add(self, one: Learned) -> None:
        self._counts.setdefault((one.kind, one.tier), Counter())[one.verdict] += 1

    def rows(self) -> list[Quality]:
        """By kind and tier, in order of their names."""
        found = []
        for (kind, tier), counts in sorted(self._counts.items()):
            audited = counts["right"] + counts["wrong"]
            low, high = wilson(counts["right"], audited)
            found.append(
                Quality(
                    kind=kind,
                    tier=tier,
                    accepted=counts["accepted"],
                    rejected=counts["rejected"],
                    audited=audited,
                    right=counts["right"],
                    low=low,
                    high=high,
                )
            )
        return found


def wilson(right: float, audited: float, z: float = Z_95) -> tuple[float, float]:
    """The score interval of a share: (low, high), within 0 and 1; (0, 1) of nothing.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927); for few verdicts
    and shares near 1 it covers better than p ± z·s (L. D. Brown, T. T. Cai, A. DasGupta, Statistical Science 16, 2001).
    """
    if audited <= 0:
        return 0.0, 1.0
    share, square = right / audited, z * z
    middle = share + square / (2 * audited)
    spread = z * math.sqrt(share * (1 - share) / audited + square / (4 * audited * audited))
    whole = 1 + square / audited
    # At the ends the two sides are equal, but for the last digit.
    low = 0.0 if right <= 0 else max(0.0, (middle - spread) / whole)
    return low, 1.0 if right >= audited else min(1.0, (middle + spread) / whole)
