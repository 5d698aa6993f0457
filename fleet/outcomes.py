"""How trails and outcomes of subtasks are written into the store, and read back.

The store keeps both as opaque text; only this module knows their shape.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from fleet.entries import Asked, Call
from fleet.jobs import Attempt, Outcome
from fleet.prices import NANO_PER_USD, Usage
from fleet.stored import read
from queues.subtasks import Result, Status


@dataclass(frozen=True, slots=True)
class Held:
    """The answer that is `kept` was accepted by its check, and only waits for something to be measured (`fleet.holdout`)."""

    #: The tier that gave it.
    tier: str
    #: How many claims on the subtask there had been by then.
    claims: int


@dataclass
class Trail:
    """What earlier attempts at a subtask left behind; it travels with the subtask from tier to tier."""

    attempts: list[Attempt] = field(default_factory=list)
    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_nano_usd: int = 0
    #: The accepted output (and its model) that a review sent back: what stays if there is no better one.
    kept: tuple[Any, str] | None = None
    #: Calls that were made, those without an answer too.
    asked: Asked = field(default_factory=Asked)
    #: Set once there is nothing left to be asked but what is measured.
    held: Held | None = None

    @property
    def came_from(self) -> str | None:
        """The tier whose answer was rejected last: whoever answers next is shown it."""
        return self.attempts[-1].tier if self.attempts else None

    @classmethod
    def load(cls, text: str) -> Trail:
        if not text:
            return cls()
        data = json.loads(text)
        kept, held = data.get("kept"), data.get("held")
        return cls(
            [read(Attempt, attempt) for attempt in data.get("attempts", [])],
            data.get("calls", 0),
            read(Usage, data.get("usage", {})),
            data.get("cost_nano_usd", 0),
            None if kept is None else (kept[0], kept[1]),
            Asked(data.get("asked", data.get("calls", 0))),
            None if held is None else Held(held["tier"], held["claims"]),
        )

    def dump(self) -> str:
        document = {
            "attempts": [attempt.model_dump() for attempt in self.attempts],
            "calls": self.calls,
            "usage": self.usage.model_dump(),
            "cost_nano_usd": self.cost_nano_usd,
            "kept": self.kept,
            "asked": self.asked.number,
        }
        return json.dumps(document if self.held is None else document | {"held": asdict(self.held)})

    def document(self, *, output: Any, model: str | None, error: str | None, kind: str | None = None) -> str:
        """The end of a subtask as the store keeps it."""
        document = {
            "output": output,
            "error": error,
            "model": model,
            "attempts": self.calls,
            "asked": self.asked.number,
            "usage": self.usage.model_dump(),
            "cost_nano_usd": self.cost_nano_usd,
        }
        if kind is not None:
            document["kind"] = kind
        if self.held is not None:
            document["tier"] = self.held.tier  # it ends elsewhere than it was answered
        return json.dumps(document)

    def add(self, call: Call) -> None:
        self.calls += 1
        self.usage += call.entry.usage
        self.cost_nano_usd += call.entry.cost_nano_usd


#: The outcome of a subtask that has not ended.
NEVER_ENDED = Outcome(step="", status="failed", error="it never ended")


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
        tier=document.get("tier", tier),
        model=document.get("model"),
        attempts=document.get("attempts", 0),
        asked=document.get("asked", document.get("attempts", 0)),
        usage=read(Usage, document.get("usage", {})),
        cost_usd=document.get("cost_nano_usd", 0) / NANO_PER_USD,
    )
