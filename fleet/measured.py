"""The parts of a worker with a meter around them: provider, limiter and store do what they do, and the meter is told.

A call, a permit and a change of state stay what they are; each costs some microseconds more and no round trip. What is counted
is what was written: a charge counts once the store has it, an end only if the claim still held.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

from fleet.ledger import WORKER_LOST
from fleet.meter import Meter
from fleet.providers.base import BatchProvider, Completion, ModelRequest, Provider, Started
from queues.limits import LateError, Limiter, OutageError, Permit, PermitError
from queues.link import Link
from queues.store import Store
from queues.subtasks import Charge, Claim, Intent, Refusal, Status
from queues.tiers import Allowance


class MeasuredProvider:
    """A provider whose calls are timed; everything else passes through. Errors are the inner one's."""

    def __init__(self, inner: Provider, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    @property
    def reattaches(self) -> bool:
        return self._inner.reattaches

    @property
    def says_default(self) -> bool:
        return self._inner.says_default

    @property
    def batches(self) -> BatchProvider | None:
        return self._inner.batches

    async def complete(self, request: ModelRequest, started: Started | None = None) -> Completion:
        began = time.perf_counter()
        answered_s: float | None = None
        self._meter.call_began(request.model)
        try:
            completion = await self._inner.complete(request, started)
            answered_s = time.perf_counter() - began
            return completion
        finally:
            self._meter.call_ended(request.model, answered_s)

    async def collect(self, handle: str, request: ModelRequest) -> Completion:
        return await self._inner.collect(handle, request)

    async def cancel(self, handle: str) -> None:
        await self._inner.cancel(handle)

    async def aclose(self) -> None:
        await self._inner.aclose()


class MeasuredLimiter(Limiter):
    """A limiter whose permits are timed. Errors are the limiter's."""

    def __init__(self, link: Link, namespace: str, meter: Meter, models: Mapping[str, str]) -> None:
        """`models`: by the name of an account, that of its model."""
        super().__init__(link, namespace)
        self._meter = meter
        self._models = models

    async def acquire(
        self,
        account: str,
        allowance: Allowance,
        *,
        tokens: int,
        permit_id: str,
        lease_s: float,
        patience_s: float,
        sit_out: bool = True,
        lane: str = "",
        intent: Intent | None = None,
    ) -> Permit:
        model = self._models.get(account, "")
        self._meter.permit_asked(model)
        try:
            permit = await super().acquire(
                account,
                allowance,
                tokens=tokens,
                permit_id=permit_id,
                lease_s=lease_s,
                patience_s=patience_s,
                sit_out=sit_out,
                lane=lane,
                intent=intent,
            )
        except BaseException as error:
            self._meter.permit_failed(model, _refusal(error))
            raise
        self._meter.permit_came(model, permit.waited_ms / 1000)
        return permit


class MeasuredStore(Store):
    """A store that tells of the subtasks that begin and end through it, and of the calls that are booked."""

    def __init__(self, link: Link, namespace: str, meter: Meter, *, lease_ms: int) -> None:
        super().__init__(link, namespace, lease_ms=lease_ms)
        self._meter = meter

    async def claim(self, id_: str, tier: str) -> Claim | Refusal:
        claim = await super().claim(id_, tier)
        if isinstance(claim, Claim) and claim.waited_ms is not None:
            self._meter.started(tier, claim.waited_ms / 1000)
        return claim

    async def finish(
        self, claim: Claim, status: Status, output: str, charges: Sequence[Charge] = (), *, quarantined: bool = False
    ) -> bool:
        written = await super().finish(claim, status, output, charges, quarantined=quarantined)
        answered = self._booked(charges)
        if written and _of_a_plan(claim.id):
            self._meter.ended(answered or claim.tier, status)
        return written

    async def hand_on(self, claim: Claim, tier: str, trail: str, charges: Sequence[Charge] = ()) -> bool:
        written = await super().hand_on(claim, tier, trail, charges)
        self._booked(charges)
        if written:
            self._escalated(charges)
        return written

    async def settle(self, charges: Sequence[Charge]) -> None:
        await super().settle(charges)
        self._booked(charges)

    async def set_memo(self, job: str, name: str, body: str, charges: Sequence[Charge] = ()) -> None:
        await super().set_memo(job, name, body, charges)
        self._booked(charges)

    def _escalated(self, charges: Sequence[Charge]) -> None:
        """What is handed on with a rejected answer goes up; anything else is only looked at elsewhere, or comes back."""
        for charge in charges:
            entry = json.loads(charge.body)
            if entry["role"] == "work" and entry["status"] == "rejected":
                self._meter.escalated(entry["tier"])

    def _booked(self, charges: Sequence[Charge]) -> str | None:
        """Count what was written; the tier of the last answer to the work itself, which may be looked at on another."""
        answered = None
        for charge in charges:
            # As `fleet.entries.charge` wrote it: cheaper than a model that checks it again.
            entry = json.loads(charge.body)
            if charge.provisional and entry["reason"] != WORKER_LOST:
                continue  # its verdict is still to come, and is booked then
            if entry["role"] == "work":
                answered = entry["tier"]
            usage = entry["usage"]
            self._meter.booked(
                entry["tier"],
                entry["model"],
                _outcome(entry["role"], entry["status"], entry["reason"], entry["flaw"]),
                uncached=usage["input_tokens"] - usage["cached_tokens"],
                cached=usage["cached_tokens"],
                output=usage["output_tokens"],
                nano_usd=charge.amount,
            )
        return answered


def _outcome(role: str, status: str, reason: str | None, flaw: str | None) -> str:
    """The reason of a rejected answer is a sentence, that of a call without one is a kind."""
    if status != "failed":
        return "ok" if role in ("check", "audit") else status  # a verdict, whatever it was
    if flaw is not None:
        return "rejected"  # answered, but by no verdict
    return "worker_lost" if reason == WORKER_LOST else reason or ""


def _refusal(error: BaseException) -> str | None:
    if not isinstance(error, PermitError):
        return None
    return "late" if isinstance(error, LateError) else "outage" if isinstance(error, OutageError) else "too_large"


def _of_a_plan(subtask_id: str) -> bool:
    """What is done for a job as a whole has a dot in its id behind the job's (`review.1`); no step can be called so."""
    return "." not in subtask_id.partition("/")[2]
