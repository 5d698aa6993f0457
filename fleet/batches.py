"""Batches, as OpenAI has them: a file of requests becomes a job, and the job's outcomes become files of answers.

A batch is moved on by whoever looks at it, and by nothing else: after its time it is ended at the next look, and its files
are written at the first look after its end. All of that may be done twice, by any number of processes.

| status | moved on by |
|---|---|
| validating | `create`: its job is submitted -> in_progress. A look long after that never happened -> failed, cancelled |
| in_progress | a look: its job has ended -> completed (cancelled with it: -> cancelled); its time is over -> expiring |
| expiring, cancelling | a look: its job is wound up -> expired, cancelled; it was all done before -> completed |
| completed, failed, expired, cancelled | nobody: final |
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from fleet.batch_answers import write_answers
from fleet.batch_lines import LineProblem, Requests, check_requests
from fleet.batch_records import FINAL, Batch, Counts, Kept, NewBatch, Problems
from fleet.client import FleetClient
from fleet.config import AUTO, FleetConfig
from fleet.control import Control
from fleet.conversation import MOST_OUTPUT_TOKENS
from fleet.display import clean
from fleet.errors import BadInputError, JobNotFoundError, NotAcceptedError, TenantLimitError
from fleet.files import StoredFile
from fleet.jobs import Items, JobSpec, JobStatus, Step
from fleet.runtime import NAMESPACE
from fleet.shelf import Shelf
from fleet.store import COORDINATOR, Job
from fleet.tenants import new_job_id

MAX_FILE_BYTES = 200_000_000
#: What the requests of a batch may be for.
ENDPOINTS = ("/v1/chat/completions",)
WINDOW_S = 24 * 3600
#: Seconds after which a batch without a job never gets one: whoever made it has died.
INTERRUPTED_S = 600


class BatchNotFoundError(BadInputError):
    """The tenant has no batch of that id."""


class BatchEndedError(BadInputError):
    """What has ended cannot be cancelled."""


def batch_job(batch: Batch, config: FleetConfig) -> JobSpec:
    """The job of a batch: each line of its file is an item, and each item a request."""
    tier = config.tier_named(batch.model or AUTO) or AUTO
    step = Step(
        id="answer",
        kind="batch",
        each="items",
        tier=tier,
        max_tier=None if tier == AUTO else tier,
        conversation="item",
        max_output_tokens=MOST_OUTPUT_TOKENS,
    )
    return JobSpec(name="batch", items=Items(file=batch.input_file_id), steps=(step,), priority="background")


class Batches:
    """The batches of one fleet. Errors: `queues.link.LinkError` when the store does not answer."""

    def __init__(self, client: FleetClient, control: Control) -> None:
        self._client = client
        self._runtime = client.runtime
        self._control = control
        self._shelf = Shelf(self._runtime.link, NAMESPACE, "batches")
        #: Batches whose answers this process is writing.
        self._at_work: set[str] = set()

    async def create(self, tenant: str, new: NewBatch, *, once: str | None = None) -> Batch:
        """Look through the file and submit its job; a batch whose file is wrong has failed.

        Raises:
            FileNotThereError: there is no such file.
            KeyReusedError: `once` stands for something else.
            BadInputError: the endpoint is not served, or the file is for something else.
            TenantLimitError: the tenant has under way, has sent or has spent all that it may.
        """
        if new.endpoint not in ENDPOINTS:
            raise BadInputError(
                f"Batches are for {', '.join(ENDPOINTS)}; {clean(new.endpoint, 60)} is not served in one."
            )
        file = await self._runtime.files.get(tenant, new.input_file_id)
        if file.purpose != "batch":
            raise BadInputError(f'The file was uploaded for "{file.purpose}"; one for a batch has the purpose batch.')
        job_id, now = new_job_id(tenant), int(time.time())
        requests = await self._requests(file, new.endpoint)
        batch = Batch(
            id=_batch_id(job_id),
            endpoint=new.endpoint,
            model=requests.model,
            input_file_id=file.id,
            completion_window=new.completion_window,
            status="validating",
            created_at=now,
            expires_at=now + WINDOW_S,
            request_counts=Counts(total=requests.count),
            metadata=new.metadata,
        )
        if requests.problems:
            failed = {"status": "failed", "failed_at": now, "request_counts": Counts()}
            batch = batch.model_copy(update=failed | {"errors": Problems(data=requests.problems)})
        # Before its job: one that is cut off here has a batch to be found by.
        kept = Kept(tenant, batch.id, batch.status, batch, job_id, new.keep_s)
        await self._shelf.keep(tenant, batch.id, kept.fields)
        if requests.problems:
            return batch
        try:
            spec = batch_job(batch, self._runtime.config)
            accepted = await self._client.submit(spec, tenant=tenant, once=once, job_id=job_id, as_given=True)
        except (BadInputError, NotAcceptedError, TenantLimitError):
            await self._shelf.drop(tenant, batch.id)
            raise
        if accepted != job_id:
            await self._shelf.drop(tenant, batch.id)
        return await self.look(tenant, _batch_id(accepted))

    async def look(self, tenant: str, id_: str) -> Batch:
        """A batch now, moved on as far as it goes.

        Raises:
            BatchNotFoundError: the tenant has none of this id.
        """
        record = await self._shelf.load(tenant, id_)
        if record is None:
            raise BatchNotFoundError(f'There is no batch "{clean(id_, 60)}".')
        return await self._moved_on(Kept.read(tenant, id_, record))

    async def page(self, tenant: str, most: int, *, after: str | None) -> list[Batch]:
        """Batches of a tenant from before the one with the id `after`, newest first, as they were when looked at last."""
        records = await self._shelf.page(tenant, most, after=after)
        found = [Kept.read(tenant, id_, record) for id_, record in records if record is not None]
        return [
            one.shown() if one.status in FINAL else one.shown(request_counts=await self._counts(one)) for one in found
        ]

    async def cancel(self, tenant: str, id_: str) -> Batch:
        """Have no further request of a batch be answered; what was answered is kept.

        Raises:
            BatchNotFoundError: the tenant has none of this id.
            BatchEndedError: it has ended.
        """
        batch = await self.look(tenant, id_)
        if batch.status in FINAL:
            raise BatchEndedError(f"The batch is {batch.status} and cannot be cancelled.")
        asked = batch.model_copy(update={"cancelling_at": int(time.time())})
        await self._advance(tenant, id_, ("validating", "in_progress"), "cancelling", asked)
        return await self.look(tenant, id_)

    async def _requests(self, file: StoredFile, endpoint: str) -> Requests:
        if file.bytes > MAX_FILE_BYTES:
            problem = LineProblem(code="file_too_large", message=f"The file is over {MAX_FILE_BYTES:,} bytes.")
            return Requests(0, None, (problem,))
        models = self._runtime.config.names
        upload = self._runtime.files.upload(file)
        return await asyncio.to_thread(check_requests, upload, endpoint, models)

    async def _moved_on(self, kept: Kept) -> Batch:
        if kept.status in FINAL:
            return kept.shown()
        try:
            job = await self._runtime.jobs.load(kept.job_id)
        except JobNotFoundError:
            return await self._without_job(kept)
        if kept.status == "validating":
            begun = kept.batch.model_copy(update={"in_progress_at": int(job.created_at)})
            return await self._became(kept, "in_progress", begun)
        if job.status.final:
            if job.id not in await self._runtime.store.winding():
                return await self._ended(kept, job)
        elif kept.status == "in_progress" and time.time() >= (kept.batch.expires_at or 0):
            return await self._became(kept, "expiring", kept.batch)
        elif kept.status in ("expiring", "cancelling"):
            with contextlib.suppress(BadInputError):  # it has ended just now
                await self._control.cancel(job.id)
        return kept.shown(request_counts=await self._counts(kept))

    async def _without_job(self, kept: Kept) -> Batch:
        now = int(time.time())
        if now - kept.batch.created_at < INTERRUPTED_S:
            return kept.shown()
        if kept.status == "cancelling":
            return await self._became(kept, "cancelled", kept.batch.model_copy(update={"cancelled_at": now}))
        problem = LineProblem(code="interrupted", message="The batch was cut off as it was made; make it again.")
        failed = {"failed_at": now, "errors": Problems(data=(problem,))}
        return await self._became(kept, "failed", kept.batch.model_copy(update=failed))

    async def _counts(self, kept: Kept) -> Counts:
        counts = await self._runtime.store.counts(kept.job_id)
        states = [by_state for tier, by_state in counts.items() if tier != COORDINATOR]
        completed, failed = (sum(by_state.get(state, 0) for by_state in states) for state in ("ok", "failed"))
        return Counts(total=kept.batch.request_counts.total, completed=completed, failed=failed)

    async def _ended(self, kept: Kept, job: Job) -> Batch:
        """The batch of a job that has ended, with its files written."""
        if kept.id in self._at_work:
            return kept.shown(status="finalizing", request_counts=await self._counts(kept))
        ended, at = "completed", int(job.finished_at or 0)
        if job.status is JobStatus.CANCELLED:
            ended = "expired" if kept.status == "expiring" else "cancelled"
        self._at_work.add(kept.id)
        try:
            output, errors = await write_answers(self._runtime, kept, job, ended)
        finally:
            self._at_work.discard(kept.id)
        changes = {
            "output_file_id": output.file_id,
            "error_file_id": errors.file_id,
            "finalizing_at": at,
            f"{ended}_at": at,
            "request_counts": Counts(total=output.lines + errors.lines, completed=output.lines, failed=errors.lines),
        }
        return await self._became(kept, ended, kept.batch.model_copy(update=changes))

    async def _became(self, kept: Kept, status: str, batch: Batch) -> Batch:
        """Move a batch on, unless somebody did; the batch then."""
        await self._advance(kept.tenant, kept.id, (kept.status,), status, batch)
        return await self.look(kept.tenant, kept.id)

    async def _advance(self, tenant: str, id_: str, allowed: tuple[str, ...], status: str, batch: Batch) -> None:
        key, others = self._shelf.key(tenant, id_), {"batch": batch.model_dump_json()}
        await self._runtime.store.advance(key, "status", allowed, status, others)


def _batch_id(job_id: str) -> str:
    """That of the batch with this job: it is the tenant's already, so the job's time and number say it."""
    return f"batch_{job_id.rpartition('.')[2][1:]}"
