"""Real worker processes for tests: started as a user would, watched through Redis and their log, ended by id."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from tests.support.valkey import Valkey

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


class Worker:
    """A `celery worker` of tests.support.worker_app."""

    def __init__(self, valkey: Valkey, folder: Path, *options: str, concurrency: int = 20, **environment: str) -> None:
        """Start; `environment` adds to this process's."""
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        command = [
            sys.executable,
            "-W",
            "error::RuntimeWarning",
            "-m",
            "celery",
            "-A",
            "tests.support.worker_app",
            "worker",
        ]
        command += [
            "--loglevel",
            "INFO",
            "-Q",
            "test.work",
            "-c",
            str(concurrency),
            "--without-gossip",
            "--without-mingle",
        ]
        settings = {"TEST_REDIS_URL": valkey.url, "TEST_CONCURRENCY": str(concurrency), "PYTHONPATH": str(ROOT)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, cwd=ROOT, env=os.environ | settings | environment
            )

    def said(self, text: str) -> bool:
        """Whether its log has `text`."""
        return text in self.log.read_text()

    def ready(self) -> Worker:
        """Wait until it consumes."""
        until(lambda: self.said(" ready."), "the worker to be ready", self)
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process."""
        self.process.send_signal(number)

    def ended(self, timeout: float = 20) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class Watched(Protocol):
    """A process with a log."""

    log: Path
    process: subprocess.Popen[bytes]


def until(condition: Callable[[], object], what: str, worker: Watched | None = None, timeout: float = 30) -> None:
    """Wait for `condition` for at most `timeout` seconds, and show the worker's log if it does not come."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline or (
            worker is not None and worker.process.poll() is not None and not condition()
        ):
            log = worker.log.read_text()[-6000:] if worker is not None else ""
            raise AssertionError(f"Waited in vain for {what}.\n{log}")
        time.sleep(0.02)


async def eventually(look: Callable[[], Awaitable[T]], what: str, timeout_s: float = 30) -> T:
    """What `look` gives, as soon as it gives something, in at most `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (found := await look()):
        assert time.monotonic() < deadline, f"Waited in vain for {what}."
        await asyncio.sleep(0.02)
    return found
