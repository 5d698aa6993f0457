"""Job documents: what was asked, what was planned, where the job stands and what came of it.

It owns the hash of a job in the store; the states of subtasks belong to `queues.store`. It calls no model.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fleet.errors import BadInputError, JobNotFoundError
from fleet.items import ItemIndex
from fleet.jobs import JobSpec, JobStatus, Step
from fleet.shards import Phase, phases
from fleet.stored import read, read_json
from fleet.tenants import DEFAULT, tenant_of
from queues.store import Store
from queues.subtasks import Claim, NewSubtask

PLAN_TASK = "fleet.plan_job.v1"
COORDINATOR = "coordinator"
#: Plans kept in memory by a worker; a plan never changes once it is written.
CACHED_PLANS = 64


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the store knows it.

    What is done for a job as a whole has a dot in its id (`plan.1`, `review.2`, `end.1`); no step can be called so.
    """

    id: str
    tenant: str
    spec: JobSpec
    items: ItemIndex
    status: JobStatus
    #: The spec's steps, or the planned ones; empty until planned.
    steps: tuple[Step, ...]
    #: Review round that is being gathered for, from 1.
    round: int
    simulated: bool
    created_at: float
    finished_at: float | None
    error: str | None
    result: dict[str, Any] | None
    #: Most subtasks of a shard, and how many shards may be open at a time; fixed with the plan.
    width: int
    window: int
    #: How the plan is cut; empty until it is written.
    phases: tuple[Phase, ...]
    #: Of a job of one subtask that came in by somebody else's protocol: what was asked for there.
    asked: Mapping[str, Any] | None = None
    #: It came in by somebody else's protocol: replies go to who leads the conversation as the vendor gave them, refusals and what
    #: was cut off too.
    as_given: bool = False

    def step(self, step_id: str) -> Step:
        return next(step for step in self.steps if step.id == step_id)

    def review_id(self, round_: int) -> str:
        return f"{self.id}/review.{round_}"


def at_round(job_id: str, round_: int) -> tuple[str, str, str]:
    """The guard that holds while a job stands at this round."""
    return f"job:{job_id}", "round", str(round_)


def not_ended(job_id: str) -> tuple[str, str, str]:
    """The guard that holds until a job has its final status; one that is retried has none again."""
    return f"job:{job_id}", "finished_at", ""


class JobStore:
    """Job documents over the same link as the subtasks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._link = store.link
        self._plans: OrderedDict[str, Job] = OrderedDict()

    async def load(self, job_id: str) -> Job:
        """The job as it stands now.

        Raises:
            JobNotFoundError: there is none with this id.
        """
        flat, stopped = await asyncio.gather(
            self._link.execute("HGETALL", self._key(job_id), idempotent=True), self._store.stopped(job_id)
        )
        fields = {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}
        if "spec" not in fields:
            raise JobNotFoundError(f'There is no job "{job_id}" in this store; `fleet jobs list` shows what there is.')
        spec = read_json(JobSpec, fields["spec"])
        status = JobStatus(fields["status"])
        # Whether a job is paused is the queues' to know: what it goes back to when it is resumed stays written here.
        error = fields.get("error")
        if not status.final and stopped[0] == "paused":
            status, error = JobStatus.PAUSED, stopped[1] or None
        planned = json.loads(fields["plan"]) if "plan" in fields else []
        steps = tuple(read(Step, step) for step in planned)
        items = read_json(ItemIndex, fields["items"])
        width = int(fields.get("width", 1))
        return Job(
            id=job_id,
            tenant=fields["tenant"],
            spec=spec,
            items=items,
            status=status,
            steps=steps,
            round=int(fields["round"]),
            simulated=fields["simulated"] == "1",
            created_at=float(fields["created_at"]),
            finished_at=float(fields["finished_at"]) if "finished_at" in fields else None,
            error=error,
            result=json.loads(fields["result"]) if "result" in fields else None,
            width=width,
            window=int(fields.get("window", 1)),
            phases=tuple(phases(steps, len(items), width)) if steps else (),
            asked=json.loads(fields["asked"]) if "asked" in fields else None,
            as_given="asked" in fields or "as_given" in fields,
        )

    async def planned(self, job_id: str) -> Job:
        """The job with its plan from memory where it is known; only `round`, and a final `status`, are sure to be of now."""
        job = self._plans.get(job_id)
        if job is None:
            job = await self.load(job_id)
            if job.steps and job.asked is None:  # of one subtask: nobody will ask for its plan again
                self._plans[job_id] = job
                if len(self._plans) > CACHED_PLANS:
                    self._plans.popitem(last=False)
            return job
        self._plans.move_to_end(job_id)
        status, round_ = await self._link.execute("HMGET", self._key(job_id), "status", "round", idempotent=True)
        if status == job.status.encode() and int(round_) == job.round:
            return job
        return replace(job, status=JobStatus(status.decode()), round=int(round_))

    async def set_plan(self, job_id: str, steps: Iterable[Step], *, width: int, window: int, claim: Claim) -> None:
        """Write the plan and how it is cut, unless there is one or the claim was lost: neither changes after this."""
        plan = json.dumps([step.model_dump(mode="json", exclude_defaults=True) for step in steps])
        cut = {"width": width, "window": window}
        await self._store.advance(f"job:{job_id}", "plan", [""], plan, cut, guards=[claim.guard])

    async def advance(
        self,
        job_id: str,
        allowed: Iterable[JobStatus],
        status: JobStatus,
        *,
        claim: Claim,
        round_: int | None = None,
    ) -> bool:
        """Move a job on if it stands at one of `allowed`; False when it does not, or the claim was lost."""
        others = {} if round_ is None else {"round": round_}
        return await self._store.advance(f"job:{job_id}", "status", allowed, status, others, guards=[claim.guard])

    async def end(
        self,
        job_id: str,
        status: JobStatus,
        *,
        error: str | None = None,
        result: dict[str, Any] | None = None,
        claim: Claim | None = None,
        round_: int | None = None,
    ) -> bool:
        """Give a job its final status; False when it has one, or the claim under which it ends was lost.

        It becomes `cancelled` only while it is stopped so, and ends after `round_` only while it stands there.
        """
        # An earlier version, which knows no pause at a cap, noted so that the job could not do all its work.
        reason = await self._link.execute("HGET", self._key(job_id), "cut_short", idempotent=True)
        if reason is not None and status is JobStatus.COMPLETED:
            status, error = JobStatus.FAILED, f"cut short: {reason.decode()}"
        fields: dict[str, str | int] = {"finished_at": repr(await self._store.now())}
        if error is not None:
            fields["error"] = error
        if result is not None:
            fields["result"] = json.dumps(result)
        open_states = [state for state in JobStatus if not state.final]
        guards = [] if claim is None else [claim.guard]
        if status is JobStatus.CANCELLED:
            guards.append((f"j:{job_id}", "stop", "cancelled"))
        if round_ is not None:
            guards.append(at_round(job_id, round_))
        return await self._store.advance(f"job:{job_id}", "status", open_states, status, fields, guards=guards)

    async def reopen(self, job: Job, round_: int, *, claim: Claim) -> bool:
        """Let an ended job run again in round `round_`; what it ended with is forgotten, its plan and outputs are not.

        False when the claim was lost: whoever took over may have done it, and the job even ended again.

        Raises:
            BadInputError: the job has not ended, was cancelled, or stands at another round.
        """
        where = (f"job:{job.id}", claim.id, claim.fence)
        ended = json.dumps([JobStatus.COMPLETED, JobStatus.FAILED])
        drop = ("error", "result", "finished_at", "cut_short")
        what = (*where, ended, job.round, JobStatus.RUNNING, round_, *drop)
        reply = await self._link.call("reopen", [self._store.namespace], what, idempotent=True)
        if reply == 2:
            raise BadInputError(f"The job {job.id} is not what it was when its retry was asked for.")
        return bool(reply)

    async def ask_again(self, job: Job, duty: NewSubtask, tiers: Iterable[str]) -> None:
        """Have an ended job run again by `duty`.

        Raises:
            BadInputError: it does not stand any more where `job` has it, or is still being wound up.
        """
        guards = [(f"job:{job.id}", "status", str(job.status)), at_round(job.id, job.round)]
        match await self._store.again(job.id, duty, guards, tiers):
            case "elsewhere":
                raise BadInputError(f"The job {job.id} was retried or changed just now; look at it again.")
            case "winding":
                raise BadInputError(
                    f"The job {job.id} was cancelled as it ended and is being wound up; retry it in a moment."
                )

    async def latest(
        self, most: int, *, tenant: str | None = None, before: tuple[str, float] | None = None
    ) -> list[tuple[str, float]]:
        """Ids of the newest jobs, and when they were accepted, newest first: of one tenant, and from before one of them.

        Some are accepted at the same moment; among them, the later by its id is the newer.
        """
        key = self._key() if tenant is None else f"{self._key()}:{tenant}"
        highest = "+inf" if before is None else repr(before[1])
        found: list[tuple[str, float]] = []
        offset = 0
        while len(found) < most:
            range_ = (highest, "-inf", "BYSCORE", "REV", "LIMIT", offset, most, "WITHSCORES")
            flat = await self._link.execute("ZRANGE", key, *range_, idempotent=True)
            page = [(id_.decode(), float(score)) for id_, score in zip(flat[::2], flat[1::2], strict=True)]
            found += [one for one in page if before is None or (one[1], one[0]) < (before[1], before[0])]
            offset += len(page)
            if len(page) < most:
                break
        return [one for one in found[:most] if tenant in (None, tenant_of(one[0]))]

    async def index_earlier(self) -> None:
        """List jobs of before there were tenants among the default one's. Safe to repeat."""
        listed = f"{self._key()}:{DEFAULT}"
        if not await self._link.execute("EXISTS", listed, idempotent=True):
            await self._link.execute("ZUNIONSTORE", listed, 1, self._key(), idempotent=True)

    def _key(self, job_id: str | None = None) -> str:
        return f"{self._store.namespace}:{'jobs' if job_id is None else f'job:{job_id}'}"
