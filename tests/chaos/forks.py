"""The near end of a zygote: it is started, told whom to fork and whom to signal, and says who has ended.

It knows no tier and no seat; who is forked, and again, is the crew's business.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WARM_UP_S = 60


class Zygote:
    """One process that forks others, from the code of the checkout at `root`."""

    def __init__(
        self, root: Path, config: Path, on_end: Callable[[int, int], None], variables: Mapping[str, str]
    ) -> None:
        """`on_end` is called with the id and the end of each process; `variables` are what it is started with."""
        self.root = root
        self._config = config
        self._on_end = on_end
        self._variables = variables
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None
        self._forked: asyncio.Queue[int] = asyncio.Queue()
        self._forking = asyncio.Lock()
        self._ready = asyncio.Event()

    async def start(self) -> None:
        """Start it; it warms up by itself."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.zygote",
            str(self._config),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root), **self._variables},
        )
        self._listener = asyncio.create_task(self._listen())

    async def warm(self) -> None:
        """Wait until it can fork."""
        await asyncio.wait_for(self._ready.wait(), WARM_UP_S)

    async def fork(self, order: dict[str, Any]) -> int:
        """The id of the new process."""
        # Whoever asks may be cancelled meanwhile; the answer must not be taken for that of the next order.
        return await asyncio.shield(asyncio.ensure_future(self._fork(order)))

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to one of its processes, if that still runs."""
        self._order({"signal": [pid, number]})

    async def stop(self) -> None:
        """End it and those of its processes that still run."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._process.wait()
        if self._listener is not None:
            await self._listener

    async def _fork(self, order: dict[str, Any]) -> int:
        async with self._forking:
            self._order({"fork": order})
            return await self._forked.get()

    def _order(self, order: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            match json.loads(line):
                case {"ready": _}:
                    self._ready.set()
                case {"forked": pid}:
                    self._forked.put_nowait(pid)
                case {"ended": [pid, status]}:
                    self._on_end(pid, status)
