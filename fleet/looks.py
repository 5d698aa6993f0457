"""Another model's look at an answer before it counts: a judge's, where its step has one, or an audit's of a sample.

A look is a stage of its own. The subtask is handed on to the tier that looks, with the answer in its trail, so it takes that
tier's queue, permits and place; a worker that dies on the way loses and pays nothing twice. This module owns which look is due
and how one is made; what becomes of the answer is the runner's to decide.

A look that cannot be made rejects nothing: a judge is asked twice, the second time one tier up, and then the answer counts as not
judged; an audit is asked once. Only a judge that the budget does not cover is waited for, like any other call of the job.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fleet import checks, judging
from fleet.context import Context
from fleet.entries import Call, Purpose, charge, judged
from fleet.errors import BadInputError, BudgetExceededError, ProviderError
from fleet.jobs import Step
from fleet.lanes import audit_lane, due_s
from fleet.ledger import Lane, LedgerEntry, Role
from fleet.outcomes import Answer, Look, Trail
from fleet.providers.base import ModelRequest
from fleet.store import Job
from queues.limits import PermitError
from queues.subtasks import Charge, Claim

#: Who audits.
AUDITOR = "flagship"
#: Times that a judge is asked of one answer.
MOST_LOOKS = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a look.

    `again`: there was no verdict, and `tier` is to be asked; `unseen`: there was none, and nobody else is asked.
    """

    verdict: Literal["right", "wrong", "again", "unseen"]
    reason: str
    charges: tuple[Charge, ...] = ()
    tier: str = ""


async def due(job: Job, step: Step, subtask_id: str, trail: Trail, answer: Answer, context: Context) -> Look | None:
    """The next look at an answer; None: it is accepted as it is.

    Of a subtask one answer is audited: what is asked for because of an audit is not of the sample that its tier is measured by.
    Nor is the reply of somebody who waits for it: it would take the time of two.
    """
    judge = step.check.judge if step.check is not None else None
    # The configuration may have lost the judge's tier since.
    judges = (
        judge is not None and judge.tier in context.config.tiers and judging.chosen(subtask_id, judge.share, "judge")
    )
    if answer.look is None and judges:
        return "check"
    audited = answer.look == "audit" or any(attempt.flaw == "audit" for attempt in trail.attempts)
    if audited or job.asked is not None:
        return None
    share = await context.routes.audit_share(step, job.tenant, answer.tier)
    return "audit" if judging.chosen(subtask_id, share, "audit") else None


def looker(look: Look, step: Step) -> str:
    """The tier that is asked first."""
    judge = step.check.judge if step.check is not None else None
    return judge.tier if look == "check" and judge is not None else AUDITOR


class Looks:
    """Makes looks."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def look(
        self,
        claim: Claim,
        job: Job,
        step: Step,
        trail: Trail,
        answer: Answer,
        values: Mapping[str, Any],
        shown: ModelRequest,
    ) -> Seen:
        """Look at an answer that waits for it, to `shown`, over `values`. What that costs is added to the trail.

        Raises:
            BudgetExceededError: the job's budget does not cover a judge.
            GiveBack, JobCancelled: the call was not made.
        """
        role: Role = "audit" if answer.look == "audit" else "check"
        lane, due = self._lane(job, step, claim.tier) if role == "audit" else ("standard", None)
        purpose = Purpose(
            job.id,
            claim.id,
            claim,
            step.id,
            step.label,
            role,
            claim.tier,
            record=answer.record,
            came_from=answer.tier,
            asked=trail.asked,
            lane=lane,
            due=due,
        )
        try:
            request = _request(answer, step, values, shown)
            call = await self._context.executor.call(purpose, request)
        except BudgetExceededError as error:
            if answer.look == "check":
                raise
            return await self._not_made(claim, trail, answer, str(error))
        except (BadInputError, ProviderError, PermitError) as error:
            return await self._not_made(claim, trail, answer, str(error))
        trail.open = call
        entry = call.entry
        try:
            accepted, reason = judging.verdict_of(call.completion)
        except checks.Rejected as problem:
            unusable = charge(judged(entry, "failed", f"no verdict: {problem}", problem.flaw), call.record)
            return self._unseen(claim, answer, str(problem), (unusable,))
        if accepted:
            return Seen("right", reason, (self._booked(judged(entry, "ok"), call),))
        flaw: Literal["judge", "audit"] = "judge" if answer.look == "check" else "audit"
        return Seen("wrong", reason, (self._booked(judged(entry, "rejected", reason, flaw), call),))

    def _lane(self, job: Job, step: Step, tier: str) -> tuple[Lane, float | None]:
        """By which lane an audit is asked, and when its step is due (Unix seconds)."""
        due_after_s = due_s(step, job.steps, job.spec.deadline)
        due = None if due_after_s is None else job.created_at + due_after_s
        config, left_s = self._context.config, None if due is None else due - time.time()
        timeout_s = config.tiers[tier].timeout_s
        return audit_lane(left_s, config.model_of(tier)[1], config.lanes, timeout_s=timeout_s), due

    def _booked(self, entry: LedgerEntry, call: Call) -> Charge:
        """The entry of a look with its verdict, and what routing learns from it."""
        return charge(entry, call.record, lessons=self._context.routes.taught(entry))

    async def _not_made(self, claim: Claim, trail: Trail, answer: Answer, why: str) -> Seen:
        # Nobody makes a call in the place of one that an earlier worker may have made.
        await self._context.executor.lost.give_up(claim, trail.asked)
        return self._unseen(claim, answer, why)

    def _unseen(self, claim: Claim, answer: Answer, why: str, charges: tuple[Charge, ...] = ()) -> Seen:
        if answer.look == "check" and answer.looks + 1 < MOST_LOOKS:
            above = self._context.config.ladder(claim.tier, None)[1:]
            return Seen("again", why, charges, above[0] if above else claim.tier)
        return Seen("unseen", why, charges)


def _request(answer: Answer, step: Step, values: Mapping[str, Any], shown: ModelRequest) -> ModelRequest:
    if answer.look == "check" and step.check is not None and step.check.judge is not None:
        return judging.judge_request(step.check.judge, values, answer.output, shown.images)
    conversation = None if shown.conversation is None else shown.conversation.kept()
    return judging.audit_request(step, shown.prompt, conversation, answer.output, shown.images)
