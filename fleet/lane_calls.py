"""The answer to a subtask's request, by the lane that is in time for it: at once, or as a line of a batch that it waits for.

It knows what a claim holds and when its answer is due; which lane that takes is `fleet.lanes`' to decide.
"""

from __future__ import annotations

import time

from fleet.context import Context
from fleet.entries import Call, Purpose
from fleet.jobs import Step
from fleet.lanes import due_s, lane_of
from fleet.ledger import Lane
from fleet.outcomes import Trail
from fleet.providers.base import ModelRequest
from fleet.store import Job
from queues.subtasks import Claim


class LaneCalls:
    """Makes the calls of subtasks."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def call(
        self, claim: Claim, job: Job, step: Step, trail: Trail, request: ModelRequest, record: str
    ) -> Call | None:
        """The answer to a request; one that its batch has brought is not asked for again. None: it waits for a batch now.

        Raises as `Executor.call`.
        """
        line, trail.line = trail.line, None
        sent = None if line is None else await self._context.lines.answer(claim, line)
        if sent is not None:
            trail.asked.spend(sent.entry)
            if sent.completion is not None:
                return Call(sent.completion, sent.entry, sent.record)
        elif line is not None:  # it was booked as lost
            booked = await self._context.executor.lost.booked(record, claim.id)
            for entry in (one for one in booked if one.call_id == line):
                trail.asked.spend(entry)
        lane, due = self._lane(job, step, claim.tier)
        if line is not None and (sent is None or sent.entry.reason != "cancelled"):
            lane = "standard"  # its batch was of no use to it
        purpose = Purpose(
            job.id,
            claim.id,
            claim,
            step.id,
            step.label,
            "work",
            claim.tier,
            record=record,
            came_from=trail.came_from,
            asked=trail.asked,
            lane=lane,
            due=due,
        )
        if lane == "batch":
            return await self._context.lines.join(purpose, request, trail)
        return await self._context.executor.call(purpose, request)

    def _lane(self, job: Job, step: Step, tier: str) -> tuple[Lane, float | None]:
        """By which lane a subtask is asked, and when it is due (Unix seconds)."""
        due_after_s = due_s(step, job.steps, job.spec.deadline)
        if due_after_s is None:
            return "standard", None
        due = job.created_at + due_after_s
        config, batches = self._context.config, self._context.executor.batches_of(tier) is not None
        model, timeout_s = config.model_of(tier)[1], config.tiers[tier].timeout_s
        return lane_of(due - time.time(), model, config.lanes, timeout_s=timeout_s, batches=batches), due
