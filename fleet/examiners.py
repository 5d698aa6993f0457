"""The few processes in which a worker has checks made that may take for ever (`fleet.examiner`), and what becomes of them.

It owns their number, their start at the first question and their end. A check is off the event loop and bounded in time; one that
hangs, ends its process or eats it costs that process and nothing else. It judges nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fleet import examiner

#: Processes of one worker; what is asked meanwhile waits for its turn.
MOST = 4
#: Seconds for a check, and for the import of what it is in.
CHECK_S, IMPORT_S = 5.0, 30.0
#: An examiner ends by itself when a check takes too long; should it not, it is waited for a while longer, and killed.
MARGIN_S = 5.0


class BrokenCheckError(Exception):
    """A check that failed by itself: nobody knows whether the answer would do. The text quotes nothing of it."""


class _EndedError(BrokenCheckError):
    """The process ended, and not for having taken too long."""


class Examiners:
    """The examiners of one process; they belong to one event loop. `close` ends them."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(MOST)
        self._idle: list[_Examiner] = []
        self._all: set[_Examiner] = set()
        #: Threads of their own: others wait for the disk, and would wait for checks.
        self._threads = ThreadPoolExecutor(MOST, thread_name_prefix="examiner")

    async def ask(self, question: dict[str, Any]) -> str | None:
        """The reason why an answer will not do, None where it does.

        Raises:
            BrokenCheckError: the check raised, returned something else, or took too long.
        """
        async with self._turn:
            try:
                reply = await self._asked(question)
            except _EndedError:
                reply = await self._asked(question)  # that may have been somebody else's doing
        if "broken" in reply:
            raise BrokenCheckError(reply["broken"])
        reason: str | None = reply["reason"]
        return reason

    async def _asked(self, question: dict[str, Any]) -> dict[str, Any]:
        one = self._idle.pop() if self._idle else _Examiner()
        self._all.add(one)
        try:
            reply = await asyncio.get_running_loop().run_in_executor(self._threads, one.ask, question)
        except BaseException:
            self._all.discard(one)
            one.end()
            raise
        self._idle.append(one)
        return reply

    def close(self) -> None:
        """End them all."""
        for one in self._all:
            one.end()
        self._all.clear()
        self._idle.clear()
        self._threads.shutdown(wait=False)


class _Examiner:
    """One process. Its methods block."""

    def __init__(self) -> None:
        # -P: the folder of the script, with modules of ours in it, is no place to import from.
        command = [sys.executable, "-P", str(Path(examiner.__file__))]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)  # noqa: S603
        self._begun = False

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None and answers is not None  # noqa: S101
        try:
            if not self._begun:
                self._begun = True
                examiner.send(questions, sys.path)
            examiner.send(questions, question | {"check_s": CHECK_S, "import_s": IMPORT_S})
            poll = select.poll()
            poll.register(answers, select.POLLIN)
            if not poll.poll(1000 * (IMPORT_S + CHECK_S + MARGIN_S)):
                raise BrokenCheckError(_too_long())
            reply: dict[str, Any] | None = examiner.receive(answers)
        except RecursionError:
            raise BrokenCheckError("the answer is nested too deep to be handed to it") from None
        except OSError:
            reply = None
        if reply is None:
            if self._process.wait(MARGIN_S) == -signal.SIGALRM:
                raise BrokenCheckError(_too_long())
            raise _EndedError("it ended the process that it ran in")
        return reply

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _too_long() -> str:
    return f"it took over {CHECK_S:g} s"
