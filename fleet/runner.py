"""One subtask from claim to its end: its needs, its prompt, one attempt, the check, and up a tier when the check fails.

Where another model has to look at the answer (`fleet.looks`), the subtask is handed on to that one's tier with the answer in its
trail, and what comes of it is decided under the next claim.

Celery is unknown here. `NotOurs`: there is nothing to do. RedisError: the claim will expire and the subtask be run again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fleet import checks, looks, step_check, templates, traces
from fleet.asking import Asking, followed_by, rejections
from fleet.blobs import BlobError
from fleet.config import AUTO
from fleet.context import Context, passes
from fleet.drain import GiveBack
from fleet.entries import charge, judged
from fleet.errors import BadInputError, BudgetExceededError, ProviderError
from fleet.examiners import BrokenCheckError
from fleet.executor import JobCancelled
from fleet.flaws import Flaw
from fleet.holdout import Holdout
from fleet.jobs import JobStatus, Step
from fleet.lane_calls import LaneCalls
from fleet.ledger import CallStatus
from fleet.looks import Looks
from fleet.outcomes import Answer, Trail
from fleet.providers.base import Completion, ModelRequest
from fleet.router import is_checked
from fleet.store import Job
from queues.failpoints import failpoint
from queues.limits import PermitError
from queues.subtasks import Charge, Claim, Refusal, Status

logger = logging.getLogger(__name__)

#: Workers that may die holding a subtask before it counts as the cause.
MAX_KILLS = 3


class NotOurs(Exception):
    """The message woke us for nothing: another worker has the subtask, or it moved on."""


class Runner:
    """Runs subtasks of one worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._asking = Asking(context)
        self._calls = LaneCalls(context)
        self._looks = Looks(context)
        self._holdout = Holdout(context)

    async def run(self, subtask_id: str, tier: str) -> dict[str, str]:
        """Run a subtask if it is ours to run; the reference `{id, status}` that its chord counts.

        Raises:
            NotOurs: nothing to do; the store, not this message, decides what happens next.
            ClaimLost: another worker took over.
        """
        # Asked for together with the claim, which is granted nearly always.
        loading = asyncio.ensure_future(self._context.jobs.planned(subtask_id.split("/", 1)[0]))
        try:
            claim = await self._context.store.claim(subtask_id, tier)
            if isinstance(claim, Refusal):
                if claim.status is not None:
                    return {"id": subtask_id, "status": claim.status}
                raise NotOurs(claim.why)
            failpoint("claimed")
            async with self._context.claims.held(claim), self._context.events.told(claim):
                with traces.claimed("subtask", claim.id, claim.tier, NotOurs) as span:
                    reference = await self._claimed(claim, loading)
                    span.end_as(reference["status"])
                    return reference
        finally:
            loading.add_done_callback(_seen)
            loading.cancel()

    async def _claimed(self, claim: Claim, loading: asyncio.Future[Job]) -> dict[str, str]:
        try:
            payload, trail = json.loads(claim.payload), await self._trail(claim)
            job = await loading
            step = job.step(payload["step"])
            self._context.events.begun(claim, step.label)
        except Exception as error:
            if passes(error):
                await self._context.give_back(claim, error, claim.trail)
                raise NotOurs(f"the store or the disk failed: {error}") from error
            # Sent again it would be no better to read.
            logger.exception("what the store has of a subtask cannot be read", extra={"subtask": claim.id})
            return await self._end(claim, "failed", Trail(), error=f"it cannot be read: {type(error).__name__}")
        try:
            return await self._attempt(claim, job, step, payload, trail)
        except GiveBack as reason:
            # No attempt was used: the subtask waits in its backlog, in front, until the job or another worker goes on.
            await self._context.store.hand_on(claim, claim.tier, trail.given_back(claim.trail))
            raise NotOurs(str(reason)) from None
        except JobCancelled as reason:
            return await self._end(claim, "skipped", trail, error=str(reason))
        except BudgetExceededError as error:
            if job.asked is None:
                await self._context.pause_at_cap(claim, error, trail.given_back(claim.trail))
                raise NotOurs("the job is paused at a cap") from None
            # Whoever waits for the answer is told, and may ask again.
            return await self._end(claim, "failed", trail, error=str(error), kind="budget", until=error.until)
        except (BadInputError, BlobError, ProviderError, PermitError) as error:
            kind = (
                error.kind
                if isinstance(error, ProviderError)
                else "too_large"
                if isinstance(error, PermitError)
                else None
            )
            return await self._end(claim, "failed", trail, error=str(error), kind=kind, charges=trail.cut_off(error))
        except NotOurs:
            raise
        except asyncio.CancelledError as error:
            # The claim was lost, or the job cancelled: what was paid for is booked all the same.
            if paid := trail.cut_off(error):
                await self._context.store.settle(paid)
            raise
        except Exception as error:
            paid = trail.cut_off(error)
            if passes(error):
                # A guess, should the verdict have been written although the store did not say so.
                guesses = [replace(one, provisional=True) for one in paid]
                await self._context.give_back(claim, error, trail.given_back(claim.trail), guesses)
                raise NotOurs(f"the store or the disk failed: {error}") from error
            # A header task never raises: it would kill the gate's body while its siblings go on spending.
            logger.exception("a subtask failed on an error of our own", extra={"subtask": claim.id})
            return await self._end(
                claim, "failed", trail, error=f"internal error: {type(error).__name__}", charges=paid
            )

    async def _trail(self, claim: Claim) -> Trail:
        """What earlier claims left behind, with what was booked under one whose worker died before it could say so."""
        trail = Trail.load(claim.trail)
        if claim.kills > 0:
            record = json.loads(claim.payload)["record"]
            trail.asked.catch_up(await self._context.executor.lost.booked(record, claim.id))
        return trail

    async def _attempt(
        self, claim: Claim, job: Job, step: Step, payload: Mapping[str, Any], trail: Trail
    ) -> dict[str, str]:
        item: int | None = payload["item"]
        if claim.kills >= MAX_KILLS:
            return await self._end(claim, "failed", trail, error=f"{claim.kills} workers died while running it")
        if job.status.final:
            # In a job that failed nobody decided against it: `retry --failed` runs it.
            status: Status = "skipped" if job.status is JobStatus.CANCELLED else "failed"
            return await self._end(claim, status, trail, error=f"the job is {job.status}")
        values = await self._asking.values(job, step, item)
        if isinstance(values, str):
            return await self._end(claim, "skipped", trail, error=values)
        if trail.pending is not None:
            return await self._look(claim, job, step, trail, values, trail.pending)
        if step.when is not None and not templates.holds(step.when, values):
            return await self._end(claim, "skipped", trail, error=f"when: {step.when}")
        step_check.prepare(step, self._context.config)
        await self._route(claim, job, step, trail)
        request = followed_by(self._asking.request(job, step, values), rejections(trail))
        call = await self._calls.call(claim, job, step, trail, request, payload["record"])
        if call is None:
            raise NotOurs("it waits for its batch")
        trail.calls, trail.open = trail.calls + 1, call
        try:
            with traces.inside("check"):
                output = await self._checked(call.completion, request, step, values, as_given=job.as_given)
        except checks.Rejected as rejection:
            return await self._rejected(claim, job, step, trail, Answer.of(call, None), str(rejection), rejection.flaw)
        except BrokenCheckError as problem:
            # No other tier's answer could be checked either, and one that nobody has checked is not passed on.
            why = f"its check could not be made: {problem}"
            charges = [call.charge("rejected", why, "check_broken")]
            return await self._end(claim, "failed", trail, error=why, kind="check_broken", charges=charges)
        if request.conversation is not None and (half := checks.unfinished(call.completion)) is not None:
            # Passed on to who leads the conversation, and nothing that was accepted.
            answer = replace(Answer.of(call, output), note=half[0])
            charges = [self._booked(step, answer, "rejected", *half)]
            return await self._end(claim, "ok", trail, answer=answer, kind=half[1], charges=charges)
        return await self._accepted(claim, job, step, trail, Answer.of(call, output))

    async def _checked(
        self,
        completion: Completion,
        request: ModelRequest,
        step: Step,
        values: Mapping[str, Any],
        *,
        as_given: bool = False,
    ) -> Any:
        """The output of an answer that keeps its schema and its step's rules. Raises Rejected, BrokenCheckError."""
        examiners = self._context.examiners
        if request.conversation is None:
            output = await checks.check(completion, step.output, examiners)
        else:
            output = await checks.check_reply(completion, request.conversation, examiners, as_given=as_given)
        if step.check is not None:
            await step_check.hold(step, output, values, self._context.config, examiners)
        return output

    async def _look(
        self, claim: Claim, job: Job, step: Step, trail: Trail, values: Mapping[str, Any], answer: Answer
    ) -> dict[str, str]:
        """Have another model look at an answer that an earlier claim brought, and go on from there."""
        request = self._asking.request(job, step, values)
        if answer.look == "holdout":

            async def check(completion: Completion) -> None:
                await self._checked(completion, request, step, values)

            compared = await self._holdout.ask(claim, job, step, trail, answer, request, check)
            return await self._end(claim, "ok", trail, answer=answer, charges=compared)
        seen = await self._looks.look(claim, job, step, trail, answer, values, request)
        match seen.verdict:
            case "again":
                trail.pending = replace(answer, looks=answer.looks + 1)
                await self._hand_on(claim, seen.tier, trail, seen.charges)
                raise NotOurs(f"handed on to {seen.tier}, to be looked at once more")
            case "wrong":
                flaw: Flaw = "judge" if answer.look == "check" else "audit"
                return await self._rejected(
                    claim, job, step, trail, answer, f"the {flaw}: {seen.reason}", flaw, charges=seen.charges
                )
            case "unseen" if answer.look == "check":
                answer = replace(answer, note=f"it was not judged: {seen.reason}")
        return await self._accepted(claim, job, step, trail, answer, charges=seen.charges)

    async def _accepted(
        self, claim: Claim, job: Job, step: Step, trail: Trail, answer: Answer, *, charges: Sequence[Charge] = ()
    ) -> dict[str, str]:
        """End with an answer, or have another model look at it first."""
        look = await looks.due(job, step, claim.id, trail, answer, self._context)
        if look is None:
            trail.pending = None
            paid = [*charges, self._booked(step, answer, "ok")]
            if self._holdout.draws(job, step, claim, trail, answer):
                await self._holdout.send(claim, trail, answer, paid)
                raise NotOurs("accepted, and asked of the flagship for comparison")
            return await self._end(claim, "ok", trail, answer=answer, charges=paid)
        trail.pending = replace(answer, look=look, looks=0)
        tier, lessons = looks.looker(look, step), self._context.routes.asked(answer.entry) if look == "audit" else None
        await self._hand_on(claim, tier, trail, [*charges, answer.pending(lessons)])
        raise NotOurs(f"handed on to {tier}, to be looked at")

    async def _rejected(
        self,
        claim: Claim,
        job: Job,
        step: Step,
        trail: Trail,
        answer: Answer,
        reason: str,
        flaw: Flaw,
        *,
        charges: Sequence[Charge] = (),
    ) -> dict[str, str]:
        trail.pending = None
        trail.attempts.append(answer.rejected(reason, flaw))
        above = await self._context.routes.next(step, answer.tier, job.tenant, claim.id)
        if above is None and flaw == "audit":
            answer = replace(answer, note=f"{reason} (there is no tier above {answer.tier})")
            return await self._end(
                claim, "ok", trail, answer=answer, charges=[*charges, self._booked(step, answer, "ok")]
            )
        paid = [*charges, self._booked(step, answer, "rejected", reason, flaw)]
        if above is None:
            error = f"no valid answer up to tier {answer.tier}: {reason}"
            return await self._end(claim, "failed", trail, error=error, kind=flaw, charges=paid)
        if flaw == "audit":
            trail.kept = answer.given  # wrong is better than nothing, should nothing better come
        await self._hand_on(claim, above, trail, paid)
        raise NotOurs(f"handed on to {above}")

    async def _route(self, claim: Claim, job: Job, step: Step, trail: Trail) -> None:
        """Ask again where a subtask starts, once, before any call: hundreds are sent on their way before one has ended."""
        if step.tier == AUTO and claim.claims == 1 and not trail.attempts:
            chosen = await self._context.routes.start(step, job.tenant, claim.id)
            if chosen != claim.tier:
                await self._context.store.hand_on(claim, chosen, claim.trail)
                raise NotOurs(f"routed to {chosen}")

    async def _hand_on(self, claim: Claim, tier: str, trail: Trail, charges: Sequence[Charge]) -> None:
        """Hand a subtask on with what came of its calls; from here on it is the store's to write that down."""
        text, trail.open = trail.dump(), None
        await self._context.store.hand_on(claim, tier, text, charges)

    def _booked(
        self, step: Step, answer: Answer, status: CallStatus, reason: str | None = None, flaw: Flaw | None = None
    ) -> Charge:
        """The entry of an answer with its verdict, and what routing learns from it, if something checks such answers."""
        entry = judged(answer.entry, status, reason, flaw)
        return charge(entry, answer.record, lessons=self._context.routes.taught(entry) if is_checked(step) else None)

    async def _end(
        self,
        claim: Claim,
        status: Status,
        trail: Trail,
        *,
        answer: Answer | None = None,
        error: str | None = None,
        kind: str | None = None,
        until: float | None = None,
        charges: Sequence[Charge] = (),
    ) -> dict[str, str]:
        if answer is not None:
            error = answer.note
        failed = status != "ok"
        given = None if answer is None else answer.given
        if failed and (left := trail.pending) is not None:
            # One that nobody judged was not accepted.
            passed = left.look != "check"
            paid = left.charge("ok") if passed else left.charge("rejected", "it was not judged", "check_broken")
            charges = [*charges, paid]
            if passed and status == "failed":
                # It was accepted, and nobody has still to look at it but who measures: that fails nothing.
                status, given, error, kind = "ok", left.given, left.note, None
        if status != "ok" and trail.kept is not None:
            # A better answer was asked for and there is none: the accepted one is not lost over that.
            status, given, kind = "ok", trail.kept, None
            error = f"the earlier answer is kept, the new one failed: {error}"
        if failed:
            # Nobody makes another call in the place of one whose end nobody wrote, an earlier worker's or our own.
            known = {one.id for one in charges}
            await self._context.executor.lost.give_up(claim, trail.asked, known)
        document = trail.document(given, error=error, kind=kind, tier=claim.tier, until=until)
        quarantined = claim.kills >= MAX_KILLS
        trail.open = None
        if not await self._context.store.finish(claim, status, document, charges, quarantined=quarantined):
            raise NotOurs("the claim was lost before the end was written")
        used = {"tokens": trail.asked.usage.total, "cost_nano_usd": trail.asked.cost_nano_usd}
        self._context.events.ended(claim, status, **used, error_kind=kind)
        failpoint("finished")
        return {"id": claim.id, "status": status}


def _seen(loading: asyncio.Future[Job]) -> None:
    """What came of it is of no use any more."""
    if not loading.cancelled():
        loading.exception()
