"""What is known of a kind of work before a job runs: how often a tier's answers were accepted, what its calls cost and took.

It owns the form of that, whether it comes from the fleet's history or from a sample of the job itself, and how a ledger is turned
into it. It knows no store: who has a history hands it in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fleet.ledger import LedgerEntry

#: Where an item comes from that no tier has answered yet.
START = ""
Basis = Literal["sample", "history", "prior"]


class Counted(Protocol):
    """What a history has to say of a tier's calls for a kind, for items from one place; counts may be discounted."""

    @property
    def n(self) -> float:
        """Answers."""

    @property
    def accepted(self) -> float:
        """Of them, accepted."""

    @property
    def cost(self) -> float:
        """What they cost, in nano-dollars."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The calls of a tier for a kind, for items from one place."""

    n: float
    accepted: float
    #: Nano-dollars, added up, and squared.
    cost: float
    squares: float | None = None
    #: Seconds that they took, and tokens that they wrote, added up; None: not known.
    seconds: float | None = None
    written: float | None = None

    @property
    def mean(self) -> float:
        return self.cost / self.n if self.n else 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a step's work."""

    basis: Basis = "prior"
    #: By (tier, where the item came from).
    seen: Mapping[tuple[str, str], Seen] = field(default_factory=dict)
    #: Of its subtasks that came up, so many ran and so many were skipped.
    ran: int = 0
    skipped: int = 0
    #: What a call of the job is expected to cost, to one of those that were seen.
    scale: float = 1.0


NOTHING = Evidence()


def from_history(book: Mapping[tuple[str, str], Counted]) -> Evidence:
    """What a fleet has counted of a kind."""
    seen = {place: Seen(arm.n, arm.accepted, arm.cost) for place, arm in book.items() if arm.n > 0}
    return Evidence("history", seen) if seen else NOTHING


def from_ledger(entries: Iterable[LedgerEntry]) -> dict[str, Evidence]:
    """By step, what the calls of a job that has ended say; in any order."""
    subtasks: dict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in entries:
        if entry.role == "work" and entry.subtask is not None and entry.status != "failed":
            subtasks[entry.subtask].append(entry)
    arms: dict[str, dict[tuple[str, str], list[LedgerEntry]]] = defaultdict(lambda: defaultdict(list))
    for calls in subtasks.values():
        came_from = START
        for entry in sorted(calls, key=lambda one: (one.started_at, one.call_id)):
            arms[entry.step or ""][entry.tier, came_from].append(entry)
            came_from = entry.tier
    return {
        step: Evidence("sample", {place: _seen(calls) for place, calls in places.items()})
        for step, places in arms.items()
    }


def _seen(calls: list[LedgerEntry]) -> Seen:
    return Seen(
        n=len(calls),
        accepted=sum(entry.status == "ok" for entry in calls),
        cost=sum(entry.cost_nano_usd for entry in calls),
        squares=sum(entry.cost_nano_usd**2 for entry in calls),
        seconds=sum(entry.latency_ms for entry in calls) / 1000,
        written=sum(entry.usage.output_tokens for entry in calls),
    )
