"""Owns the figures of `make bench-money`: what was spent and achieved, over what the best fixed ladder would have been.

The best fixed ladder of a kind is chosen in hindsight, over all its items, among those that end on the last tier (what was
rejected is always tried there) and whose share of right outcomes is at most half a percent below the last tier's alone: where a
check lets wrong answers through, a ladder that is cheap because nobody notices is no measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.routing_world import MARGIN, Tally, World

#: A tier that is right two times out of three, give or take.
TWO_THIRDS = (0.6, 0.72)


@dataclass(frozen=True)
class KindFigures:
    """One kind: what was measured, and the same items in hindsight."""

    kind: str
    measured: Tally
    best: Tally
    ladder: tuple[str, ...]
    #: Where the kind drifts, the best ladder of each part.
    parts: float | None
    flagship: Tally

    @property
    def over(self) -> float:
        return self.measured.each / self.best.each


def figures_of(world: World, measured: Mapping[str, Tally]) -> list[KindFigures]:
    """The figures of every kind."""
    found = []
    for kind, its in world.table.kinds.items():
        items = range(its.items)
        ladder, best = world.best(kind, items)
        parts = None
        if its.drift is not None:
            at = next((item for item in items if item >= its.drift.at * its.items), its.items)
            both = [world.best(kind, part)[1] for part in (range(at), range(at, its.items)) if len(part)]
            parts = sum(part.cost for part in both) / max(1, sum(part.accepted for part in both))
        flagship = world.ladder(kind, world.tiers[-1:], items)
        found.append(KindFigures(kind, measured[kind], best, ladder, parts, flagship))
    return found


def lines(world: World, kinds: list[KindFigures]) -> dict[str, float]:
    """The named figures: costs as measured, for what was accepted, over what it would have cost in hindsight."""
    drifting = [one for one in kinds if one.parts is not None]
    cheap = [
        one for one in kinds if TWO_THIRDS[0] <= world.table.kinds[one.kind].right[world.tiers[0]] <= TWO_THIRDS[1]
    ]
    items = sum(one.measured.items for one in kinds)
    right = sum(one.measured.right - one.flagship.right for one in kinds)
    found = {
        "cost_over_hindsight": _over(kinds),
        "true_correct_minus_flagship": right / items,
        "saving_vs_flagship": _saving(cheap or kinds),
        "cost_over_hindsight_without_audits": _over(kinds, audits=False),
        "saving_vs_flagship_all_kinds": _saving(kinds),
        "audit_share_of_cost": sum(one.measured.audit_cost for one in kinds)
        / max(1, sum(one.measured.cost for one in kinds)),
    }
    if drifting:
        found["cost_over_hindsight_drift"] = _over(drifting)
        spent = sum(one.measured.cost for one in drifting)
        found["cost_over_best_of_each_part_drift"] = spent / sum(
            one.measured.accepted * (one.parts or 0) for one in drifting
        )
    return found


def _over(kinds: list[KindFigures], *, audits: bool = True) -> float:
    spent = 0.0
    for one in kinds:
        its = one.measured
        cost = its.cost - (0 if audits else its.audit_cost)
        # What is cheap because wrong answers were taken makes up for nothing elsewhere.
        poor = its.right < one.flagship.right - MARGIN * its.items
        spent += max(cost, its.accepted * one.best.each) if poor else cost
    return spent / sum(one.measured.accepted * one.best.each for one in kinds)


def _saving(kinds: list[KindFigures]) -> float:
    return 1 - sum(one.measured.cost for one in kinds) / sum(one.measured.accepted * one.flagship.each for one in kinds)
