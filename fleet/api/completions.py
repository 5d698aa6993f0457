"""OpenAI's chat completions: a call to `nano`, `mini`, `flagship` or `auto` becomes a subtask, and its reply the answer.

It owns the form of completions and their chunks (the vendor's API reference, "Chat completions"). A streamed answer is sent once
it was accepted, in pieces: what a check may still reject, or a worker's death may have begun again, is shown to nobody.
"""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AfterValidator, Field

from fleet.api.answers import Desk, cap_of, pieces
from fleet.api.auth import Submitter
from fleet.api.openai_errors import ANSWER_OR_STREAM, REFUSALS, CallRoute, OpenAIError, refusal_of, takes
from fleet.api.parameters import beside, body_of, read, tier_of
from fleet.api.pictures import fetched
from fleet.chat_answers import completion, head, usage_of
from fleet.config import AUTO, Frozen
from fleet.conversation import Conversation, Metadata, Truth
from fleet.jobs import Outcome
from fleet.replies import Request as Asked

router = APIRouter(prefix="/v1/chat/completions", tags=["OpenAI-compatible"], route_class=CallRoute)

#: The vendor's parameters that a fleet does not pass on.
OTHERS = frozenset(
    (
        "audio",
        "function_call",
        "functions",
        "logit_bias",
        "moderation",
        "prediction",
        "prompt_cache_options",
        "prompt_cache_retention",
        "top_logprobs",
        "web_search_options",
    )
)
EXAMPLE = {"model": "nano", "messages": [{"role": "user", "content": "Topic of this ticket? My invoice is wrong."}]}
#: What a kind of work is called where the caller does not say.
KIND = "chat"


class StreamOptions(Frozen):
    include_usage: Truth = False
    include_obfuscation: Truth | None = None


def _none(wanted: bool) -> bool:
    if wanted:
        raise ValueError("a fleet has no log probabilities")
    return wanted


class ChatRequest(Conversation):
    """A call as OpenAI's clients send it. `metadata.kind` names the kind of work, by which the fleet keeps its figures."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    stream: Truth | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=1)] | None = None
    modalities: tuple[Literal["text"]] | None = None
    logprobs: Annotated[Truth, AfterValidator(_none)] | None = None
    store: Truth | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def conversation(self) -> Conversation:
        """What is passed on of it."""
        return Conversation.model_construct(**{name: getattr(self, name) for name in Conversation.model_fields})


@router.post(
    "",
    responses=REFUSALS | {200: {"description": "The answer.", "content": ANSWER_OR_STREAM}},
    response_model=None,
    openapi_extra=takes(ChatRequest, EXAMPLE),
)
async def complete(request: Request, principal: Submitter) -> Response:
    """An answer to a conversation, once a model's was accepted. Headers tell the job, the tier that answered, and the cost."""
    desk: Desk = request.app.state.desk
    body = await body_of(request)
    await fetched(body.get("messages"), desk.outside)
    asked = await beside(request, partial(read, ChatRequest, body, others=OTHERS))
    if asked.stream_options is not None and not asked.stream:
        raise OpenAIError(400, "The 'stream_options' parameter is only for streams.", param="stream_options")
    tier = tier_of(asked.model, desk.runtime.config)
    kind = (asked.metadata or {}).get("kind", KIND)
    subtask = Asked(asked.conversation, tier, kind, _kept(asked), cap_of(request))
    job_id = await desk.begin(request, subtask, principal)
    del subtask, body
    created = int(time.time())
    if not asked.stream:
        outcome = await desk.reply(request, job_id)
        return JSONResponse(
            completion(job_id, created, outcome.model or tier, outcome),
            headers=await desk.headers(job_id, outcome, tier),
        )
    usage = asked.stream_options is not None and asked.stream_options.include_usage
    del asked
    return await desk.stream(
        request, job_id, tier, lambda outcome: _chunks(job_id, created, outcome, usage=usage), _failed
    )


def _kept(asked: ChatRequest) -> dict[str, Any]:
    """What is written down of a call besides its conversation."""
    kept = {"object": "chat.completion", "metadata": asked.metadata, "store": asked.store}
    return {name: value for name, value in kept.items() if value is not None}


def _chunks(job_id: str, created: int, outcome: Outcome, *, usage: bool) -> list[bytes]:
    begun = head(job_id, "chat.completion.chunk", created, outcome.model or AUTO)
    message = outcome.output["message"]

    def chunk(choices: list[dict[str, Any]], used: dict[str, Any] | None = None) -> bytes:
        return _event(begun | {"choices": choices} | ({"usage": used} if usage else {}))

    def delta(part: dict[str, Any], reason: str | None = None) -> bytes:
        return chunk([{"index": 0, "delta": part, "logprobs": None, "finish_reason": reason}])

    found = [delta({"role": "assistant", "content": "" if message["content"] is not None else None, "refusal": None})]
    for name in ("refusal", "content"):
        found += [delta({name: piece}) for piece in pieces(message[name] or "") if piece]
    for index, call in enumerate(message.get("tool_calls", ())):
        opened = {"index": index, "id": call["id"], "type": "function"}
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        found.append(delta({"tool_calls": [opened | {"function": {"name": name, "arguments": ""}}]}))
        found.append(delta({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}))
    found.append(delta({}, outcome.output["finish_reason"]))
    if usage:
        found.append(chunk([], usage_of(outcome.usage)))
    return [*found, b"data: [DONE]\n\n"]


def _failed(error: OpenAIError) -> bytes:
    return _event(refusal_of(error))


def _event(data: Any) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
