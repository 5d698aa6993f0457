"""Accepting jobs: those that are planned and gathered, and those of one subtask that somebody waits for.

It owns what a new job's document says, and in which words a store that cannot keep it refuses; where jobs go from there is for
`fleet.store` to know. It judges no job.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import OutOfMemoryError, ResponseError
from yarl import URL

from fleet import traces
from fleet.addresses import endpoint_of
from fleet.caps import caps_of, used_up
from fleet.config import FleetConfig
from fleet.entitlements import TenantConfig
from fleet.errors import KeyReusedError, NotAcceptedError, StoreUnavailableError, TenantLimitError
from fleet.items import NO_ITEMS, ItemIndex
from fleet.jobs import JobSpec, JobStatus, Step
from fleet.store import COORDINATOR, PLAN_TASK
from fleet.subject import also_about
from queues.admission import Admission, Ends, NotDurableError, Once, OverLimitError, Within
from queues.shared import words
from queues.store import Store
from queues.subtasks import NewSubtask

#: Weight of a job in the fair order among its tenant's jobs.
SHARES = {"interactive": 16.0, "normal": 4.0, "background": 1.0}
INDEX = "jobs"
#: What a caller is told of a limit of its tenant, and after how many seconds it may try again; of caps see `fleet.caps`.
OVER = {
    "jobs": ("As many jobs and calls are under way as the configuration lets at a time (open_jobs)", 2.0),
    "bytes": ("As many bytes were sent today as the configuration lets in a day (bytes_per_day)", 3600.0),
}


@dataclass(frozen=True, slots=True)
class Submission:
    """A job as it comes in."""

    job_id: str
    spec: JobSpec
    tenant: str
    #: The tenant's among tenants.
    weight: float
    simulated: bool
    #: What the tenant may have, and what this job sends.
    within: Within
    once: Once | None = None
    #: Its replies are passed on as the vendor gave them.
    as_given: bool = False


def within(config: FleetConfig, tenant: str, sent: int) -> Within:
    """What a tenant may have, of whom so many bytes come in."""
    its = config.tenants.get(tenant, TenantConfig())
    return Within(its.open_jobs, its.bytes_per_day, words(caps_of(config, tenant)), sent)


def refused(why: str, tenant: str, now: float, then: str) -> TenantLimitError:
    """The error of a limit, as the store names it, at which a tenant is; `then`: what did not happen."""
    if why in OVER:
        text, after_s = OVER[why]
        return TenantLimitError(f"{text} of {tenant}; {then}.", after_s)
    text, until = used_up(why)
    return TenantLimitError(f"{text[0].upper()}{text[1:]}; {then}.", max(1.0, until - now))


class Acceptance:
    """Accepts jobs into one store. What it accepts is written wholly or not at all.

    The id of the job is given back: of an earlier one, where the same was asked for under `once`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.admission = Admission(store.link, store.namespace)

    async def create(self, new: Submission, items: ItemIndex) -> str:
        """Accept a job: once this returns, its document and the subtask that plans it are on the store's disk.

        Raises:
            KeyReusedError: something else was asked for under `once`.
            TenantLimitError: the tenant has all that it may have.
            StoreUnavailableError: the store is full, or keeps nothing on disk; nothing, or nothing durable, was written.
        """
        now = await self._store.now()
        document = _document(new, items, JobStatus.PLANNING, now)
        start = NewSubtask(id=f"{new.job_id}/plan.1", task=PLAN_TASK, tier=COORDINATOR, payload="")
        try:
            await self.admission.keeps_on_disk()
        except NotDurableError as error:
            raise NotAcceptedError(str(error)) from error
        accepted = await self._accept(new, start, document, index=(INDEX, now))
        try:
            await self.admission.on_disk()
        except NotDurableError as error:
            # An earlier job, which the same was asked for, is not this one's to take back.
            if accepted == new.job_id and await self._retract(new, start):
                raise NotAcceptedError(str(error)) from error
            raise StoreUnavailableError(
                f"{error} The job {accepted} is there already, and may be lost if the store loses its power now."
            ) from error
        return accepted

    async def begin(
        self,
        new: Submission,
        step: Step,
        start: NewSubtask,
        *,
        asked: Mapping[str, Any],
        ends: Ends,
        hurried: bool = False,
    ) -> str:
        """Accept a job of one subtask, which runs at once and ends the job; it is in no list, and kept for a while only.

        It may not be on disk yet: that is for who is told of the job before it has ended to await (`durable`). `hurried`: the
        caller sends the subtask.

        Raises:
            KeyReusedError: something else was asked for under `once`.
            TenantLimitError: the tenant has all that it may have.
            StoreUnavailableError: the store is full; nothing was written.
        """
        document = _document(new, NO_ITEMS, JobStatus.RUNNING, time.time())  # it is in no order with others
        plan = json.dumps([step.model_dump(mode="json", exclude_defaults=True)])
        document |= {"plan": plan, "width": 1, "window": 1, "asked": json.dumps(asked)}
        return await self._accept(new, start, document, ends=ends, hurried=hurried)

    async def durable(self) -> None:
        """Wait until what was accepted so far is on the store's disk. Raises StoreUnavailableError."""
        try:
            await self.admission.on_disk()
        except NotDurableError as error:
            raise StoreUnavailableError(str(error)) from error

    async def _accept(
        self,
        new: Submission,
        start: NewSubtask,
        document: Mapping[str, str | int | float],
        *,
        index: tuple[str, float] = ("", 0.0),
        ends: Ends | None = None,
        hurried: bool = False,
    ) -> str:
        began_ns = time.time_ns()
        also_about(job=new.job_id)
        try:
            accepted = await self.admission.accept(
                new.job_id,
                start,
                tenant=new.tenant,
                share=SHARES[new.spec.priority],
                weight=new.weight,
                cap=new.spec.budget_nano_usd,
                document=(f"job:{new.job_id}", document),
                index=index,
                once=new.once,
                ends=ends,
                within=new.within,
                hurried=hurried,
            )
        except OverLimitError as error:
            raise refused(str(error), new.tenant, time.time(), "nothing was accepted") from error
        except OutOfMemoryError as error:
            raise NotAcceptedError(
                "The store is full, so the job was not accepted and nothing of it is kept; give the store more memory "
                "(maxmemory) or finish other jobs first."
            ) from error
        except ResponseError as error:
            if not str(error).startswith("MISCONF"):  # how a server whose disk is full refuses to write
                raise
            raise NotAcceptedError(
                "The store cannot write to its disk, so the job was not accepted and nothing of it is kept; make room on "
                "the store's disk, then submit again."
            ) from error
        if accepted is None:
            raise KeyReusedError(
                "Another job was submitted with this Idempotency-Key; use a new key for every job, and the same one only "
                "to submit the same job again."
            )
        if accepted == new.job_id:
            traces.accepted(accepted, began_ns)
        return accepted

    async def _retract(self, new: Submission, start: NewSubtask) -> bool:
        document = f"job:{new.job_id}"
        return await self.admission.retract(new.job_id, start.id, document, INDEX, new.once)


def _document(new: Submission, items: ItemIndex, status: JobStatus, now: float) -> dict[str, str | int | float]:
    document: dict[str, str | int | float] = {
        "tenant": new.tenant,
        "spec": new.spec.model_dump_json(),
        "items": items.model_dump_json(),
        "status": status,
        "round": 1,
        "simulated": int(new.simulated),
        "created_at": now,
    }
    if new.as_given:
        document["as_given"] = 1
    if new.spec.webhook is not None:
        document["hook"] = endpoint_of(URL(new.spec.webhook))[0]
    return document
