"""Both faces of the client under one set of tests, and an HTTP server that answers from a script."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fleet import AsyncClient, Client

#: What the tests are run with: the face by its name.
FACES = ("blocking", "on a loop")


@dataclass(frozen=True)
class Face:
    """One face; what it is asked is given as a call of its method."""

    name: str

    @contextlib.asynccontextmanager
    async def client(self, url: str, key: str | None = None) -> AsyncIterator[Any]:
        if self.name == "blocking":
            with Client(url, key) as client:
                yield client
        else:
            async with AsyncClient(url, key) as client:
                yield client

    async def do(self, call: Callable[[], Any]) -> Any:
        """What `call` gives, wherever it blocks."""
        found = await asyncio.to_thread(call)
        return await found if inspect.isawaitable(found) else found

    async def all(self, call: Callable[[], Any]) -> list[Any]:
        """What an iterator gives, to its end."""
        return [one async for one in self.each(call)]

    async def each(self, call: Callable[[], Any]) -> AsyncIterator[Any]:
        found = call()
        if self.name == "on a loop":
            async with contextlib.aclosing(found):
                async for one in found:
                    yield one
            return
        end = object()
        try:
            while (one := await asyncio.to_thread(next, found, end)) is not end:
                yield one
        finally:
            await asyncio.to_thread(found.close)

    async def receipt(self, job: Any) -> Any:
        """The one method that is called differently."""
        return await self.do(lambda: job.receipt if self.name == "blocking" else job.receipt())


@dataclass(frozen=True)
class Reply:
    """An answer: status, headers, body; `cut`: the connection breaks after it, before the end that was promised."""

    status: int = 200
    body: bytes = b""
    media: str = "application/json"
    headers: tuple[str, ...] = ()
    cut: bool = False

    def written(self) -> bytes:
        length = len(self.body) + (100 if self.cut else 0)
        head = [
            f"HTTP/1.1 {self.status} X",
            f"Content-Type: {self.media}",
            f"Content-Length: {length}",
            "Connection: close",
        ]
        return "\r\n".join([*head, *self.headers, "", ""]).encode() + self.body


def problem(status: int, detail: str, *headers: str) -> Reply:
    body = json.dumps({"status": status, "title": "X", "detail": detail}).encode()
    return Reply(status, body, "application/problem+json", headers)


@dataclass
class ScriptedApi:
    """What it was asked, in order: (method and path, idempotency key, last event id)."""

    replies: deque[Reply]
    url: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        await reader.readexactly(int(headers.get("content-length", "0")))
        what = head[0].rpartition(" ")[0]
        self.asked.append((what, headers.get("idempotency-key", ""), headers.get("last-event-id", "")))
        if self.replies:  # one too many gets no answer, and what the test expects of the calls fails
            writer.write(self.replies.popleft().written())
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def scripted_api(replies: Sequence[Reply]) -> AsyncIterator[ScriptedApi]:
    """A server that gives `replies`, one a connection, and then hangs up without an answer."""
    api = ScriptedApi(deque(replies))
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield api
    finally:
        server.close()
        await server.wait_closed()
