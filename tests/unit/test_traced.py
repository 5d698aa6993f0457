"""What a provider's calls are about, for whoever logs during them, and conversations in spans."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from fleet import traces
from fleet.config import ProviderConfig
from fleet.conversation import Conversation
from fleet.prices import Usage
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.providers.traced import Traced
from fleet.subject import about, subject
from fleet.traces import Span, flat


class Inner:
    """A provider that notes what its calls are about."""

    reattaches = True
    says_default = True
    batches = None

    def __init__(self) -> None:
        self.about: list[Mapping[str, str]] = []
        self.batches = None

    async def complete(self, request: ModelRequest, started: Started | None = None) -> Completion:
        self.about.append(dict(subject()))
        return Completion("said", "stop", Usage(), True, "m" * 1_000, "r" * 1_000)

    async def collect(self, handle: str, request: ModelRequest) -> Completion:
        return await self.complete(request)

    async def cancel(self, handle: str) -> None:
        pass

    async def aclose(self) -> None:
        pass


def test_a_call_is_about_its_attempt_whether_or_not_it_is_recorded() -> None:
    inner = Inner()
    provider = Traced(inner, ProviderConfig(), "openai", "https://vendor.test/v1")
    request = ModelRequest("j1/a/0.7.1", "m", "asked")
    spans: list[Span] = []

    async def main() -> None:
        with about(job="j1", subtask="j1/a/0"):
            await provider.complete(request)
            traces.record_with(spans.append)
            try:
                with traces.claimed("subtask", "j1/a/0", "nano"):
                    await provider.complete(request)
                    await provider.collect("handle", request)
            finally:
                traces.record_with(None)
            assert "attempt" not in subject()

    asyncio.run(main())
    assert inner.about == [{"job": "j1", "subtask": "j1/a/0", "attempt": "j1/a/0.7.1"}] * 3
    _, called, collected = flat(spans[0])
    assert called.attributes["server.port"] == 443
    assert len(str(called.attributes["gen_ai.response.model"])) == 200
    assert "tierfleet.collected" not in called.attributes
    assert collected.attributes["tierfleet.collected"] is True
    assert "gen_ai.input.messages" not in called.attributes


def test_a_conversation_is_told_by_its_texts_alone() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": [{"type": "text", "text": "what is it?"}, picture]},
    ]
    request = ModelRequest("c", "m", "", conversation=Conversation.of({"messages": messages}))
    spans: list[Span] = []

    async def main() -> None:
        traces.record_with(spans.append, content=True)
        try:
            with traces.claimed("subtask", "j1/a/0", "nano"):
                await Traced(Inner(), ProviderConfig(), "openai", "http://127.0.0.1:1/v1").complete(request)
        finally:
            traces.record_with(None)

    asyncio.run(main())
    (call,) = spans[0].children
    assert json.loads(str(call.attributes["gen_ai.input.messages"])) == [
        {"role": "system", "parts": [{"type": "text", "content": "rules"}]},
        {"role": "user", "parts": [{"type": "text", "content": "what is it?"}, {"type": "image_url"}]},
    ]
