"""The call that every row makes: one chat completion of a mock provider, through the official client or by hand.

Settings come from the environment, because the queues import their tasks by name: `BENCH_SERVER_URL` (up to and with `/v1`),
`BENCH_API_KEY` (a proxy asks for it) and `BENCH_REDIS_URL`. It knows no queue; it may import nothing of the fleet.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections import deque
from functools import cache
from typing import Any

import aiohttp
from openai import AsyncOpenAI, DefaultAioHttpClient, DefaultHttpxClient, OpenAI

SERVER = os.environ.get("BENCH_SERVER_URL", "http://127.0.0.1:1/v1")
KEY = os.environ.get("BENCH_API_KEY", "none")
REDIS = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:1/0")
PROMPT = "Say something. " * 50
MESSAGES: Any = [{"role": "user", "content": PROMPT}]
MOST_TOKENS = 200

# A line of log for each call would be part of what is measured, where a tool logs at INFO.
logging.getLogger("httpx2").setLevel(logging.WARNING)

_idle: deque[OpenAI] = deque()


async def call() -> int:
    """With the client's best transport, which the tasks of one process share; the tokens it used."""
    return await call_with(_shared())


@cache
def _shared() -> AsyncOpenAI:
    return async_client("aiohttp")


def call_sync() -> int:
    """The same for a task that is no coroutine.

    A client for each that runs at a time: of one for all, the HTTP client goes through every connection at every call.
    """
    client = _idle.pop() if _idle else _sync_client()
    try:
        answer = client.chat.completions.create(model="mock", messages=MESSAGES, max_tokens=MOST_TOKENS)
    finally:
        _idle.append(client)
    assert answer.usage is not None
    return answer.usage.total_tokens


def _sync_client() -> OpenAI:
    http = DefaultHttpxClient(verify=_tls())
    return OpenAI(api_key=KEY, base_url=SERVER, max_retries=0, timeout=60, http_client=http)


@cache
def _tls() -> ssl.SSLContext:
    """What costs most of making a client."""
    return ssl.create_default_context()


def async_client(transport: str) -> AsyncOpenAI:
    """`transport` is "aiohttp" or the client's "default"."""
    http = DefaultAioHttpClient() if transport == "aiohttp" else None
    return AsyncOpenAI(api_key=KEY, base_url=SERVER, max_retries=0, timeout=60, http_client=http)


async def call_with(client: AsyncOpenAI) -> int:
    """One call of a client; the tokens it used."""
    answer = await client.chat.completions.create(model="mock", messages=MESSAGES, max_tokens=MOST_TOKENS)
    assert answer.usage is not None
    return answer.usage.total_tokens


async def call_by_hand(session: aiohttp.ClientSession) -> int:
    """One call without the official client: the least that Python can do."""
    body = {"model": "mock", "messages": MESSAGES, "max_tokens": MOST_TOKENS}
    async with session.post(
        f"{SERVER}/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}
    ) as answer:
        return int((await answer.json())["usage"]["total_tokens"])
