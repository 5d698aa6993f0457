"""A provider around another one: what is logged during a call names it, and each call is a span where spans are recorded.

Spans follow OpenTelemetry's semantic conventions for generative AI (client spans of inference, version 1.37 and later:
`chat MODEL`, `gen_ai.*`, `error.type`); messages are in them only where content was asked for. It decides nothing about calls.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from fleet import traces
from fleet.config import ProviderConfig
from fleet.providers.base import MAX_NAME, BatchProvider, Completion, ModelRequest, Provider, Started
from fleet.subject import about

#: Longest text of one message in a span.
MAX_CHARS = 50_000


class Traced:
    """`inner`, the account `name` at `address`, with its calls told of."""

    def __init__(self, inner: Provider, config: ProviderConfig, name: str, address: str) -> None:
        self._inner = inner
        parts = urlsplit(address)
        self._fixed: dict[str, traces.Value] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": config.kind,
            "tierfleet.provider": name,
            "server.address": parts.hostname or "",
            "server.port": parts.port or (80 if parts.scheme == "http" else 443),
        }

    @property
    def reattaches(self) -> bool:
        return self._inner.reattaches

    @property
    def says_default(self) -> bool:
        return self._inner.says_default

    @property
    def batches(self) -> BatchProvider | None:
        return self._inner.batches

    async def complete(self, request: ModelRequest, started: Started | None = None) -> Completion:
        with about(attempt=request.call_id):
            if not traces.recording():
                return await self._inner.complete(request, started)
            with traces.inside(f"chat {request.model}", kind="client") as span:
                self._ask(span, request)
                completion = await self._inner.complete(request, started)
                _answer(span, completion)
                return completion

    async def collect(self, handle: str, request: ModelRequest) -> Completion:
        with about(attempt=request.call_id), traces.inside(f"chat {request.model}", kind="client") as span:
            self._ask(span, request)
            span.note(collected=True)
            completion = await self._inner.collect(handle, request)
            _answer(span, completion)
            return completion

    async def cancel(self, handle: str) -> None:
        await self._inner.cancel(handle)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _ask(self, span: object, request: ModelRequest) -> None:
        if not isinstance(span, traces.Span):
            return
        span.attributes |= self._fixed
        span.attributes |= {
            "gen_ai.request.model": request.model,
            "gen_ai.request.max_tokens": request.max_output_tokens,
            "gen_ai.output.type": "text" if request.schema is None else "json",
            "tierfleet.call": request.call_id,
        }
        if not traces.content():
            return
        if request.conversation is not None:
            said = request.conversation.kept()["messages"]
            span.attributes["gen_ai.input.messages"] = json.dumps([_message(one) for one in said])
            return
        span.attributes["gen_ai.input.messages"] = _messages("user", request.prompt)
        if request.instructions:
            span.attributes["gen_ai.system_instructions"] = json.dumps([_part(request.instructions)])


def _answer(span: object, completion: Completion) -> None:
    if not isinstance(span, traces.Span):
        return
    usage = completion.usage
    span.attributes |= {
        "gen_ai.response.model": str(completion.model)[:MAX_NAME],
        "gen_ai.response.finish_reasons": (completion.finish,),
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "tierfleet.usage.reported": completion.usage_reported,
    }
    if completion.request_id is not None:
        span.attributes["tierfleet.provider.request"] = completion.request_id[:MAX_NAME]
    if traces.content():
        span.attributes["gen_ai.output.messages"] = _messages("assistant", completion.text, completion.finish)


def _messages(role: str, text: str, finish: str | None = None) -> str:
    """One message in the conventions' form."""
    message: dict[str, Any] = {"role": role, "parts": [_part(text)]}
    return json.dumps([message if finish is None else message | {"finish_reason": finish}])


def _message(said: dict[str, Any]) -> dict[str, Any]:
    """A message of a conversation; of its parts those that are no text are named."""
    content = said.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    told = [_part(part["text"]) if part["type"] == "text" else {"type": str(part["type"])} for part in parts]
    return {"role": said["role"], "parts": told}


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "content": text[:MAX_CHARS]}
