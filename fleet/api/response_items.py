"""OpenAI's responses and the chat form beneath: a request becomes a conversation, an accepted reply becomes output items.

Pure translations (the vendor's API reference, "Responses"). They know no store and no tier.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from fleet.api.openai_errors import OpenAIError
from fleet.api.parameters import wrong
from fleet.config import Frozen
from fleet.conversation import Conversation, Lenient, Metadata, Name, Truth
from fleet.prices import Usage

_PARTS = {"input_text": "text", "output_text": "text", "text": "text"}


class ResponseFunction(Frozen):
    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Truth | None = None


class NamedResponseFunction(Frozen):
    type: Literal["function"]
    name: Name


class ResponseFormat(Frozen):
    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: Truth | None = None


class ResponseText(Frozen):
    format: ResponseFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Lenient):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseRequest(Frozen):
    """A request as OpenAI's clients send it. `metadata.kind` names the kind of work, by which the fleet keeps its figures."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: str | Annotated[tuple[dict[str, Any], ...], Field(min_length=1, max_length=2_048)]
    instructions: str | None = None
    text: ResponseText | None = None
    tools: Annotated[tuple[ResponseFunction, ...], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedResponseFunction | None = None
    parallel_tool_calls: Truth | None = None
    max_output_tokens: Annotated[int, Field(strict=True, ge=16, le=200_000)] | None = None
    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    reasoning: Reasoning | None = None
    metadata: Metadata | None = None
    previous_response_id: Annotated[str, Field(max_length=100)] | None = None
    store: Truth | None = None
    background: Truth | None = None
    stream: Truth | None = None
    stream_options: dict[str, Any] | None = None
    include: Annotated[tuple[str, ...], Field(max_length=0)] | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None

    def echo(self) -> dict[str, Any]:
        """What a response repeats of its request."""
        given = self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={"input", "model", "stream", "stream_options"}
        )
        return given | {"object": "response", "store": self.store is not False, "background": bool(self.background)}


def chat_of(asked: ResponseRequest, before: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What a request asks for, in the form of a conversation; `before`: the messages of the response that it follows.

    Raises:
        OpenAIError: 400, an item of the input cannot be passed on.
    """
    messages: list[Mapping[str, Any]] = []
    if asked.instructions:
        messages.append({"role": "system", "content": asked.instructions})
    messages += before
    messages += [{"role": "user", "content": asked.input}] if isinstance(asked.input, str) else _messages(asked.input)
    chat: dict[str, Any] = {
        "messages": messages,
        "tools": [_tool(tool) for tool in asked.tools] if asked.tools else None,
        "tool_choice": _choice(asked.tool_choice),
        "parallel_tool_calls": asked.parallel_tool_calls if asked.tools else None,
        "response_format": _format(asked.text),
        "verbosity": asked.text and asked.text.verbosity,
        "max_completion_tokens": asked.max_output_tokens,
        "reasoning_effort": asked.reasoning and asked.reasoning.effort,
    }
    for name in ("temperature", "top_p", "user", "safety_identifier", "prompt_cache_key"):
        chat[name] = getattr(asked, name)
    return chat


def conversation_of(chat: Mapping[str, Any]) -> Conversation:
    """The conversation of that form. Raises OpenAIError: 400, it is none."""
    try:
        return Conversation.model_validate(chat)
    except ValidationError as error:
        raise wrong(error, chat) from None


def output_of(job_id: str, reply: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The output items of an accepted reply."""
    message = reply["message"]
    status = "incomplete" if reply["finish_reason"] == "length" else "completed"
    content: list[dict[str, Any]] = []
    if message["content"]:
        content.append({"type": "output_text", "text": message["content"], "annotations": [], "logprobs": []})
    if message["refusal"]:
        content.append({"type": "refusal", "refusal": message["refusal"]})
    items: list[dict[str, Any]] = []
    if content or not message.get("tool_calls"):
        said = {"id": f"msg_{job_id}", "type": "message", "role": "assistant", "status": status, "content": content}
        items.append(said)
    for number, call in enumerate(message.get("tool_calls", ())):
        items.append(
            {
                "id": f"fc_{number}_{job_id}",
                "type": "function_call",
                "status": status,
                "call_id": call["id"],
                **call["function"],
            }
        )
    return items


def usage_of(usage: Usage) -> dict[str, Any]:
    """Usage as responses tell it."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total,
    }


def _messages(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        where = f"input[{number}]"
        match item.get("type", "message"):
            case "message":
                messages.append(
                    {"role": item.get("role"), "content": _content(item.get("content"), f"{where}.content")}
                )
            case "function_call":
                call = {name: item.get(name) for name in ("name", "arguments")}
                called = {"id": item.get("call_id"), "type": "function", "function": call}
                if messages and "tool_calls" in messages[-1]:  # they were asked for together
                    messages[-1]["tool_calls"].append(called)
                else:
                    messages.append({"role": "assistant", "content": None, "tool_calls": [called]})
            case "function_call_output":
                said = _content(item.get("output"), f"{where}.output")
                messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": said})
            case "reasoning":  # a model's own, which is of no use to another
                continue
            case other:
                message = f"Items of type '{str(other)[:60]}' are none of what a fleet passes on."
                raise OpenAIError(400, message, param=where, code="unsupported_value")
    return messages


def _content(content: Any, where: str) -> Any:
    if not isinstance(content, list):
        return content
    parts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _PARTS:
            parts.append({"type": "text", "text": part.get("text")})
        elif kind == "input_image":
            image = {"url": part.get("image_url"), "detail": part.get("detail")}
            parts.append({"type": "image_url", "image_url": image})
        elif kind == "refusal":
            parts.append({"type": "refusal", "refusal": part.get("refusal")})
        else:
            message = f"Parts of type '{str(kind)[:60]}' are none of what a fleet passes on."
            raise OpenAIError(400, message, param=f"{where}[{number}]", code="unsupported_value")
    return parts


def _tool(tool: ResponseFunction) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude_none=True, exclude={"type"})}


def _choice(choice: str | NamedResponseFunction | None) -> Any:
    if isinstance(choice, NamedResponseFunction):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _format(text: ResponseText | None) -> dict[str, Any] | None:
    if text is None or text.format is None or text.format.type == "text":
        return None
    if text.format.type == "json_object":
        return {"type": "json_object"}
    named = text.format.model_dump(by_alias=True, exclude_none=True, exclude={"type"})
    return {"type": "json_schema", "json_schema": named}


def event(kind: str, number: int, fields: Mapping[str, Any]) -> bytes:
    """One event of a stream on the wire."""
    data = {"type": kind, "sequence_number": number, **fields}
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
