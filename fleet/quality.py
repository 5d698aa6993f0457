"""True quality from verdicts: of the outputs that a tier's check let through, how many are right, and is that too few?

Pure: over ledger entries, what people say, and counts. A verdict is an audit's, by the flagship (an entry of the role `audit`:
`ok` is right, `rejected` is wrong, `failed` is none) or by a person; it says something about the kind of work and the tier whose
output was looked at. Who samples, who is asked and what is made of the figures (floors, routes) is not known here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fleet.config import Frozen
from fleet.ledger import LedgerEntry

#: What routing learns of an answer: whether its check let it through, and whether what it let through was right.
Verdict = Literal["accepted", "rejected", "right", "wrong"]

#: Names of what is written down for a job begin so where it is what a person says.
JUDGED = "audit:"
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
    #: None: of audited outputs of which the ledger does not say who gave them.
    tier: str | None
    #: Answers that the check let through and that it did not.
    accepted: int = 0
    rejected: int = 0
    #: Of the accepted outputs: those that were looked at again, and those of them that were right.
    audited: int
    right: int
    #: The 95 % interval of the share of accepted outputs that are right.
    low: float
    high: float


class Judged(Frozen):
    """What a person says of an accepted output of a job: a line of `verdicts.jsonl`."""

    #: The subtask, without its job.
    subtask: str
    kind: str
    tier: str
    right: bool
    #: The call of the audit in whose place it stands: by which the flagship had looked at the same output.
    instead: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class _Audit:
    """A verdict of the flagship. Moments order them, so entries may come in any order."""

    at: float
    call: str
    kind: str
    #: The tier whose output it saw, where it says so.
    tier: str | None
    right: bool


class Counts:
    """Adds up what entries and people say, in any order. Of an output that both looked at, what the person says counts."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str | None], Counter[Verdict]] = {}
        #: By subtask.
        self._audits: dict[str, list[_Audit]] = {}
        #: By subtask the latest answer that passed, for audits that do not say whose they saw: when, its call, its tier.
        self._passed: dict[str, tuple[float, str, str]] = {}
        self._people: list[Judged] = []
        self._replaced: set[str] = set()

    def add(self, entry: LedgerEntry) -> None:
        """Count an entry with its final verdict."""
        subtask = (entry.subtask or entry.call_id).removeprefix(f"{entry.job}/")
        if entry.role == "audit":
            if not entry.holdout and entry.status != "failed":
                its = (entry.kind or entry.step or "", entry.came_from, entry.status == "ok")
                self._audits.setdefault(subtask, []).append(_Audit(entry.started_at, entry.call_id, *its))
            return
        if entry.role == "work" and entry.status == "ok":
            passed = (entry.started_at, entry.call_id, entry.tier)
            self._passed[subtask] = max(self._passed.get(subtask, passed), passed)
        if (one := learned(entry)) is not None:
            self._answers.setdefault((one.kind, one.tier), Counter())[one.verdict] += 1

    def judge(self, said: Judged) -> None:
        """Count what a person says."""
        self._people.append(said)
        if said.instead is not None:
            self._replaced.add(said.instead)

    def standing(self, subtask: str, tier: str) -> tuple[str, bool] | None:
        """The call of the latest audit of an output of `tier`, and what it says, unless somebody's word is in its place."""
        its = [one for one in self._left(subtask) if one.tier == tier]
        return (max(its).call, max(its).right) if its else None

    def rows(self) -> list[Quality]:
        """By kind and tier, in order of their names."""
        found = {key: Counter(its) for key, its in self._answers.items()}
        for kind, tier, right in self._verdicts():
            found.setdefault((kind, tier), Counter())["right" if right else "wrong"] += 1
        return [
            quality(kind, tier, its["right"] + its["wrong"], its["right"], its["accepted"], its["rejected"])
            for (kind, tier), its in sorted(found.items(), key=lambda one: (one[0][0], one[0][1] or ""))
        ]

    def _verdicts(self) -> Iterator[tuple[str, str | None, bool]]:
        for subtask in self._audits:
            for one in self._left(subtask):
                yield one.kind, one.tier or self._passed.get(subtask, (0.0, "", None))[2], one.right
        for said in self._people:
            yield said.kind, said.tier, said.right

    def _left(self, subtask: str) -> list[_Audit]:
        return [one for one in self._audits.get(subtask, ()) if one.call not in self._replaced]


def quality(kind: str, tier: str | None, audited: int, right: int, accepted: int = 0, rejected: int = 0) -> Quality:
    """The figures of so many verdicts."""
    low, high = wilson(right, audited)
    return Quality(
        kind=kind,
        tier=tier,
        accepted=accepted,
        rejected=rejected,
        audited=audited,
        right=right,
        low=low,
        high=high,
    )


def pooled(rows: Iterable[Quality]) -> Quality | None:
    """All that was audited as one; None where nothing was."""
    counts = [(row.audited, row.right) for row in rows]
    audited, right = sum(one for one, _ in counts), sum(one for _, one in counts)
    return quality("all", None, audited, right) if audited else None


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
