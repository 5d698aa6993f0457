"""The two protocols OpenAI-compatible vendors speak, as pure translations: a request to a body, an answer to findings.

They know no connection and no key; what an answer lacks is said by exceptions of Python's own (KeyError, TypeError,
IndexError), which the provider reports as a malformed answer.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fleet.conversation import Conversation
from fleet.prices import Usage
from fleet.providers.base import MAX_NAME, Image, ModelRequest
from fleet.providers.structured import is_strict

#: A name that a vendor gives something.
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,40}")


class FailedAnswerError(Exception):
    """The vendor answered with a status that says it failed; the text is its error code.

    Args:
        code: the vendor's error code, or the status itself.
        billed: whether the vendor states usage.
    """

    def __init__(self, code: str, *, billed: bool = False) -> None:
        super().__init__(code)
        self.billed = billed


@dataclass(frozen=True, slots=True)
class Found:
    """What an answer's body says."""

    text: str
    finish: Literal["stop", "length", "refusal", "empty"]
    #: `None` when the vendor did not report it.
    usage: Usage | None
    model: str
    #: The service tier that it was answered with, as the vendor names it.
    service_tier: str | None = None
    #: The answer as the chat protocol has it, and the vendor's word for why it ended.
    message: Mapping[str, Any] | None = None
    reason: str | None = None


class Wire(Protocol):
    """One protocol: where requests go and how both sides are written."""

    #: Below the base URL.
    path: str

    def body(self, request: ModelRequest) -> dict[str, Any]:
        """The JSON body of a request."""

    def read(self, answer: Mapping[str, Any]) -> Found:
        """What the JSON body of an answer says.

        Raises:
            FailedAnswerError: the vendor says it failed.
            KeyError, TypeError, IndexError, AttributeError: it is not an answer of this protocol.
        """


class ResponsesWire:
    """The Responses API. Source: the vendor's API reference, "Create a model response"."""

    path = "/responses"

    def body(self, request: ModelRequest) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "input_text", "text": request.prompt}]
        content += [{"type": "input_image", "image_url": data_url(image), "detail": "auto"} for image in request.images]
        body: dict[str, Any] = {
            "model": request.model,
            "input": [{"role": "user", "content": content}] if request.images else request.prompt,
            "max_output_tokens": request.max_output_tokens,
            # The fleet keeps its own record; nothing of it stays with the vendor but what is still to be collected.
            "store": request.background,
        }
        if request.background:
            body["background"] = True
        body |= _served(request)
        if request.instructions:
            body["instructions"] = request.instructions
        if request.schema is not None:
            body["text"] = {"format": {"type": "json_schema", **_format(request, request.schema)}}
        if request.reasoning_effort is not None:
            body["reasoning"] = {"effort": request.reasoning_effort}
        return body

    def read(self, answer: Mapping[str, Any]) -> Found:
        status = answer.get("status", "completed")
        if status not in ("completed", "incomplete"):
            code = str((answer.get("error") or {}).get("code") or status)
            raise FailedAnswerError(code, billed=bool((answer.get("usage") or {}).get("total_tokens")))
        parts = [part for item in answer["output"] if item["type"] == "message" for part in item["content"]]
        text = "".join(part["text"] for part in parts if part["type"] == "output_text")
        refusal = "".join(part["refusal"] for part in parts if part["type"] == "refusal")
        cut = (answer.get("incomplete_details") or {}).get("reason") if status == "incomplete" else None
        return Found(
            text=text or refusal,
            finish=_finish(text, refused=bool(refusal) or cut == "content_filter", cut=cut is not None),
            usage=_usage(answer.get("usage"), "input", "output"),
            model=str(answer["model"])[:MAX_NAME],
            service_tier=_service_tier(answer),
        )


class ChatWire:
    """Chat completions. Source: the vendor's API reference, "Create chat completion".

    Args:
        limit_name: the parameter that bounds the output: `max_completion_tokens` with the vendor who defined the
            protocol (its reasoning models take no other), `max_tokens` with those who followed.
    """

    path = "/chat/completions"

    def __init__(self, limit_name: Literal["max_tokens", "max_completion_tokens"]) -> None:
        self._limit_name = limit_name

    def body(self, request: ModelRequest) -> dict[str, Any]:
        if request.conversation is not None:
            return self._passed_on(request, request.conversation)
        content: list[dict[str, Any]] = [{"type": "text", "text": request.prompt}]
        content += [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in request.images]
        messages: list[dict[str, Any]] = []
        if request.instructions:
            messages.append({"role": "system", "content": request.instructions})
        messages.append({"role": "user", "content": content if request.images else request.prompt})
        body: dict[str, Any] = {
            "model": request.model,
            "messages": messages,
            self._limit_name: request.max_output_tokens,
        } | _served(request)
        if request.schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": _format(request, request.schema)}
        if request.reasoning_effort is not None:
            body["reasoning_effort"] = request.reasoning_effort
        return body

    def read(self, answer: Mapping[str, Any]) -> Found:
        choice = answer["choices"][0]
        message, reason = choice["message"], choice["finish_reason"]
        text, refusal = message.get("content") or "", message.get("refusal") or ""
        return Found(
            text=text or refusal,
            finish=_finish(text, refused=bool(refusal) or reason == "content_filter", cut=reason == "length"),
            usage=_usage(answer.get("usage"), "prompt", "completion"),
            model=str(answer["model"])[:MAX_NAME],
            service_tier=_service_tier(answer),
            message=message,
            reason=reason,
        )

    def _passed_on(self, request: ModelRequest, conversation: Conversation) -> dict[str, Any]:
        body = {"model": request.model, self._limit_name: request.max_output_tokens, **conversation.body()}
        body |= _served(request)
        if request.reasoning_effort is not None:
            body.setdefault("reasoning_effort", request.reasoning_effort)
        return body


def _served(request: ModelRequest) -> dict[str, Any]:
    """How it is to be served, alike on both wires."""
    asked = {"service_tier": request.service_tier, "prompt_cache_key": request.cache_key}
    return {name: value for name, value in asked.items() if value is not None}


def data_url(image: Image) -> str:
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


def _format(request: ModelRequest, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": request.schema_name, "schema": schema, "strict": is_strict(schema)}


def _finish(text: str, *, refused: bool, cut: bool) -> Literal["stop", "length", "refusal", "empty"]:
    if refused:
        return "refusal"
    if cut:
        return "length"
    return "stop" if text.strip() else "empty"


def _usage(usage: Any, given: str, written: str) -> Usage | None:
    """What a vendor reports; None where it reports nothing, no numbers, or less than nothing, which nobody can be billed for.

    The answer is there and paid for, whatever they are: it is not asked for again for them. `cache_write_tokens` is what the
    vendors who bill it call it in either protocol.
    """
    if not isinstance(usage, Mapping) or f"{given}_tokens" not in usage:
        return None
    try:
        of_input = usage.get(f"{given}_tokens_details") or {}
        found = Usage(
            input_tokens=usage[f"{given}_tokens"],
            cached_tokens=of_input.get("cached_tokens") or 0,
            output_tokens=usage[f"{written}_tokens"],
            reasoning_tokens=(usage.get(f"{written}_tokens_details") or {}).get("reasoning_tokens") or 0,
            cache_write_tokens=of_input.get("cache_write_tokens") or 0,
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    parts = (found.cached_tokens, found.cache_write_tokens, found.output_tokens, found.reasoning_tokens)
    whole = found.cached_tokens + found.cache_write_tokens <= found.input_tokens
    return found if whole and min(parts) >= 0 else None


def _service_tier(answer: Mapping[str, Any]) -> str | None:
    told = answer.get("service_tier")
    return told if isinstance(told, str) and _WORD.fullmatch(told) else None
