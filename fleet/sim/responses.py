"""The responses wire of the simulated provider: reading its requests, writing its answers and events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fleet.prices import Usage
from fleet.sim.asked import (
    ApiError,
    Asked,
    Parameters,
    Parts,
    checked_schema,
    service_tier_of,
    text_and_images,
    words_of,
)
from fleet.sim.produce import Produced

PARAMETERS = Parameters(
    simulated=words_of(
        "input model instructions text max_output_tokens reasoning stream stream_options store background service_tier "
        "prompt_cache_key"
    ),
    harmless=words_of(
        "temperature top_p user metadata safety_identifier prompt_cache_retention "
        "prompt_cache_options parallel_tool_calls truncation include max_tool_calls"
    ),
    refused=words_of(
        "tools tool_choice previous_response_id conversation background_options prompt top_logprobs image "
        "context_management moderation access_programs"
    ),
)

PARTS = Parts(text=words_of("input_text output_text"), image="input_image")


def read(body: Mapping[str, Any]) -> Asked:
    """A body of `POST /v1/responses`."""
    given = body.get("input")
    instructions = [str(body.get("instructions") or "")]
    prompt: list[str] = []
    images = 0
    if isinstance(given, str):
        prompt.append(given)
    elif isinstance(given, list):
        for number, item in enumerate(given):
            if not isinstance(item, dict) or item.get("type", "message") != "message":
                raise ApiError(400, f"Invalid value for 'input[{number}]'.", param=f"input[{number}]")
            text, pictures = text_and_images(item.get("content"), f"input[{number}].content", PARTS)
            images += pictures
            (instructions if item.get("role") in ("system", "developer") else prompt).append(text)
    else:
        raise ApiError(400, "Missing required parameter: 'input'.", param="input")
    form = (body.get("text") or {}).get("format") or {}
    schema: Mapping[str, Any] | None = None
    name = ""
    if form.get("type") == "json_schema":
        schema, name = checked_schema(form, "text.format")
    elif form.get("type") == "json_object":
        schema = {"type": "object"}
    background = body.get("background") is True
    if background and body.get("store") is False:
        raise ApiError(400, "Background mode needs a stored response: set 'store' to true.", param="store")
    if background and body.get("stream"):
        raise ApiError(
            400,
            "Streaming a response in the background is not simulated.",
            code="unsupported_parameter",
            param="stream",
        )
    return Asked(
        model=str(body.get("model", "")),
        instructions="\n".join(filter(None, instructions)),
        prompt="\n".join(prompt),
        image_tokens=images,
        schema=schema,
        schema_name=name,
        schema_text=json.dumps(schema) if name else "",
        max_output_tokens=body.get("max_output_tokens"),
        effort=(body.get("reasoning") or {}).get("effort"),
        stream=bool(body.get("stream")),
        store=body.get("store") is not False,
        background=background,
        service_tier=service_tier_of(body),
        cache_key=str(body.get("prompt_cache_key") or ""),
        body=body,
    )


def write(
    asked: Asked, produced: Produced, *, ident: str, model: str, created: int, served: str = "default"
) -> dict[str, Any]:
    """The `response` object; `served`: the service tier."""
    cut = produced.finish == "length"
    return {
        **_frame(asked, ident=ident, model=model, created=created),
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": [_message(ident, [_part(produced, produced.text)], "incomplete" if cut else "completed")],
        "usage": _usage(produced.usage),
        "service_tier": served,
    }


def unfinished(asked: Asked, status: str, *, ident: str, model: str, created: int) -> dict[str, Any]:
    """The `response` object of a call in the background that has not ended: `queued` or `in_progress`."""
    return {**_frame(asked, ident=ident, model=model, created=created), "status": status}


def failed(answer: Mapping[str, Any], code: str, message: str) -> dict[str, Any]:
    """What an unfinished response becomes when the model fails."""
    return {**answer, "status": "failed", "error": {"code": code, "message": message}}


def cancelled(answer: Mapping[str, Any], usage: Usage | None) -> dict[str, Any]:
    """What an unfinished response becomes when it is cancelled; usage where there was some."""
    return {**answer, "status": "cancelled", "usage": None if usage is None else _usage(usage)}


def events(asked: Asked, produced: Produced, pieces: list[str], answer: Mapping[str, Any]) -> Iterator[str]:
    """The answer as server-sent events, in the vendor's order."""
    number = -1

    def event(kind: str, **fields: Any) -> str:
        nonlocal number
        number += 1
        return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': number, **fields})}\n\n"

    ident = str(answer["id"]).removeprefix("resp_")
    started = _frame(asked, ident=ident, model=answer["model"], created=answer["created_at"])
    place = {"output_index": 0, "content_index": 0, "item_id": f"msg_{ident}"}
    refused = produced.finish == "refusal"
    field = "refusal" if refused else "text"
    stem = "response.refusal" if refused else "response.output_text"
    extra: dict[str, Any] = {} if refused else {"logprobs": []}
    yield (
        event("response.created", response=started)
        + event("response.in_progress", response=started)
        + event("response.output_item.added", output_index=0, item=_message(ident, [], "in_progress"))
        + event("response.content_part.added", **place, part=_part(produced, ""))
    )
    for piece in pieces:
        yield event(f"{stem}.delta", **place, delta=piece, **extra)
    last = "response.incomplete" if produced.finish == "length" else "response.completed"
    yield (
        event(f"{stem}.done", **place, **{field: produced.text}, **extra)
        + event("response.content_part.done", **place, part=_part(produced, produced.text))
        + event("response.output_item.done", output_index=0, item=answer["output"][0])
        + event(last, response=answer)
    )


def _frame(asked: Asked, *, ident: str, model: str, created: float) -> dict[str, Any]:
    body = asked.body
    return {
        "id": f"resp_{ident}",
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": asked.background,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": asked.max_output_tokens,
        "metadata": body.get("metadata") or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": asked.effort, "summary": None},
        "service_tier": asked.service_tier or "auto",
        "store": asked.store,
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": None,
        "user": body.get("user"),
    }


def _message(ident: str, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {"type": "message", "id": f"msg_{ident}", "status": status, "role": "assistant", "content": content}


def _part(produced: Produced, text: str) -> dict[str, Any]:
    if produced.finish == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total,
    }
