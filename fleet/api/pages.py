"""The routes for people: the jobs, a page for each, its files, and signing in. They change nothing but who is signed in.

Programs have `/v1`; these routes are none of its OpenAPI. They decide nothing about jobs, and write no HTML.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from redis.exceptions import RedisError

from fleet.api.auth import JobId, own
from fleet.api.bodies import BoundedRequest, told
from fleet.api.extracts import Extracts
from fleet.api.jobs import cursor_of, place_of, result_lines
from fleet.api.live import Watches
from fleet.api.problems import ProblemError
from fleet.api.rendering import FILE_HEADERS, PageRoute, page, script, sign_in_page
from fleet.api.sheet import Sheet, bar, sheet_of
from fleet.api.visitors import Reception, Visitor, check_own_form, still_here
from fleet.audit import Audit
from fleet.client import FleetClient
from fleet.errors import JobNotFoundError
from fleet.keys import Principal
from fleet.plan_graph import REVIEW, graph_of
from fleet.steps import StepCounter
from fleet.store import Job
from fleet.views import job_view

router = APIRouter(route_class=PageRoute, include_in_schema=False)

PAGE_SIZE = 50
MAX_FORM_BYTES = 4_000
#: Where signing in leads back to.
_BACK = re.compile(r"/jobs(?:/[a-z0-9.-]{1,60})?")
HOME = "/jobs"


@router.get("/")
@router.get("/signin")
async def home(_: Visitor) -> Response:
    """Lead to the jobs."""
    return RedirectResponse(HOME, 303)


@router.get("/jobs")
async def listing(
    request: Request, visitor: Visitor, cursor: Annotated[str | None, Query(max_length=200)] = None
) -> Response:
    """The tenant's jobs, newest first."""
    client = _client(request)
    before = None if cursor is None else place_of(cursor)
    found = await client.latest(PAGE_SIZE + 1, tenant=visitor.tenant, before=before)
    jobs = []
    for job_id, _ in found[:PAGE_SIZE]:
        with contextlib.suppress(JobNotFoundError):  # it was taken back just now
            jobs.append(await job_view(client, job_id))
    following = cursor_of(*found[PAGE_SIZE - 1]) if len(found) > PAGE_SIZE else None
    shares = {job.id: bar(job.counts.total, job.counts.done, 0, job.counts.failed, job.counts.running) for job in jobs}
    older = cursor is not None
    return page("jobs", visitor=_signed_in(visitor), jobs=jobs, shares=shares, following=following, older=older)


@router.get("/jobs/{job_id}")
async def look(request: Request, visitor: Visitor, job_id: JobId) -> Response:
    """A job now."""
    sheet = await _sheet(request, own(job_id, visitor))
    extracts: Extracts = request.app.state.extracts
    job = sheet.job
    return page(
        "job",
        visitor=_signed_in(visitor),
        sheet=sheet,
        job=job,
        values=sheet.values,
        steps={step.id: step for step in job.steps},
        graph=graph_of(job.steps, review=job.spec.review is not None) if job.steps else None,
        REVIEW=REVIEW,
        failures=await extracts.failures(sheet),
        text=await extracts.text(job),
        outputs=await extracts.outputs(job),
        receipt=await extracts.receipt(sheet),
    )


@router.get("/jobs/{job_id}/live")
async def live(request: Request, visitor: Visitor, job_id: JobId) -> Response:
    """The numbers of a job as they change, until it has ended."""
    job = await _client(request).job(own(job_id, visitor))
    if job.status.final:
        return Response(status_code=204)
    watches: Watches = request.app.state.watches
    if watches.full:
        raise ProblemError(503, "As many pages are kept up to date as one process can; come again.")
    stream = watches.stream(job_id, lambda: still_here(request))
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@router.get("/jobs/{job_id}/results.jsonl")
async def results(request: Request, visitor: Visitor, job_id: JobId) -> Response:
    """What became of each subtask, a line each."""
    client = _client(request)
    job = await client.job(own(job_id, visitor))
    return _file(f"{job.id}-results.jsonl", "application/jsonl", result_lines(client, job))


@router.get("/jobs/{job_id}/ledger.jsonl")
async def ledger(request: Request, visitor: Visitor, job_id: JobId) -> Response:
    """One line per provider call."""
    client = _client(request)
    job = await client.job(own(job_id, visitor))
    return _file(f"{job.id}-ledger.jsonl", "application/jsonl", _ledger_lines(client, job))


@router.get("/jobs/{job_id}/receipt.json")
async def receipt(request: Request, visitor: Visitor, job_id: JobId) -> Response:
    """The receipt as it stands."""
    client = _client(request)
    found = await client.receipt(await client.job(own(job_id, visitor)))
    body = found.model_dump_json(indent=2).encode()
    return Response(body, media_type="application/json", headers=_attached(f"{found.job_id}-receipt.json"))


@router.get("/jobs/{job_id}/result.md")
async def result(request: Request, visitor: Visitor, job_id: JobId) -> Response:
    """The text of the review, as it came."""
    job = await _client(request).job(own(job_id, visitor))
    if job.result is None:
        raise ProblemError(404, f"The job {job.id} has no text: it has not ended, or has no review.")
    body = str(job.result.get("text", "")).encode("utf-8", "replace")
    return Response(body, media_type="text/plain; charset=utf-8", headers=_attached(f"{job.id}-result.md"))


@router.post("/signin")
async def sign_in(request: Request) -> Response:
    """Begin a session of whoever shows a key that may read."""
    check_own_form(request)
    fields = await _form(request)
    back = fields.get("back", HOME)
    back = back if _BACK.fullmatch(back) else HOME
    response = RedirectResponse(back, 303)
    reception: Reception = request.app.state.reception
    principal = await reception.admit(request, response, fields.get("key", "").strip())
    if principal is None:
        return sign_in_page(back, wrong="This is no key of the fleet that may look at jobs.")
    audit: Audit = request.app.state.audit
    with contextlib.suppress(RedisError):  # it is done, whether or not it can be written down
        await audit.note(principal.tenant, principal.key_id, "POST /signin", "", "303")
    return response


@router.post("/signout")
async def sign_out(request: Request) -> Response:
    """End a session."""
    check_own_form(request)
    response = RedirectResponse(HOME, 303)
    reception: Reception = request.app.state.reception
    await reception.dismiss(request, response)
    return response


@router.get("/page.js")
async def script_of_pages(_: Visitor) -> Response:
    """What keeps a page up to date."""
    return script()


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form. Raises ProblemError."""
    if told(request) > MAX_FORM_BYTES:
        raise ProblemError(413, "The form is too long.")
    body = await BoundedRequest(request.scope, request.receive).body()
    try:
        return dict(parse_qsl(body.decode(), max_num_fields=10))
    except ValueError:
        raise ProblemError(400, "The form cannot be read.") from None


async def _ledger_lines(client: FleetClient, job: Job) -> AsyncIterator[bytes]:
    async for entry in client.ledger(job):
        yield entry.model_dump_json().encode() + b"\n"


async def _sheet(request: Request, job_id: str) -> Sheet:
    counter: StepCounter = request.app.state.counter
    return await sheet_of(_client(request), counter, job_id)


def _file(name: str, media_type: str, lines: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(lines, media_type=media_type, headers=_attached(name))


def _attached(name: str) -> dict[str, str]:
    return FILE_HEADERS | {"Content-Disposition": f'attachment; filename="{name}"'}


def _signed_in(visitor: Principal) -> Principal | None:
    """Whoever has something to sign out of: not who needs no key."""
    return None if visitor.key_id == "none" else visitor


def _client(request: Request) -> FleetClient:
    client: FleetClient = request.app.state.client
    return client
