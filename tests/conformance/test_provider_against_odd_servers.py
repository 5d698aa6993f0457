"""What a provider makes of servers that are no good: each one a few bytes served over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from fleet.config import ProviderConfig
from fleet.errors import ProviderError
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.providers.openai import OpenAIProvider
from fleet.tokens import estimate_tokens

PROMPT = "How deep is the well behind the house?"


Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answered_by(
    answering: Answering, *, wire: Any = "chat", timeout_s: float = 10.0, started: Started | None = None
) -> Completion:
    """The provider's answer from a server that reads a request, then does as told, then closes."""

    async def call() -> Completion:
        ended = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            with suppress(ConnectionError):
                await answering(reader, writer)
                await writer.drain()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            ended.set()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            provider = OpenAIProvider(ProviderConfig(wire=wire), f"http://127.0.0.1:{port}/v1", "key")
            try:
                asked = ModelRequest("c", "m", PROMPT, timeout_s=timeout_s, background=started is not None)
                return await provider.complete(asked, started)
            finally:
                await provider.aclose()
                await asyncio.wait_for(ended.wait(), 10)

    return asyncio.run(call())


def served(raw: bytes, *, wire: Any = "chat", started: Started | None = None) -> Completion:
    async def answering(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return answered_by(answering, wire=wire, started=started)


def http(body: bytes, status: str = "200 OK", *, length: int | None = None, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(body) if length is None else length}\r\n\r\n".encode() + body


ANSWER = {"model": "m-1", "choices": [{"message": {"content": "Nine metres."}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": "many", "completion_tokens": 1},
        {"prompt_tokens": 12.5, "completion_tokens": 1},
        {"prompt_tokens": 12, "completion_tokens": None},
        {"prompt_tokens": 12},
        {"prompt_tokens": 12, "completion_tokens": 1, "prompt_tokens_details": [1]},
        [12, 1],
    ],
)
def test_without_usage_it_is_estimated_and_marked(usage: Any) -> None:
    """The answer is there and paid for: it is not asked for again because its usage cannot be read."""
    answer = served(http(json.dumps({**ANSWER, "usage": usage}).encode()))

    assert (answer.text, answer.usage_reported, answer.request_id) == ("Nine metres.", False, None)
    assert answer.usage.input_tokens == estimate_tokens(PROMPT)
    assert answer.usage.output_tokens == estimate_tokens("Nine metres.")


@pytest.mark.parametrize(
    "raw",
    [
        http(b"<html>Welcome</html>"),
        http(b"[]"),
        http(b"null"),
        http(b'{"choices": []}'),
        http(b'{"choices": [{"message": null, "finish_reason": "stop"}], "model": "m"}'),
        http(b'{"model": "m", "choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}'),
        http(b"\xff\xfe{}"),
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_what_is_no_answer_is_malformed(raw: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        served(raw)
    assert (caught.value.kind, caught.value.retryable, caught.value.maybe_billed) == ("malformed", True, True)


@pytest.mark.parametrize("raw", [b"", http(b'{"choices"', length=500), b"HTTP/1.1 200 OK\r\ncontent-le"])
def test_a_connection_that_ends_early_may_have_been_billed(raw: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        served(raw)
    assert (caught.value.kind, caught.value.retryable, caught.value.maybe_billed) == ("connection", True, True)


def test_an_answer_that_trickles_is_bounded_as_a_whole() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"", length=10_000))
        while not reader.at_eof():
            writer.write(b" ")
            await writer.drain()
            # Until the client hangs up, a byte each time it has sent nothing for a while.
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.05)

    with pytest.raises(ProviderError) as caught:
        answered_by(trickle, timeout_s=0.5)
    assert (caught.value.kind, caught.value.maybe_billed) == ("timeout", True)


def test_errors_without_a_json_body_are_told_by_their_status() -> None:
    with pytest.raises(ProviderError) as caught:
        served(http(b"<html>busy</html>", "503 Service Unavailable", headers="retry-after: 7\r\n"))
    assert (caught.value.kind, caught.value.retry_after) == ("overloaded", 7.0)


def test_a_failed_response_may_be_tried_again() -> None:
    failed = {"status": "failed", "error": {"code": "server_error", "message": "secret"}, "output": [], "model": "m"}
    with pytest.raises(ProviderError) as caught:
        served(http(json.dumps(failed).encode()), wire="responses")
    assert (caught.value.kind, caught.value.retryable) == ("server", True)
    assert "secret" not in str(caught.value)


def told_handles() -> tuple[list[str], Started]:
    handles: list[str] = []

    async def started(handle: str) -> None:
        handles.append(handle)

    return handles, started


def test_a_server_that_answers_at_once_what_was_to_run_in_the_background_is_not_asked_again() -> None:
    handles, started = told_handles()
    message = {"type": "message", "content": [{"type": "output_text", "text": "Nine metres."}]}
    answer = {"id": "resp_1", "status": "completed", "model": "m-1", "output": [message]}

    found = served(http(json.dumps(answer).encode()), wire="responses", started=started)

    assert (found.text, found.request_id, handles) == ("Nine metres.", "resp_1", ["resp_1"])


def test_a_call_in_the_background_that_failed_is_not_asked_for_again() -> None:
    handles, started = told_handles()
    failed = {"id": "resp_1", "status": "failed", "error": {"code": "invalid_prompt"}, "usage": {"total_tokens": 9}}

    with pytest.raises(ProviderError) as caught:
        served(http(json.dumps(failed).encode()), wire="responses", started=started)

    assert (caught.value.kind, caught.value.retryable, caught.value.maybe_billed) == ("bad_request", False, True)
    assert (caught.value.request_id, handles) == ("resp_1", ["resp_1"])


@pytest.mark.parametrize("handle", [None, 5, "", "../models", "a/b", "resp 1", "x\r\nhost: y", "r" * 300])
def test_what_cannot_be_a_handle_is_taken_for_none(handle: Any) -> None:
    handles, started = told_handles()

    with pytest.raises(ProviderError) as caught:
        served(http(json.dumps({"id": handle, "status": "queued"}).encode()), wire="responses", started=started)

    assert (caught.value.kind, caught.value.maybe_billed, handles) == ("malformed", True, [])


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/v1", "127.0.0.1:9/v1", "http://127.0.0.1:99999/v1"])
def test_an_address_that_cannot_be_is_no_traceback(url: str) -> None:
    async def call() -> None:
        provider = OpenAIProvider(ProviderConfig(wire="chat"), url, "key")
        try:
            await provider.complete(ModelRequest("c", "m", PROMPT, timeout_s=5.0))
        finally:
            await provider.aclose()

    with pytest.raises(ProviderError) as caught:
        asyncio.run(call())
    assert (caught.value.kind, caught.value.maybe_billed) == ("connection", False)


def test_a_refusal_with_odd_headers_is_read_all_the_same() -> None:
    with pytest.raises(ProviderError) as caught:
        served(http(b"{}", "429 Too Many Requests", headers="retry-after: 3\r\nx-message: 请求过多\r\n"))
    assert (caught.value.kind, caught.value.retry_after) == ("rate_limit", 3.0)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_proxy_that_refuses_has_seen_no_key(monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str) -> None:
    heads: list[bytes] = []

    async def call() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            monkeypatch.setenv(variable, f"{scheme}127.0.0.1:{server.sockets[0].getsockname()[1]}")
            provider = OpenAIProvider(ProviderConfig(wire="chat"), "https://vendor.invalid/v1", "sk-secret")
            try:
                await provider.complete(ModelRequest("c", "m", PROMPT, timeout_s=5.0))
            finally:
                await provider.aclose()

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with pytest.raises(ProviderError) as caught:
        asyncio.run(call())
    assert (caught.value.kind, caught.value.maybe_billed) == ("connection", False)
    assert [head.split()[:2] for head in heads] == [[b"CONNECT", b"vendor.invalid:443"]]
    assert b"sk-secret" not in heads[0]
