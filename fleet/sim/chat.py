"""The chat completions wire of the simulated provider: reading its requests, writing its answers and chunks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fleet.sim import conversation, functions
from fleet.sim.asked import ApiError, Asked, Parameters, checked_schema, service_tier_of, words_of
from fleet.sim.produce import Produced

MAX_STOPS = 4
PARAMETERS = Parameters(
    simulated=words_of(
        "messages model response_format max_tokens max_completion_tokens reasoning_effort stream stream_options stop "
        "tools tool_choice parallel_tool_calls service_tier prompt_cache_key"
    ),
    harmless=words_of(
        "temperature top_p seed user metadata store safety_identifier verbosity "
        "prompt_cache_retention prompt_cache_options presence_penalty frequency_penalty logit_bias"
    ),
    refused=words_of(
        "functions function_call n audio modalities logprobs top_logprobs prediction web_search_options moderation"
    ),
)


def read(body: Mapping[str, Any]) -> Asked:
    """A body of `POST /v1/chat/completions`."""
    said = conversation.read(body.get("messages"))
    form = body.get("response_format") or {}
    schema: Mapping[str, Any] | None = None
    name = ""
    if form.get("type") == "json_schema":
        schema, name = checked_schema(form.get("json_schema") or {}, "response_format.json_schema")
    elif form.get("type") == "json_object":
        schema = {"type": "object"}
    stream = bool(body.get("stream"))
    if body.get("stream_options") is not None and not stream:
        said_so = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise ApiError(400, said_so, param="stream_options")
    offer = functions.read(body)
    billed = [json.dumps(part) for part in (body.get("tools"), schema if name else None) if part]
    return Asked(
        model=str(body.get("model", "")),
        instructions=said.instructions,
        prompt=said.prompt,
        image_tokens=said.image_tokens,
        schema=schema,
        schema_name=name,
        schema_text="\n".join(billed),
        offer=offer,
        question=said.question,
        results=said.results,
        stop=_stops(body.get("stop")),
        max_output_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        effort=body.get("reasoning_effort"),
        stream=stream,
        service_tier=service_tier_of(body),
        cache_key=str(body.get("prompt_cache_key") or ""),
        stream_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        body=body,
    )


def write(produced: Produced, *, ident: str, model: str, created: int, served: str = "default") -> dict[str, Any]:
    """The `chat.completion` object; `served`: the service tier."""
    refused = produced.finish == "refusal"
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if refused or produced.calls else produced.text,
        "refusal": produced.text if refused else None,
        "annotations": [],
    }
    if produced.calls:
        message["tool_calls"] = [
            {
                "id": _call_id(ident, number),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(produced.calls)
        ]
    return {
        "id": f"chatcmpl-{ident}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(produced)}],
        "usage": _usage(produced),
        "service_tier": served,
        "system_fingerprint": None,
    }


def chunks(
    asked: Asked, produced: Produced, pieces: Callable[[str], list[str]], answer: Mapping[str, Any]
) -> Iterator[str]:
    """The answer as server-sent events: a role, one event per piece of it, the finish, the usage, `[DONE]`.

    `pieces` cuts a text. Of a call the first event has the id and the name, the others have pieces of its arguments.
    """

    def event(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> str:
        chunk = {
            "id": answer["id"],
            "object": "chat.completion.chunk",
            "created": answer["created"],
            "model": answer["model"],
            "service_tier": answer["service_tier"],
            "system_fingerprint": None,
            "choices": choices,
        }
        if asked.stream_usage:
            chunk["usage"] = usage
        return f"data: {json.dumps(chunk)}\n\n"

    def choice(delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    if produced.calls:
        yield event(choice({"role": "assistant", "content": None, "refusal": None}))
        for number, call in enumerate(answer["choices"][0]["message"]["tool_calls"]):
            begun = {**call, "function": {**call["function"], "arguments": ""}}
            yield event(choice({"tool_calls": [{"index": number, **begun}]}))
            for piece in pieces(call["function"]["arguments"]):
                yield event(choice({"tool_calls": [{"index": number, "function": {"arguments": piece}}]}))
    else:
        part = "refusal" if produced.finish == "refusal" else "content"
        yield event(choice({"role": "assistant", part: ""}))
        for piece in pieces(produced.text):
            yield event(choice({part: piece}))
    last = event(choice({}, _reason(produced)))
    if asked.stream_usage:
        last += event([], answer["usage"])
    yield last + "data: [DONE]\n\n"


def _stops(given: Any) -> tuple[str, ...]:
    """The `stop` of a request: a text, or up to four."""
    stops = [given] if isinstance(given, str) else given or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ApiError(
            400,
            "Invalid type for 'stop': expected a string or an array of strings.",
            code="invalid_type",
            param="stop",
        )
    if len(stops) > MAX_STOPS:
        raise ApiError(
            400,
            f"Invalid 'stop': array too long. Expected an array with maximum length {MAX_STOPS}, but got an array with "
            f"length {len(stops)} instead.",
            code="array_above_max_length",
            param="stop",
        )
    return tuple(filter(None, stops))


def _call_id(ident: str, number: int) -> str:
    """As long as the vendor's."""
    return f"call_{ident[:22]}{number:02d}"


def _reason(produced: Produced) -> str:
    return "stop" if produced.finish == "refusal" else produced.finish


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
