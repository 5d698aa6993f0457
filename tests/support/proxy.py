"""A TCP proxy on loopback that can cut its connections or let nothing through, one way or both."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

Way = Literal["up", "down"]
CHUNK = 65_536


class Proxy:
    """Passes connections on to `port`, which may change; `address` is where it listens itself."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._open: dict[Way, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        for gate in self._open.values():
            gate.set()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=CHUNK)
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        writers = list(self._writers)
        for writer in writers:
            writer.transport.abort()
        return len(writers) // 2

    async def stall(self, way: Way, seconds: float) -> None:
        """Let nothing through one way for a while: neither side is told."""
        self._open[way].clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._open[way].set()

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        for gate in self._open.values():
            gate.set()
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target, limit=CHUNK)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self._writers |= pair
        try:
            ways = [self._pump(reader, far_writer, "up"), self._pump(far_reader, writer, "down")]
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        finally:
            self._writers -= pair
            for one in pair:
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._open[way].wait()
                writer.write(data)
                await writer.drain()
            # What was sent last has to arrive before both ends are closed.
            writer.close()
            await writer.wait_closed()
