"""A checkout of the code, and processes forked from a zygote that has imported it.

It owns the zygote's other end. Two checkouts can run members of one fleet; who is forked, and why, is the crew's business.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT

WARM_S = 60.0


class Checkout:
    """The code below `root`; `on_end` is told the pid and exit status of every process that ended."""

    def __init__(self, root: Path, on_end: Callable[[int, int], None]) -> None:
        self.root = root
        self._on_end = on_end
        self._zygote: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._forked: asyncio.Queue[int] = asyncio.Queue()
        self._forking = asyncio.Lock()

    async def start(self, config: Path) -> None:
        """Start the zygote; it warms up by itself."""
        self._zygote = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.zygote",
            str(config),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root)},
        )
        self._listening = asyncio.create_task(self._listen())

    async def warm(self) -> None:
        """Wait until it can fork."""
        await asyncio.wait_for(self._ready.wait(), WARM_S)

    async def fork(self, order: dict[str, Any]) -> int:
        """The pid of a new process."""
        # Whoever asks may be cancelled meanwhile; the answer must not be taken for that of the next order.
        return await asyncio.shield(asyncio.ensure_future(self._fork(order)))

    def signal(self, pid: int, number: int) -> None:
        """Signal a process of its own that it has not waited for yet."""
        self._order({"signal": [pid, number]})

    async def stop(self) -> None:
        """End the zygote, and with it whatever it forked."""
        if self._zygote is not None and self._zygote.stdin is not None:
            self._zygote.stdin.close()
            await self._zygote.wait()

    async def _fork(self, order: dict[str, Any]) -> int:
        async with self._forking:
            self._order({"fork": order})
            return await self._forked.get()

    def _order(self, order: dict[str, Any]) -> None:
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(order).encode() + b"\n")

    async def _listen(self) -> None:
        assert self._zygote is not None
        assert self._zygote.stdout is not None
        while line := await self._zygote.stdout.readline():
            match json.loads(line):
                case {"ready": _}:
                    self._ready.set()
                case {"forked": pid}:
                    self._forked.put_nowait(pid)
                case {"ended": [pid, status]}:
                    self._on_end(pid, status)


def lay_out(commit: str, folder: Path) -> bool:
    """The files of `commit` into `folder`; False when this clone does not have it (a shallow one, or none at all)."""
    try:
        archive = subprocess.run(["git", "archive", "--format=tar", commit], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return True
