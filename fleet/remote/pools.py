"""Connections to one API, and ways to wait: all in which the two faces of the client differ.

It owns timeouts and what every request carries; it knows no route, no retry and no meaning of an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import httpx2

T = TypeVar("T")

#: Seconds for a connection, and for each piece of a body to go.
CONNECT_S, WRITE_S = 10.0, 60.0
#: A proxy is not asked for what is on this machine, whatever the environment says of proxies: it would get the key.
OWN_MACHINE: dict[str, None] = {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request."""

    method: str = "GET"
    #: Below the API's address.
    path: str
    #: JSON.
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: The media type of the answer; one of another type is none of the API's.
    media: str = "application/json"
    #: Longest silence before the answer, or between two pieces of it, in seconds.
    silence_s: float = 60.0
    #: The moment (monotonic) after which nothing is waited for, nor tried again.
    until: float | None = None

    @property
    def late(self) -> bool:
        return self.until is not None and time.monotonic() >= self.until

    def built(self, client: httpx2.Client | httpx2.AsyncClient) -> httpx2.Request:
        """As a request of `client`."""
        silence_s = (
            self.silence_s if self.until is None else min(self.silence_s, max(0.001, self.until - time.monotonic()))
        )
        headers = {"Accept": self.media, **self.headers}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        timeout = httpx2.Timeout(connect=CONNECT_S, write=WRITE_S, read=silence_s, pool=CONNECT_S)
        return client.build_request(self.method, self.path, content=self.body, headers=headers, timeout=timeout)


class Pool(Protocol):
    """What the client awaits. Errors: `httpx2.TransportError` when no answer came."""

    async def send(self, asked: Asked, *, stream: bool) -> httpx2.Response:
        """The answer; of a `stream` that went well, without its body."""

    def chunks(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        """The body of a streamed answer as it comes."""

    async def drop(self, response: httpx2.Response) -> None:
        """Let go of a streamed answer."""

    async def sleep(self, seconds: float) -> None: ...

    async def aside(self, work: Callable[[], T]) -> T:
        """What `work`, which reads files, returns."""

    async def aclose(self) -> None: ...


class LoopPool:
    """Suspends: for code that runs on an event loop."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._client = httpx2.AsyncClient(**_settings(url, headers))

    async def send(self, asked: Asked, *, stream: bool) -> httpx2.Response:
        response = await self._client.send(asked.built(self._client), stream=stream)
        if stream and not response.is_success:
            await response.aread()
        return response

    def chunks(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        return response.aiter_bytes()

    async def drop(self, response: httpx2.Response) -> None:
        await response.aclose()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def aside(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)

    async def aclose(self) -> None:
        await self._client.aclose()


class BlockingPool:
    """Blocks its thread and never suspends, so a coroutine over it runs to its end in one step. Threads may share it."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._client = httpx2.Client(**_settings(url, headers))

    async def send(self, asked: Asked, *, stream: bool) -> httpx2.Response:
        response = self._client.send(asked.built(self._client), stream=stream)
        if stream and not response.is_success:
            response.read()
        return response

    async def chunks(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        for chunk in response.iter_bytes():
            yield chunk

    async def drop(self, response: httpx2.Response) -> None:
        response.close()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  there is no loop to hold up

    async def aside(self, work: Callable[[], T]) -> T:
        return work()

    async def aclose(self) -> None:
        self._client.close()


def _settings(url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "base_url": url,
        "headers": dict(headers),
        "mounts": OWN_MACHINE,
        # A stream keeps its connection for as long as a job runs.
        "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=20),
    }
