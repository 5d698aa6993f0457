"""The routes of jobs: submit, list, look, results, cost, and what may be done to one.

They translate between HTTP and `fleet.client`, `fleet.control`; they decide nothing about jobs.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from fleet.api.auth import JobId, Reader, Submitter, own, still_known
from fleet.api.bodies import BoundedRoute
from fleet.api.events import FIRST, Feeds, is_id
from fleet.api.openai_errors import takes
from fleet.api.problems import ProblemError, declared, linked
from fleet.client import FleetClient
from fleet.config import Frozen
from fleet.control import Control
from fleet.entitlements import Usd
from fleet.errors import JobNotFoundError
from fleet.receipt import Receipt
from fleet.store import Job
from fleet.submitted import NewJob
from fleet.views import JobView, job_view

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=BoundedRoute)

MAX_PAGE = 100
#: Bytes of results that are sent together.
CHUNK_BYTES = 64_000
#: An event on the wire; its data is an object.
EVENT = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}
EXAMPLE = {
    "name": "triage",
    "items": [{"text": "My invoice is wrong."}, {"text": "The app crashes."}],
    "steps": [
        {
            "id": "topic",
            "each": "items",
            "tier": "nano",
            "prompt": "Topic of this ticket? {{ item.text }}",
            "output": {
                "type": "object",
                "required": ["topic"],
                "properties": {"topic": {"enum": ["billing", "bug", "other"]}},
            },
        }
    ],
    "budget_usd": 1.0,
}


class Accepted(Frozen):
    """A job that is on the disk of the store, and will be run."""

    id: str
    status: Literal["planning"] = "planning"


class Page(Frozen):
    """Jobs, newest first; `next` is the cursor of those before them."""

    jobs: tuple[JobView, ...]
    next: str | None = None


class Change(Frozen):
    """A new cap for a job that goes on."""

    budget_usd: Usd | None = None


class Retried(Frozen):
    """How many subtasks run again; 0: the plan or the review is made once more."""

    id: str
    subtasks: int


@router.post(
    "",
    status_code=202,
    responses=declared(400, 401, 403, 408, 409, 413, 422, 429, 503, 507)
    | {202: linked("job_id", "look", "results", "events", "cost", "cancel", "pause", "resume", "retry")},
    openapi_extra=takes(NewJob, EXAMPLE),
)
async def submit(
    request: Request,
    response: Response,
    principal: Submitter,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Accepted:
    """Accept a job. Once this answers 202 it is on disk. The same key with the same body gives the same job, for a week."""
    job = await asyncio.to_thread(_job, await request.json())
    job_id = await _client(request).submit(job, tenant=principal.tenant, once=idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{job_id}"
    return Accepted(id=job_id)


@router.get("", responses=declared(400, 401, 403, 422, 503))
async def listing(
    request: Request,
    principal: Reader,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    cursor: Annotated[str | None, Query(max_length=200, description="`next` of the page before.")] = None,
) -> Page:
    """The tenant's jobs, newest first."""
    client = _client(request)
    before = None if cursor is None else place_of(cursor)
    found = await client.latest(limit + 1, tenant=principal.tenant, before=before)
    jobs = []
    for job_id, _ in found[:limit]:
        with contextlib.suppress(JobNotFoundError):  # it was taken back just now
            jobs.append(await job_view(client, job_id))
    return Page(jobs=tuple(jobs), next=cursor_of(*found[limit - 1]) if len(found) > limit else None)


@router.get("/{job_id}", responses=declared(401, 403, 404, 422, 503))
async def look(request: Request, principal: Reader, job_id: JobId) -> JobView:
    """A job now, and what its subtasks wait for."""
    return await job_view(_client(request), own(job_id, principal), waits=True)


@router.get(
    "/{job_id}/results",
    response_class=StreamingResponse,
    responses=declared(401, 403, 404, 422, 503)
    | {200: {"description": "A line per subtask.", "content": {"application/jsonl": {"schema": {"type": "string"}}}}},
)
async def results(request: Request, principal: Reader, job_id: JobId) -> StreamingResponse:
    """What became of each subtask, as JSON lines, as far as they have ended."""
    client = _client(request)
    job = await client.job(own(job_id, principal))
    return StreamingResponse(result_lines(client, job), media_type="application/jsonl")


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses=declared(400, 401, 403, 404, 422, 503)
    | {
        200: {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": EVENT}}},
        204: {"description": "The job has ended and nothing is new: do not come again."},
    },
)
async def events(
    request: Request,
    principal: Reader,
    job_id: JobId,
    last_event_id: Annotated[
        str | None, Header(description="The last event that was seen; those after it come.")
    ] = None,
) -> Response:
    """What happens to a job, as it happens, until it has ended: accepted, planned, status, resumed, filed."""
    client = _client(request)
    job = await client.job(own(job_id, principal))
    after = last_event_id or FIRST
    if not is_id(after):
        raise ProblemError(400, "Last-Event-ID is none of ours; send the id of the last event, as it is.")
    if job.status.final and not await client.runtime.store.events(job_id, after, 1):
        return Response(status_code=204)
    feeds: Feeds = request.app.state.feeds
    if feeds.full:
        raise ProblemError(503, "As many listen as one process serves; come again.", headers={"Retry-After": "5"})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    stream = feeds.stream(job_id, after, lambda: still_known(request))
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


@router.get("/{job_id}/cost", responses=declared(401, 403, 404, 422, 503))
async def cost(request: Request, principal: Reader, job_id: JobId) -> Receipt:
    """The receipt of a job as it stands."""
    client = _client(request)
    return await client.receipt(await client.job(own(job_id, principal)))


@router.post("/{job_id}/cancel", responses=declared(401, 403, 404, 422, 503))
async def cancel(request: Request, principal: Submitter, job_id: JobId) -> JobView:
    """End a job; what was done is kept."""
    await _control(request).cancel(own(job_id, principal))
    return await job_view(_client(request), job_id)


@router.post("/{job_id}/pause", responses=declared(401, 403, 404, 422, 503))
async def pause(request: Request, principal: Submitter, job_id: JobId) -> JobView:
    """Start no further call of a job; running ones end."""
    await _control(request).pause(own(job_id, principal))
    return await job_view(_client(request), job_id)


@router.post("/{job_id}/resume", responses=declared(400, 401, 403, 404, 413, 422, 503))
async def resume(request: Request, principal: Submitter, job_id: JobId, change: Change | None = None) -> JobView:
    """Let a paused job go on, with a new cap where one is given."""
    await _control(request).resume(own(job_id, principal), budget_usd=change.budget_usd if change else None)
    return await job_view(_client(request), job_id)


@router.post("/{job_id}/retry", responses=declared(400, 401, 403, 404, 413, 422, 503))
async def retry(request: Request, principal: Submitter, job_id: JobId, change: Change | None = None) -> Retried:
    """Run what failed in an ended job again; what was accepted stays."""
    budget = change.budget_usd if change else None
    return Retried(id=job_id, subtasks=await _control(request).retry_failed(own(job_id, principal), budget_usd=budget))


def _job(body: Any) -> NewJob:
    try:
        return NewJob.model_validate(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([one | {"loc": ("body", *one["loc"])} for one in problems]) from None


async def result_lines(client: FleetClient, job: Job) -> AsyncIterator[bytes]:
    """What became of each subtask, as JSON lines, some of them at a time."""
    lines: list[bytes] = []
    size = 0
    async for outcome in client.outcomes(job):
        lines.append(outcome.model_dump_json().encode() + b"\n")
        size += len(lines[-1])
        if size >= CHUNK_BYTES:
            yield b"".join(lines)
            lines, size = [], 0
    yield b"".join(lines)


def cursor_of(job_id: str, score: float) -> str:
    """What a caller is given to ask for the jobs before this one, accepted then."""
    return base64.urlsafe_b64encode(json.dumps([job_id, score]).encode()).decode()


def place_of(cursor: str) -> tuple[str, float]:
    """The job that a cursor stands for. Raises ProblemError."""
    try:
        job_id, score = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii")))
    except (ValueError, TypeError):
        job_id = score = None
    if not isinstance(job_id, str) or not isinstance(score, float) or not math.isfinite(score):
        raise ProblemError(400, "The cursor is none of ours; send `next` of the page before, as it is.")
    return job_id, score


def _client(request: Request) -> FleetClient:
    client: FleetClient = request.app.state.client
    return client


def _control(request: Request) -> Control:
    control: Control = request.app.state.control
    return control
