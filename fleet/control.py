"""Pause, resume, cancel, and retry of what failed: what a user may do to a job that was accepted.

It changes states in the store; running calls end by themselves or lose their claim. It calls no model.
"""

from __future__ import annotations

import time
from decimal import Decimal

from fleet.acceptance import refused
from fleet.caps import caps_of, exact
from fleet.errors import BadInputError
from fleet.janitor import CANCELLED
from fleet.jobs import JobStatus
from fleet.prices import NANO_PER_USD
from fleet.retry import PLAN_AGAIN, RETRY_TASK, check_ended, failed_again, retry_id
from fleet.runtime import Runtime
from fleet.store import COORDINATOR, not_ended
from queues.subtasks import NewSubtask


class Control:
    """Acts on the jobs of one fleet."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tiers = list(runtime.tiers)

    async def pause(self, job_id: str) -> None:
        """Start no further call of a job; running ones end."""
        await self._check_open(job_id, "paused")
        await self._runtime.store.stop(job_id, "paused", self._tiers, guards=[not_ended(job_id)])

    async def resume(self, job_id: str, *, budget_usd: Decimal | None = None) -> None:
        """Let a paused job go on, with a new cap where one is given."""
        job = await self._runtime.jobs.load(job_id)
        if job.status is not JobStatus.PAUSED:
            raise BadInputError(f"The job {job_id} is {job.status}, so it is not paused.")
        await self._new_cap(job_id, budget_usd)
        await self._runtime.store.resume(job_id, self._tiers)

    async def cancel(self, job_id: str) -> None:
        """End a job: no further call starts, running ones lose their claim, and what was done is kept."""
        await self._check_open(job_id, "cancelled")
        await self._runtime.store.stop(job_id, "cancelled", self._tiers)
        await self._runtime.jobs.end(job_id, JobStatus.CANCELLED, error=CANCELLED)

    async def retry_failed(self, job_id: str, *, budget_usd: Decimal | None = None) -> int:
        """Run the failed subtasks of an ended job again, and what was skipped because of them; how many.

        What was accepted stays, and costs nothing again. 0: only the plan or the review failed, and is made again.

        Raises:
            TenantLimitError: its tenant, or the fleet, has spent what it may.
            BadInputError: the job has not ended, was cancelled, is still ending, or nothing in it failed.
        """
        job = await self._runtime.jobs.load(job_id)
        if job.status not in (JobStatus.COMPLETED, JobStatus.FAILED):
            raise BadInputError(f"The job {job_id} is {job.status}; only what failed in an ended job can be retried.")
        if job.asked is not None:
            raise BadInputError(f"The job {job_id} is a single call; make the call again instead.")
        # A pause that came as it ended, or before a duty of it failed, keeps what is left of it from ending.
        await self._runtime.store.resume(job_id, self._tiers)
        await check_ended(job, self._runtime.archive)
        await self._check_dollars(job.tenant)
        again = await failed_again(job, self._runtime.archive, self._runtime.routes)
        if not again and job.status is JobStatus.COMPLETED:
            raise BadInputError(f"No subtask of the job {job_id} failed; there is nothing to retry.")
        await self._new_cap(job_id, budget_usd)
        # The coordinator does it, under a claim: a client that dies here leaves nothing half done.
        id_ = await retry_id(job, self._runtime.store)
        duty = NewSubtask(id=id_, task=RETRY_TASK, tier=COORDINATOR, payload="" if job.steps else PLAN_AGAIN)
        await self._runtime.jobs.ask_again(job, duty, self._tiers)
        return len(again)

    async def _check_dollars(self, tenant: str) -> None:
        """TenantLimitError when a tenant, or the fleet, has spent in this day or month what it may."""
        caps = {(cap.whom, cap.per): cap.most for cap in caps_of(self._runtime.config, tenant)}
        for shared in await self._runtime.quotas.shared(tenant):
            if (most := caps.get((shared.whom, shared.per))) is not None and shared.used >= most:
                level = f"{shared.whom}:{shared.per}:{shared.number}"
                raise refused(level, tenant, time.time(), "nothing runs again")

    async def _new_cap(self, job_id: str, budget_usd: Decimal | None) -> None:
        if budget_usd is None:
            return
        spent = await self._runtime.quotas.set_cap(job_id, int(budget_usd * NANO_PER_USD))
        if spent is not None:
            held = f" and running calls hold {exact(spent[1])}" if spent[1] else ""
            raise BadInputError(
                f"The job {job_id} has spent {exact(spent[0])}{held} already; give it a budget above that."
            )

    async def _check_open(self, job_id: str, what: str) -> None:
        job = await self._runtime.jobs.load(job_id)
        if job.status.final:
            raise BadInputError(f"The job {job_id} is {job.status} and cannot be {what}.")
