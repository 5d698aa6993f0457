"""OpenAI's responses: create (waited for, streamed, or in the background), look at one, cancel one.

It owns the routes and the response object; how requests become conversations is `response_items`'s to know. What is in the
background is on the store's disk before its id is told, and every response is kept for a day.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from redis.exceptions import RedisError

from fleet.api.answers import Desk, cap_of, pieces
from fleet.api.auth import Reader, Submitter, own
from fleet.api.openai_errors import ANSWER_OR_STREAM, REFUSALS, CallRoute, OpenAIError, takes
from fleet.api.parameters import beside, body_of, read, tier_of
from fleet.api.pictures import fetched
from fleet.api.problems import ProblemError, linked
from fleet.api.response_items import ResponseRequest, chat_of, conversation_of, event, output_of, usage_of
from fleet.errors import BadInputError, JobNotFoundError
from fleet.jobs import JobStatus, Outcome
from fleet.keys import Principal
from fleet.replies import STEP
from fleet.replies import Request as Asked
from fleet.shards import Place
from fleet.store import Job

router = APIRouter(prefix="/v1/responses", tags=["OpenAI-compatible"], route_class=CallRoute)

#: The vendor's parameters that a fleet does not pass on.
OTHERS = frozenset(
    (
        "access_programs",
        "background_options",
        "context_management",
        "conversation",
        "image",
        "max_tool_calls",
        "moderation",
        "prompt",
        "prompt_cache_options",
        "prompt_cache_retention",
        "top_logprobs",
    )
)
EXAMPLE = {"model": "mini", "instructions": "Be brief.", "input": "Why do fleets have flagships?"}
KIND = "response"
PREFIX = "resp_"
ResponseId = Annotated[str, Path(max_length=80, pattern=r"^[a-zA-Z0-9_.-]+$")]


@router.post(
    "",
    responses=REFUSALS | {200: linked("response_id", "look", "cancel") | {"content": ANSWER_OR_STREAM}},
    response_model=None,
    openapi_extra=takes(ResponseRequest, EXAMPLE),
)
async def create(request: Request, principal: Submitter) -> Response:
    """A response, once a model's answer was accepted; in the background its id at once."""
    desk: Desk = request.app.state.desk
    body = await body_of(request)
    asked = await beside(request, partial(read, ResponseRequest, body, others=OTHERS))
    _check(asked)
    tier = tier_of(asked.model, desk.runtime.config)
    before = []
    if asked.previous_response_id is not None:
        before = await _said(desk, asked.previous_response_id, principal)
    echo, kind = asked.echo(), (asked.metadata or {}).get("kind", KIND)
    background = bool(asked.background)
    chat = chat_of(asked, before)
    await fetched(chat["messages"], desk.outside)
    subtask = Asked(
        await beside(request, partial(conversation_of, chat)),
        tier,
        kind,
        echo | {"model": asked.model},
        cap_of(request),
        "normal" if background else "interactive",
    )
    job_id = await desk.begin(request, subtask, principal, durable=background)
    try:
        job = await desk.runtime.jobs.load(job_id)
    except RedisError:
        await desk.give_up(job_id)
        raise
    stream = bool(asked.stream)
    del asked, subtask, before, chat
    if background:
        return JSONResponse(_object(job, None), headers=await desk.headers(job_id, None, tier))
    if not stream:
        outcome = await desk.reply(request, job_id)
        return JSONResponse(_object(job, outcome), headers=await desk.headers(job_id, outcome, tier))

    def events(outcome: Outcome) -> Iterable[bytes]:
        return (event(kind, number, fields) for number, (kind, fields) in enumerate(_events(job, outcome)))

    def failed(error: OpenAIError) -> bytes:
        said = {"error": {"code": error.detail.code or "server_error", "message": error.detail.message}}
        return event("response.failed", 0, {"response": _object(job, None) | {"status": "failed"} | said})

    return await desk.stream(request, job_id, tier, events, failed)


@router.get("/{response_id}", responses=REFUSALS, response_model=None)
async def look(
    request: Request,
    principal: Reader,
    response_id: ResponseId,
    stream: Annotated[bool, Query(description="Only false: an answer that is there is not streamed.")] = False,
) -> Response:
    """A response as it stands."""
    if stream:
        raise OpenAIError(400, "A response that was made is not streamed; leave 'stream' out.", param="stream")
    desk: Desk = request.app.state.desk
    job = await _job(desk, response_id, principal)
    outcome = await _outcome(desk, job)
    return JSONResponse(_object(job, outcome), headers={"x-fleet-job": job.id})


@router.post("/{response_id}/cancel", responses=REFUSALS, response_model=None)
async def cancel(request: Request, principal: Submitter, response_id: ResponseId) -> Response:
    """Stop a response in the background; one that has ended stays as it is."""
    desk: Desk = request.app.state.desk
    job = await _job(desk, response_id, principal)
    if not (job.asked or {}).get("background"):
        raise OpenAIError(400, "Only a response in the background can be cancelled.", code="invalid_value")
    if not job.status.final:
        with contextlib.suppress(BadInputError):  # it ended just now
            await desk.cancel(job.id)
        job = await desk.runtime.jobs.load(job.id)
    return JSONResponse(_object(job, await _outcome(desk, job)), headers={"x-fleet-job": job.id})


def _check(asked: ResponseRequest) -> None:
    if asked.background and asked.store is False:
        raise OpenAIError(400, "What runs in the background is stored; leave 'store' out.", param="store")
    if asked.background and asked.stream:
        raise OpenAIError(
            400, "A response in the background is not streamed; look at it.", param="stream", code="unsupported_value"
        )


async def _job(desk: Desk, response_id: str, principal: Principal) -> Job:
    """The job of a response of theirs; a 404 for any other."""
    unknown = OpenAIError(404, f"Response with id '{response_id}' not found.", code="not_found")
    if not response_id.startswith(PREFIX):
        raise unknown
    try:
        job = await desk.runtime.jobs.load(own(response_id.removeprefix(PREFIX), principal))
    except (JobNotFoundError, ProblemError):
        raise unknown from None
    asked = job.asked or {}
    if asked.get("object") != "response" or not asked.get("store"):
        raise unknown
    return job


async def _outcome(desk: Desk, job: Job) -> Outcome | None:
    """What became of a response; None as long as nothing did."""
    if not job.status.final:
        return None
    return await desk.runtime.archive.outcome(job, Place(STEP, None))


async def _said(desk: Desk, response_id: str, principal: Principal) -> list[dict[str, Any]]:
    """The messages of an earlier response, without its instructions."""
    try:
        job = await _job(desk, response_id, principal)
    except OpenAIError:
        message = f"Previous response with id '{response_id}' not found."
        raise OpenAIError(400, message, param="previous_response_id", code="previous_response_not_found") from None
    outcome = await _outcome(desk, job)
    conversation = job.step(STEP).conversation
    if outcome is None or outcome.status != "ok" or not conversation or isinstance(conversation, str):
        message = f"The response '{response_id}' has no answer to follow."
        raise OpenAIError(400, message, param="previous_response_id", code="invalid_value")
    messages: list[dict[str, Any]] = conversation.kept()["messages"]
    return [*messages[bool((job.asked or {}).get("instructions")) :], outcome.output["message"]]


def _object(job: Job, outcome: Outcome | None) -> dict[str, Any]:
    """The response object."""
    asked = dict(job.asked or {})
    status, error, incomplete = _status(job, outcome)
    answered = outcome is not None and outcome.status == "ok"
    return {
        "id": PREFIX + job.id,
        "object": "response",
        "created_at": int(job.created_at),
        "status": status,
        "background": asked["background"],
        "error": error,
        "incomplete_details": incomplete,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "max_tool_calls": None,
        "model": (outcome and outcome.model) or asked["model"],
        "output": output_of(job.id, outcome.output) if outcome is not None and answered else [],
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "previous_response_id": asked.get("previous_response_id"),
        "prompt_cache_key": asked.get("prompt_cache_key"),
        "reasoning": {"effort": None, "summary": None} | asked.get("reasoning", {}),
        "safety_identifier": asked.get("safety_identifier"),
        "service_tier": "default",
        "store": asked["store"],
        "temperature": asked.get("temperature", 1.0),
        "text": {"format": {"type": "text"}} | asked.get("text", {}),
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools", []),
        "top_logprobs": 0,
        "top_p": asked.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": usage_of(outcome.usage) if outcome is not None and answered else None,
        "user": asked.get("user"),
        "metadata": asked.get("metadata", {}),
    }


def _status(job: Job, outcome: Outcome | None) -> tuple[str, Any, Any]:
    if job.status is JobStatus.CANCELLED:
        return "cancelled", None, None
    if outcome is None:
        return "in_progress" if job.status is JobStatus.RUNNING else "queued", None, None
    if outcome.status != "ok":
        return "failed", {"code": "server_error", "message": f"No answer could be had: {outcome.error}."}, None
    if outcome.output["finish_reason"] == "length":
        return "incomplete", None, {"reason": "max_output_tokens"}
    return "completed", None, None


def _events(job: Job, outcome: Outcome) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of an accepted reply, as the vendor would have streamed it."""
    begun = _object(job, None)
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    ended = _object(job, outcome)
    for index, item in enumerate(ended["output"]):
        here = {"output_index": index}
        empty: dict[str, Any] = {"content": []} if item["type"] == "message" else {"arguments": ""}
        yield "response.output_item.added", here | {"item": item | empty | {"status": "in_progress"}}
        here["item_id"] = item["id"]
        if item["type"] == "message":
            for number, part in enumerate(item["content"]):
                yield from _part(here | {"content_index": number}, part)
        else:
            yield "response.function_call_arguments.delta", here | {"delta": item["arguments"]}
            yield (
                "response.function_call_arguments.done",
                here | {"name": item["name"], "arguments": item["arguments"]},
            )
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield f"response.{ended['status']}", {"response": ended}


def _part(here: dict[str, Any], part: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = "text" if part["type"] == "output_text" else "refusal"
    kind = f"response.{part['type']}"
    more: dict[str, Any] = {"logprobs": []} if name == "text" else {}
    yield "response.content_part.added", here | {"part": part | {name: ""}}
    for piece in pieces(part[name]):
        if piece:
            yield f"{kind}.delta", here | {"delta": piece} | more
    yield f"{kind}.done", here | {name: part[name]} | more
    yield "response.content_part.done", here | {"part": part}
