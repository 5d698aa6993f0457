"""How trails and outcomes of subtasks are written into the store, and read back.

The store keeps both as opaque text; only this module knows their shape.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from fleet.entries import Asked, Call, charge, judged
from fleet.flaws import Flaw
from fleet.jobs import Attempt, Outcome
from fleet.ledger import CallStatus, LedgerEntry
from fleet.prices import NANO_PER_USD, Usage
from fleet.stored import read, writable
from queues.subtasks import Charge, Lesson, Result, Status

#: A look at an answer by another model: a judge's, which its step asked for, or one of those that measure what was accepted.
#: `holdout` is none: the flagship is asked the same, and its answer compared (`fleet.holdout`).
Look = Literal["check", "audit", "holdout"]
#: Characters of a rejected answer that whoever answers next is shown, and of the reason.
SHOWN_CHARS, REASON_CHARS = 8_000, 2_000


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that keeps its schema and its step's rules; its entry waits for the verdict of whoever has to look at it."""

    output: Any
    #: What of it the next tier is shown, should it be rejected.
    text: str
    model: str
    entry: LedgerEntry
    record: str
    #: Whose look it waits for, how often that was tried, and what is to be said of the answer should it be accepted.
    look: Look | None = None
    looks: int = 0
    note: str | None = None
    #: How many claims on the subtask there had been when it was handed on for that.
    claims: int = 0

    @classmethod
    def of(cls, call: Call, output: Any) -> Answer:
        return cls(output, call.completion.text[:SHOWN_CHARS], call.completion.model, call.entry, call.record)

    @classmethod
    def load(cls, data: dict[str, Any]) -> Answer:
        known = {name: data.get(name) for name in ("output", "text", "model", "record", "look", "note")}
        counts = {name: data.get(name, 0) for name in ("looks", "claims")}
        return cls(entry=read(LedgerEntry, data["entry"]), **counts, **known)  # type: ignore[arg-type]

    def dump(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in self.__slots__}
        return known | {"entry": self.entry.model_dump(mode="json")}

    @property
    def given(self) -> Kept:
        """What a subtask ends with that ends with it."""
        return Kept(self.output, self.model, self.tier)

    @property
    def tier(self) -> str:
        """The tier that gave it."""
        return self.entry.tier

    def charge(self, status: CallStatus, reason: str | None = None, flaw: Flaw | None = None) -> Charge:
        """Its entry, with the verdict."""
        return charge(judged(self.entry, status, reason, flaw), self.record)

    def pending(self, lessons: tuple[Lesson, ...] | None) -> Charge:
        """Its entry while there is no verdict, and what routing learns already."""
        return charge(judged(self.entry, "ok"), self.record, provisional=True, lessons=lessons)

    def rejected(self, reason: str, flaw: Flaw) -> Attempt:
        """What the next tier is shown of it."""
        answer, why = writable(self.text), writable(reason[:REASON_CHARS])
        return Attempt(tier=self.tier, model=self.model, answer=answer, reason=why, flaw=flaw)


class Kept(NamedTuple):
    """An output that was accepted, and stays if the better one that was asked for does not come."""

    output: Any
    model: str
    tier: str | None = None


@dataclass
class Trail:
    """What earlier attempts at a subtask left behind; it travels with the subtask from tier to tier."""

    attempts: list[Attempt] = field(default_factory=list)
    #: Answers that were looked at, in the end or on the way there.
    calls: int = 0
    #: The accepted output that a review sent back, or an audit found wrong.
    kept: Kept | None = None
    #: An answer that somebody has still to look at.
    pending: Answer | None = None
    #: Calls that were made, those without an answer too, and what all of them cost.
    asked: Asked = field(default_factory=Asked)
    #: The id of a call that was made as a line of a batch, while nobody has looked at what came of it.
    line: str | None = None
    #: A call that was answered, while what came of the answer is not written down; it does not travel.
    open: Call | None = None

    @property
    def came_from(self) -> str | None:
        """The tier whose answer was rejected last: whoever answers next is shown it."""
        return self.attempts[-1].tier if self.attempts else None

    @classmethod
    def load(cls, text: str) -> Trail:
        if not text:
            return cls()
        data = json.loads(text)
        kept = data.get("kept")
        return cls(
            [read(Attempt, attempt) for attempt in data.get("attempts", [])],
            data.get("calls", 0),
            None if kept is None else Kept(*kept[:3]),
            None if (pending := data.get("pending")) is None else Answer.load(pending),
            Asked(
                data.get("asked", data.get("calls", 0)),
                read(Usage, data.get("usage", {})),
                data.get("cost_nano_usd", 0),
            ),
            data.get("line"),
        )

    def dump(self) -> str:
        document = {
            "attempts": [attempt.model_dump() for attempt in self.attempts],
            "calls": self.calls,
            "usage": self.asked.usage.model_dump(),
            "cost_nano_usd": self.asked.cost_nano_usd,
            "kept": self.kept,
            "asked": self.asked.number,
        }
        waits = {"pending": self.pending and self.pending.dump(), "line": self.line}
        return json.dumps(document | {name: value for name, value in waits.items() if value is not None})

    def document(
        self,
        given: Kept | None,
        *,
        error: str | None,
        kind: str | None = None,
        tier: str = "",
        until: float | None = None,
    ) -> str:
        """The end of a subtask as the store keeps it, with the output that it ends with; `tier`: where it ends."""
        document = {
            "output": None if given is None else given.output,
            "error": error,
            "model": None if given is None else given.model,
            "attempts": self.calls,
            "asked": self.asked.number,
            "usage": self.asked.usage.model_dump(),
            "cost_nano_usd": self.asked.cost_nano_usd,
        }
        told = {"kind": kind, "until": until}
        if given is not None and given.tier != tier:
            told["tier"] = given.tier  # it was given elsewhere than where it was looked at
        return json.dumps(document | {name: value for name, value in told.items() if value is not None})

    def given_back(self, found: str) -> str:
        """What travels on after a claim that came to nothing: what it found, and what was asked meanwhile."""
        before = Trail.load(found)
        if self.open is not None and self.open.entry.call_id == before.line:
            return found  # the answer of its line is still there to be read
        if self.asked == before.asked and self.line == before.line:
            return found
        return replace(before, asked=self.asked, line=self.line).dump()

    def cut_off(self, error: BaseException) -> list[Charge]:
        """The entry of the open call, for an error that came between its answer and what becomes of that: nobody knows."""
        if self.open is None:
            return []
        if self.pending is not None and self.pending.entry.call_id == self.open.entry.call_id:
            self.pending = None
        if isinstance(error, asyncio.CancelledError):
            status: CallStatus = "rejected" if self.open.entry.role == "work" else "failed"
            return [self.open.charge(status, "it was not checked any more", "check_broken")]
        return [self.open.charge("failed", f"internal: {type(error).__name__}", "check_broken")]


#: The outcome of a subtask that has not ended.
NEVER_ENDED = Outcome(step="", status="failed", error="it never ended")


def with_more(outcome: Outcome, asked: Asked) -> Outcome:
    """An outcome, with what was asked after it."""
    cost = round(outcome.cost_usd * NANO_PER_USD) + asked.cost_nano_usd
    number = max(outcome.asked, asked.number)
    more = {"usage": outcome.usage + asked.usage, "cost_usd": cost / NANO_PER_USD, "asked": number}
    return outcome.model_copy(update=more)


def output_of(result: Result | None) -> Outcome:
    """What became of a subtask, without its item; `NEVER_ENDED` for one that is not final."""
    if result is None or result.status is None:
        return NEVER_ENDED
    return outcome_of(result.id, result.tier, result.status, result.output)


def outcome_of(id_: str, tier: str, status: Status, end: str | None) -> Outcome:
    """The outcome that the end of a subtask, as the store keeps it, stands for."""
    document = json.loads(end or "{}")
    return Outcome(
        step=id_.split("/")[1],
        status=status,
        output=document.get("output"),
        error=document.get("error"),
        error_kind=document.get("kind"),
        until=document.get("until"),
        tier=document.get("tier", tier),
        model=document.get("model"),
        attempts=document.get("attempts", 0),
        asked=document.get("asked", document.get("attempts", 0)),
        usage=read(Usage, document.get("usage", {})),
        cost_usd=document.get("cost_nano_usd", 0) / NANO_PER_USD,
    )
