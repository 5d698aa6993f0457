"""What is done for a job as a whole, each under a claim of its own: plan it, review it, end it without a review.

A duty is a subtask like any other to the store, so a message that is lost or doubled changes nothing. It knows no
Celery.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from fleet import traces
from fleet.blobs import BlobError
from fleet.context import Context, passes
from fleet.drain import GiveBack
from fleet.errors import BadInputError, BudgetExceededError, FleetError
from fleet.executor import JobCancelled
from fleet.jobs import JobStatus
from fleet.planner import Planner
from fleet.retry import PLAN_AGAIN, retry
from fleet.reviewer import Reviewer
from fleet.runner import MAX_KILLS, NotOurs
from fleet.shards import Shard
from fleet.store import Job
from queues.failpoints import failpoint
from queues.limits import PermitError
from queues.subtasks import Claim, Refusal, Status

logger = logging.getLogger(__name__)


class Duties:
    """Plans, reviews and ends jobs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._planner = Planner(context)
        self._reviewer = Reviewer(context)

    async def plan(self, subtask_id: str, tier: str) -> dict[str, str]:
        return await self._perform(subtask_id, tier, self._plan)

    async def review(self, subtask_id: str, tier: str) -> dict[str, str]:
        return await self._perform(subtask_id, tier, self._review)

    async def retry(self, subtask_id: str, tier: str) -> dict[str, str]:
        return await self._perform(subtask_id, tier, self._retry, ended=True)

    async def end(self, subtask_id: str, tier: str) -> dict[str, str]:
        return await self._perform(subtask_id, tier, self._end)

    async def open_phase(self, subtask_id: str, tier: str) -> dict[str, str]:
        return await self._perform(subtask_id, tier, self._open_phase)

    async def close_shard(self, subtask_id: str, tier: str) -> dict[str, str]:
        return await self._perform(subtask_id, tier, self._close_shard, ended=True)

    async def gather(self, subtask_id: str, tier: str) -> dict[str, str]:
        """The body of an inner chord: all there is to say is that its members are final."""

        async def nothing(job: Job, claim: Claim) -> None:
            pass

        return await self._perform(subtask_id, tier, nothing)

    async def _perform(
        self, subtask_id: str, tier: str, duty: Callable[[Job, Claim], Awaitable[None]], *, ended: bool = False
    ) -> dict[str, str]:
        """Claim, do, finish; the reference that a chord counts. Raises NotOurs, ClaimLost, RedisError.

        `ended`: the duty is for jobs that have ended, too.
        """
        claim = await self._context.store.claim(subtask_id, tier)
        if isinstance(claim, Refusal):
            if claim.status is not None:
                return {"id": subtask_id, "status": claim.status}
            raise NotOurs(claim.why)
        failpoint("claimed")
        kind = _kind_of(subtask_id)
        async with self._context.claims.held(claim), self._context.events.told(claim):
            self._context.events.begun(claim, kind)
            with traces.claimed(kind, subtask_id, tier, NotOurs) as span:
                reference = await self._claimed(claim, duty, ended=ended)
                span.end_as(reference["status"])
                return reference

    async def _claimed(
        self, claim: Claim, duty: Callable[[Job, Claim], Awaitable[None]], *, ended: bool
    ) -> dict[str, str]:
        subtask_id = claim.id
        error: str | None = None
        job_id = subtask_id.split("/", 1)[0]
        try:
            if claim.kills >= MAX_KILLS:
                raise FleetError(f"{claim.kills} workers died at {subtask_id}")
            job = await self._context.jobs.load(job_id)
            if ended or not job.status.final:
                await duty(job, claim)
        except GiveBack as reason:
            await self._context.store.hand_on(claim, claim.tier, "")
            raise NotOurs(str(reason)) from None
        except BudgetExceededError as short:
            await self._context.pause_at_cap(claim, short, claim.trail)
            raise NotOurs("the job is paused at a cap") from None
        except JobCancelled:
            pass
        except (FleetError, BlobError, PermitError) as problem:
            error = str(problem)
        except NotOurs:
            raise
        except Exception as problem:
            if passes(problem):
                await self._context.give_back(claim, problem, claim.trail)
                raise NotOurs(f"the store or the disk failed: {problem}") from problem
            logger.exception("a duty failed on an error of our own", extra={"subtask": subtask_id})
            error = f"internal error: {type(problem).__name__}"
        if error is not None:
            await self._context.executor.lost.abandon(
                job_id, lambda lost: lost.role != "work" and lost.fence <= claim.fence
            )
            # A duty of a round that is over, the job having been retried, ends nothing.
            await self._context.jobs.end(
                job_id, JobStatus.FAILED, error=error, claim=claim, round_=_round_of(subtask_id)
            )
        status: Status = "ok" if error is None else "failed"
        if not await self._context.store.finish(claim, status, "", quarantined=claim.kills >= MAX_KILLS):
            raise NotOurs("the claim was lost before the end was written")
        self._context.events.ended(claim, status)
        return {"id": subtask_id, "status": status}

    async def _plan(self, job: Job, claim: Claim) -> None:
        await self._planner.plan(job, claim)
        # Running first: what is open may end, and be reviewed, at any time.
        await self._context.jobs.advance(job.id, [JobStatus.PLANNING], JobStatus.RUNNING, claim=claim)
        planned = await self._context.jobs.load(job.id)
        if not planned.steps:
            raise NotOurs("the claim was lost before the plan was written")
        await self._context.rounds.open_phase(planned, 0)

    async def _open_phase(self, job: Job, claim: Claim) -> None:
        what, *numbers = claim.id.rpartition("/")[2].split(".")
        round_, number = (1, int(numbers[0])) if what == "phase" else map(int, numbers)
        if job.round != round_:
            return  # it was retried since
        if what == "phase":
            await self._context.rounds.open_phase(job, number)
        else:
            await self._context.rounds.open_stage(job, round_, number)

    async def _close_shard(self, job: Job, claim: Claim) -> None:
        """Move a finished shard out of the store and let the next one in, unless the job has ended meanwhile."""
        shard = Shard.of(claim.id)
        await self._context.archive.close(job, shard, self._context.rounds.ids(job, shard))
        if not job.status.final and shard.round == job.round:
            await self._context.rounds.open_next(job, shard)

    async def _review(self, job: Job, claim: Claim) -> None:
        round_ = int(claim.id.rpartition(".")[2])
        if round_ != job.round:
            # It is over: rework was asked for, or the job retried. Whoever did that may have died before the round was open.
            await self._context.rounds.open_round(job, job.round)
        elif await self._any_accepted(job, claim):
            await self._reviewer.review(job, round_, claim)

    async def _retry(self, job: Job, claim: Claim) -> None:
        again = self._plan_again if claim.payload == PLAN_AGAIN else self._run_again
        try:
            if not await again(job, claim):
                raise NotOurs("the claim was lost before the job was opened again")
        except BadInputError as problem:
            logger.warning(
                "not retried: %s", str(problem)
            )  # The job stays as it ended; of a job nothing but its id is told.

    async def _run_again(self, job: Job, claim: Claim) -> bool:
        return await retry(job, int(claim.id.rpartition(".")[2]), self._context, claim)

    async def _plan_again(self, job: Job, claim: Claim) -> bool:
        begun = f"again:{claim.id}"
        if await self._context.store.memo(job.id, begun) is None:
            if job.steps:
                return True  # Another retry has planned it since this one was asked for.
            if not await self._context.jobs.reopen(job, job.round, claim=claim):
                return False
            await self._context.store.set_memo(job.id, begun, "1")
        elif job.status.final:
            return True  # An earlier worker did it, and died before it could say so.
        await self._plan(await self._context.jobs.load(job.id), claim)
        return True

    async def _end(self, job: Job, claim: Claim) -> None:
        if int(claim.id.rpartition(".")[2]) == job.round and await self._any_accepted(job, claim):
            await self._context.jobs.end(job.id, JobStatus.COMPLETED, claim=claim, round_=job.round)

    async def _any_accepted(self, job: Job, claim: Claim) -> bool:
        """Whether any subtask was accepted; otherwise there is nothing to review and the job has failed."""
        reason = ""
        async for _, outcome in self._context.archive.outcomes(job):
            if outcome.status == "ok":
                return True
            if outcome.status == "failed" and not reason:
                reason = f" The first: {outcome.error}"
        # Whoever looks after the fleet sees that; the reason may quote an answer, and is for who asks for the job.
        logger.warning("the job failed: no subtask gave an accepted output")
        error = f"No subtask gave an accepted output.{reason}"
        await self._context.jobs.end(job.id, JobStatus.FAILED, error=error, claim=claim, round_=job.round)
        return False


def _kind_of(duty_id: str) -> str:
    """What a duty is: `plan`, `review`, `shard`, …"""
    return duty_id.partition("/")[2].partition(".")[0]


def _round_of(duty_id: str) -> int | None:
    """The round that a duty is of; a plan and a retry are of none, for they open one."""
    what, *numbers = duty_id.split("/")[1].split(".")
    if what in ("plan", "retry"):
        return None
    return 1 if what == "phase" else int(numbers[0])
