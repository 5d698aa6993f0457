"""The chat completions wire of the simulated provider: reading its requests, writing its answers and chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fleet.sim.asked import ApiError, Asked, Parameters, checked_schema, text_and_images, words_of
from fleet.sim.produce import Produced

PARAMETERS = Parameters(
    simulated=words_of(
        "messages model response_format max_tokens max_completion_tokens reasoning_effort stream stream_options"
    ),
    harmless=words_of(
        "temperature top_p seed user metadata store service_tier safety_identifier prompt_cache_key verbosity "
        "prompt_cache_retention prompt_cache_options parallel_tool_calls presence_penalty frequency_penalty"
    ),
    refused=words_of(
        "tools tool_choice functions function_call n audio modalities logprobs top_logprobs logit_bias stop prediction "
        "web_search_options moderation"
    ),
)


def read(body: Mapping[str, Any]) -> Asked:
    """A body of `POST /v1/chat/completions`."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "Missing required parameter: 'messages'.", param="messages")
    instructions: list[str] = []
    prompt: list[str] = []
    images = 0
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ApiError(400, f"Invalid type for 'messages[{number}]'.", param=f"messages[{number}]")
        text, pictures = text_and_images(message.get("content"), f"messages[{number}].content")
        images += pictures
        (instructions if message.get("role") in ("system", "developer") else prompt).append(text)
    form = body.get("response_format") or {}
    schema: Mapping[str, Any] | None = None
    name = ""
    if form.get("type") == "json_schema":
        schema, name = checked_schema(form.get("json_schema") or {}, "response_format.json_schema")
    elif form.get("type") == "json_object":
        schema = {"type": "object"}
    return Asked(
        model=str(body.get("model", "")),
        instructions="\n".join(instructions),
        prompt="\n".join(prompt),
        image_tokens=images,
        schema=schema,
        schema_name=name,
        schema_text=json.dumps(schema) if name else "",
        max_output_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        effort=body.get("reasoning_effort"),
        stream=bool(body.get("stream")),
        stream_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        body=body,
    )


def write(produced: Produced, *, ident: str, model: str, created: int) -> dict[str, Any]:
    """The `chat.completion` object."""
    refused = produced.finish == "refusal"
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if refused else produced.text,
        "refusal": produced.text if refused else None,
        "annotations": [],
    }
    return {
        "id": f"chatcmpl-{ident}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(produced)}],
        "usage": _usage(produced),
        "service_tier": "default",
        "system_fingerprint": None,
    }


def chunks(asked: Asked, produced: Produced, pieces: list[str], answer: Mapping[str, Any]) -> Iterator[str]:
    """The answer as server-sent events: a role, one event per piece of text, the finish, the usage, `[DONE]`."""

    def event(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> str:
        chunk = {
            "id": answer["id"],
            "object": "chat.completion.chunk",
            "created": answer["created"],
            "model": answer["model"],
            "service_tier": "default",
            "system_fingerprint": None,
            "choices": choices,
        }
        if asked.stream_usage:
            chunk["usage"] = usage
        return f"data: {json.dumps(chunk)}\n\n"

    def choice(delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    part = "refusal" if produced.finish == "refusal" else "content"
    yield event(choice({"role": "assistant", part: ""}))
    for piece in pieces:
        yield event(choice({part: piece}))
    last = event(choice({}, _reason(produced)))
    if asked.stream_usage:
        last += event([], answer["usage"])
    yield last + "data: [DONE]\n\n"


def _reason(produced: Produced) -> str:
    return "length" if produced.finish == "length" else "stop"


def _usage(produced: Produced) -> dict[str, Any]:
    usage = produced.usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
