"""Ledger entries as they come to be: drafted before a call, closed by its answer, its error, or the loss of its worker.

An entry travels as a charge, which the store writes once by call id. It knows prices only as numbers handed to it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from fleet.flaws import Flaw
from fleet.ledger import AT_MOST, WORKER_LOST, CallStatus, Lane, LedgerEntry, Role
from fleet.prices import Rates, Usage
from fleet.providers.base import Completion
from fleet.stored import read, writable
from fleet.tenants import tenant_of
from queues.subtasks import Charge, Claim, Intent, Lesson


@dataclass(slots=True)
class Asked:
    """What was asked for one subtask so far: calls, those without an answer too, and what they come to in the ledger."""

    #: Whoever makes another call counts it.
    number: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_nano_usd: int = 0

    def spend(self, entry: LedgerEntry) -> None:
        """Count what a call came to: each once, by whoever learns of it."""
        self.number = max(self.number, entry.attempt)
        self.usage += entry.usage
        self.cost_nano_usd += entry.cost_nano_usd

    def catch_up(self, booked: Iterable[LedgerEntry]) -> None:
        """Count what was booked and not counted: those who made these calls died before they could hand that on."""
        counted = self.number
        for entry in booked:
            if entry.attempt > counted:
                self.spend(entry)


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a call is for: the fields of its ledger entry that the caller knows."""

    job: str
    #: The subtask (or memo key) that the call works for; it holds the budget, so one call at a time per subtask.
    subtask: str
    #: The claim under which it is made.
    claim: Claim
    step: str
    kind: str
    role: Role
    tier: str
    #: Where the entry is written: with the subtask's shard, or with the job.
    record: str
    #: The tier whose answer it is shown.
    came_from: str | None = None
    asked: Asked = field(default_factory=Asked)
    #: By which lane it is asked, and when its answer is due (Unix seconds; None: there is no deadline).
    lane: Lane = "standard"
    due: float | None = None
    #: It only measures: nothing waits for its answer, and no job is paused over it.
    holdout: bool = False


@dataclass(frozen=True, slots=True)
class Worst:
    """The most that a call can use, and what that would cost in nano-dollars."""

    usage: Usage
    cost_nano_usd: int


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry before its call: enough to close it in any of the ways in which a call can end."""

    entry: LedgerEntry
    worst: Worst
    record: str
    #: The subtask under whose claim the call is made.
    claimed: str

    def after(self, lost: LedgerEntry) -> Draft:
        """The draft of the call that is made in place of a lost one."""
        attempt = max(self.entry.attempt, lost.attempt + 1)
        return replace(self, entry=self.entry.model_copy(update={"attempt": attempt}))

    def answered(self, completion: Completion, rates: Rates, reason: str | None = None) -> LedgerEntry:
        """The entry of an answer that is billed at `rates`; its verdict is still to come.

        `reason`: what there is to say of its usage.
        """
        return self._closed(
            answered_model=completion.model,
            answered_service_tier=completion.service_tier,
            usage=completion.usage,
            usage_reported=completion.usage_reported,
            cost_nano_usd=rates.cost(completion.usage),
            fees_nano_usd=rates.fee,
            price=rates,
            reason=reason,
            request_id=completion.request_id,
        )

    def failed(self, reason: str, *, maybe_billed: bool, request_id: str | None = None) -> LedgerEntry:
        """The entry of a call without an answer; one that may be on the bill is booked at its worst case, and marked."""
        return self._closed(
            usage=self.worst.usage if maybe_billed else Usage(),
            usage_reported=not maybe_billed,
            cost_nano_usd=self.worst.cost_nano_usd if maybe_billed else 0,
            fees_nano_usd=self.entry.price.fee if maybe_billed and self.entry.price is not None else 0,
            status="failed",
            reason=reason,
            request_id=request_id,
        )

    def intent(self, handle: str | None = None) -> Intent:
        """The intent to make this call: its note is the entry to book should nobody see the call's end.

        `handle`: the vendor's id of a call that runs in the background, by which it can be asked for later.
        """
        lost = self.failed(WORKER_LOST, maybe_billed=True).model_dump_json()
        note = f'{{"entry": {lost}, "handle": {json.dumps(handle)}, "record": {json.dumps(self.record)}}}'
        return Intent(
            self.entry.job,
            self.entry.subtask or "",
            self.entry.call_id,
            self.worst.cost_nano_usd,
            note,
            self.claimed,
            self.entry.fence,
        )

    def _closed(self, **fields: object) -> LedgerEntry:
        finished = time.time()
        latency = round((finished - self.entry.started_at) * 1000)
        return self.entry.model_copy(update={"finished_at": finished, "latency_ms": max(0, latency)} | fields)


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A call that an earlier worker made and whose end nobody saw."""

    lost: LedgerEntry
    handle: str | None
    record: str

    @classmethod
    def of(cls, note: str) -> Unsettled:
        data = json.loads(note)
        return cls(read(LedgerEntry, data["entry"]), data.get("handle"), data["record"])

    def draft(self) -> Draft:
        """The draft of the same call, to close it with the answer that was fetched after all."""
        entry = self.lost.model_copy(update={"status": "ok", "reason": None, "usage_reported": True})
        return Draft(entry, Worst(self.lost.usage, self.lost.cost_nano_usd), self.record, entry.subtask or "")


@dataclass(frozen=True, slots=True)
class Call:
    """An answered call whose entry waits for its verdict: write `charge(...)` with what comes of the answer."""

    completion: Completion
    entry: LedgerEntry
    record: str

    def charge(self, status: CallStatus, reason: str | None = None, flaw: Flaw | None = None) -> Charge:
        return charge(judged(self.entry, status, reason, flaw), self.record)


def judged(entry: LedgerEntry, status: CallStatus, reason: str | None = None, flaw: Flaw | None = None) -> LedgerEntry:
    """The entry of an answer with what was found of it, beside what was said of its usage."""
    reasons = (reason, AT_MOST if entry.reason is not None and AT_MOST in entry.reason else None)
    told = writable("; ".join(filter(None, reasons))) or None  # it may quote what a model said
    return entry.model_copy(update={"status": status, "reason": told, "flaw": flaw})


def draft(
    purpose: Purpose,
    call_id: str,
    *,
    model: str,
    provider: str,
    waited_ms: int,
    worst: Worst,
    price: Rates | None = None,
    images: int = 0,
    lane: Lane = "standard",
) -> Draft:
    """The entry of a call that is about to be made; `price` is what `worst` was computed from, `lane` how this model is asked."""
    now = time.time()
    entry = LedgerEntry(
        call_id=call_id,
        job=purpose.job,
        subtask=purpose.subtask,
        step=purpose.step,
        kind=purpose.kind,
        role=purpose.role,
        holdout=purpose.holdout,
        tenant=tenant_of(purpose.job),
        attempt=purpose.asked.number + 1,
        came_from=purpose.came_from,
        tier=purpose.tier,
        model=model,
        provider=provider,
        images=images,
        lane=lane,
        cost_nano_usd=0,
        reserved_nano_usd=worst.cost_nano_usd,
        price=price,
        status="ok",
        fence=purpose.claim.fence,
        started_at=now,
        finished_at=now,
        waited_ms=waited_ms,
    )
    return Draft(entry, worst, purpose.record, purpose.claim.id)


def charge(
    entry: LedgerEntry, record: str, *, provisional: bool = False, lessons: tuple[Lesson, ...] | None = None
) -> Charge:
    """The entry as the store takes it; that of a lost call is a guess until its worker turns up.

    `provisional`: so is this one, until somebody has looked at its answer. `lessons`: what routing learns from it.
    """
    return Charge(
        record=record,
        id=entry.call_id,
        body=entry.model_dump_json(),
        quota=entry.job,
        hold=entry.subtask or "",
        amount=entry.cost_nano_usd,
        tally={"calls": 1, "tokens": entry.usage.total},
        lane=entry.tier,
        provisional=provisional or entry.reason == WORKER_LOST,
        lessons=lessons,
    )
