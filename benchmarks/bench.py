"""Owns the comparison of a whole fleet with bare scripts and other task queues: `make bench`.

Every row makes the same call of the same mock provider, one row at a time on an otherwise idle machine; the provider counts the
answers, and those in a window after the warm-up count. The fleet runs with everything on: claims, permits, budget, ledger,
chords. The rows of a ratio run in turn, `--rounds` times over, and the ratio is one of medians. Results go to `out/bench/` as
`bench.json` and `bench.png`.

CPU is of all processes of a row but the provider (worker, coordinator, store, proxy); memory is of those that make the calls and
of the coordinator, what several processes share counted once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import redis

from benchmarks.peers.call import MOST_TOKENS, PROMPT
from benchmarks.processes import FailedError, Processes, free_port
from benchmarks.rows import (
    BEST,
    BUSY,
    DEFAULT,
    FLEET,
    HALF,
    LOADS,
    NO_LATENCY,
    OURS,
    PAIRED,
    PEERS,
    PREFORK,
    QUEUES,
    ROOT,
    ROWS,
    SINGLE,
    TWO,
    Load,
    Row,
)
from fleet.client import FleetClient
from fleet.config import Environment
from fleet.jobs import JobSpec
from fleet.runtime import Runtime

#: Seconds before the window of a run, and of the window: calls that start together come back together for a while, so it spans
#: several of their rounds.
WARM_UP_S, WINDOW_S = 5.0, 8.0
ROUNDS = 5
#: Seconds for a row to make its first call.
PATIENCE_S = 90
#: Seconds within which a row that still makes calls has one more answered.
LAST_ANSWER_S = 10
#: Calls that wait at the start, more than any row can make in its run.
BACKLOG, FLEET_BACKLOG = 9_000, 16_000
#: What a fleet in use has set, and what holds nothing up here.
LIMITS = {"requests_per_minute": 10_000_000, "tokens_per_minute": 10_000_000_000, "in_flight": 10_000}
CORES = 2


@dataclass(frozen=True)
class Result:
    """What one run came to: calls/s, CPU ms a call, memory in MB (and of one worker), cores that the provider took."""

    rate: float
    cpu_ms: float
    memory_mb: float
    worker_mb: float
    providers_cores: float


class Bench:
    """One run: the provider, and the processes of a row under a load."""

    def __init__(self, folder: Path, row: Row, load: Load) -> None:
        self._row, self._load = row, load
        self._folder = folder
        self._processes = Processes(folder)
        self._port = free_port()

    def run(self) -> Result:
        """FailedError when it makes no call, or runs out of calls to make."""
        mock = (str(OURS), "-m", "benchmarks.mock_openai", "--port", str(self._port))
        try:
            self._processes.start("provider", *mock, "--latency", str(self._load.latency_s))
            self._processes.until_open("provider", self._port)
            return self._measure(*getattr(self, f"_start_{self._row.kind}")())
        except FailedError as error:
            raise FailedError(f"{self._row.name}, {self._load}: {error}\n{self._processes.last_words()}") from None
        finally:
            self._processes.kill()

    def _start_script(self) -> tuple[str, ...]:
        self._start("script", self._row.command, self._url(self._port))
        return ("script",)

    def _start_proxy(self) -> tuple[str, ...]:
        port, key = free_port(), f"sk-{secrets.token_hex(16)}"
        parameters = {"model": "openai/mock", "api_base": f"http://127.0.0.1:{self._port}/v1", "api_key": "none"}
        config = {"model_list": [{"model_name": "mock", "litellm_params": parameters}]}
        (self._folder / "litellm.yaml").write_text(json.dumps(config))
        command = (part.format(port=port, config=self._folder / "litellm.yaml") for part in self._row.command)
        self._processes.start("proxy", *command, environment=self._row.environment | {"LITELLM_MASTER_KEY": key})
        self._processes.until_open("proxy", port)
        self._start("script", BEST.command, self._url(port) | {"BENCH_API_KEY": key})
        return ("proxy", "script")

    def _start_queue(self) -> tuple[str, ...]:
        environment = self._url(self._port) | {
            "BENCH_REDIS_URL": self._processes.start_store(durable=False),
            "BENCH_IN_FLIGHT": str(self._row.in_flight or self._load.in_flight),
            # A tool of that environment may start others.
            "PATH": f"{PEERS}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        subprocess.run([*self._row.fill, str(BACKLOG)], env=os.environ | environment, cwd=ROOT, check=True)
        self._start("worker", self._row.command, environment)
        return ("worker",)

    def _start_fleet(self) -> tuple[str, ...]:
        url = self._processes.start_store()
        model = {"context_tokens": 100_000, "price": {"input": 1, "output": 1}, "limits": LIMITS}
        tier = {"model": "mock", "background": "never", "concurrency": self._load.in_flight}
        config = {"models": {"mock": model}, "tiers": dict.fromkeys(("nano", "mini", "flagship"), tier)}
        (self._folder / "fleet.yaml").write_text(json.dumps(config))
        os.environ |= {
            "FLEET_REDIS_URL": url,
            "FLEET_CONFIG": str(self._folder / "fleet.yaml"),
            "FLEET_BLOBS": str(self._folder / "blobs"),
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self._port}/v1",
            "OPENAI_API_KEY": "none",
        }
        workers = tuple(f"worker {number}" for number in range(self._row.workers))
        self._processes.start("coordinator", str(OURS), "-m", "fleet", "coordinator")
        for worker in workers:
            self._processes.start(worker, str(OURS), "-m", "fleet", "worker", "--tier", "nano")
        with redis.Redis.from_url(url) as store:
            self._processes.until_registered(store, {"coordinator": 1, "nano": self._row.workers})
        asyncio.run(_submit())
        return (*workers, "coordinator")

    def _start(self, name: str, command: tuple[str, ...], environment: dict[str, str]) -> None:
        in_flight = self._row.in_flight or self._load.in_flight
        self._processes.start(name, *(part.format(in_flight=in_flight) for part in command), environment=environment)

    def _measure(self, *callers: str) -> Result:
        deadline = time.monotonic() + PATIENCE_S
        while self._answered() == 0:
            self._processes.check()
            if time.monotonic() > deadline:
                raise FailedError(f"It made no call within {PATIENCE_S} s.")
            time.sleep(0.05)
        time.sleep(WARM_UP_S)
        before, used, start = self._answered(), self._processes.cpu_seconds(), time.monotonic()
        time.sleep(self._row.windows * WINDOW_S)
        calls, seconds = self._answered() - before, time.monotonic() - start
        spent = {name: cpu - used[name] for name, cpu in self._processes.cpu_seconds().items()}
        memory = {name: self._processes.memory_mb(name) for name in callers}
        self._processes.check()
        if not calls:
            raise FailedError("It made no call in its window.")
        deadline = time.monotonic() + LAST_ANSWER_S
        while self._answered() - before == calls:
            if time.monotonic() > deadline:
                raise FailedError("It ran out of calls to make; raise the backlog.")
            time.sleep(0.05)
        return Result(
            rate=calls / seconds,
            cpu_ms=1000 * sum(cpu for name, cpu in spent.items() if name != "provider") / calls,
            memory_mb=sum(memory.values()),
            worker_mb=self._processes.resident_mb(callers[0]),
            providers_cores=spent["provider"] / seconds,
        )

    def _answered(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/count", timeout=10) as answer:
            return int(answer.read())

    @staticmethod
    def _url(port: int) -> dict[str, str]:
        return {"BENCH_SERVER_URL": f"http://127.0.0.1:{port}/v1"}


async def _submit() -> None:
    step = {"id": "do", "each": "items", "tier": "nano", "prompt": PROMPT, "max_output_tokens": MOST_TOKENS}
    spec = {"name": "bench", "items": list(range(FLEET_BACKLOG)), "steps": [step], "budget_usd": 1_000}
    runtime = Runtime.from_environment(Environment())
    try:
        await FleetClient(runtime).submit(JobSpec.model_validate(spec))
    finally:
        await runtime.aclose()


def plan(rounds: int) -> Iterator[tuple[Row, Load]]:
    """What is run, in order."""
    for load, rows in PAIRED.items():
        for _ in range(rounds):
            for row in rows:
                yield row, load
    for load, rows in SINGLE.items():
        for row in rows:
            yield row, load


Results = dict[tuple[str, Load], list[Result]]


def median(results: Results, row: Row, load: Load, what: str = "rate") -> float:
    return float(statistics.median(getattr(result, what) for result in results[row.name, load]))


def figures(results: Results) -> dict[str, float]:
    """The ratios, from medians."""

    def ratio(row: Row, load: Load) -> float:
        return median(results, FLEET, load) / median(results, row, load)

    def per_gb(row: Row) -> float:
        return median(results, row, BUSY) / median(results, row, BUSY, "memory_mb")

    def per_core(row: Row) -> float:
        """Of the cores that the provider leaves."""
        return median(results, row, BUSY) / (CORES - median(results, row, BUSY, "providers_cores"))

    return {
        "calls_vs_openai_default": ratio(DEFAULT, BUSY),
        "calls_vs_best_transport": min(ratio(BEST, BUSY), ratio(BEST, HALF)),
        "calls_vs_best_transport_nolatency": ratio(BEST, NO_LATENCY),
        "calls_per_gb_vs_prefork": per_gb(FLEET) / per_gb(PREFORK),
        "calls_vs_best_queue": min(ratio(row, BUSY) for row in QUEUES),
        "cpu_ms_per_subtask": median(results, FLEET, BUSY, "cpu_ms"),
        "worker_mb_1000": median(results, FLEET, BUSY, "worker_mb"),
        "two_workers_over_one": per_core(TWO) / per_core(FLEET),
    }


def table(results: Results) -> str:
    """All rows, their medians."""
    lines = [
        f"{'':<46}" + " |".join(f"{load!s:^22}" for load in LOADS),
        f"{'':<46}" + " |".join(f"{'calls/s':>8} {'CPU ms':>7} {'MB':>5}" for _ in LOADS),
    ]
    for row in ROWS:
        cells = [
            f"{median(results, row, load):8.0f} {median(results, row, load, 'cpu_ms'):7.2f} "
            f"{median(results, row, load, 'memory_mb'):5.0f}"
            if (row.name, load) in results
            else f"{'-':>8} {'-':>7} {'-':>5}"
            for load in LOADS
        ]
        lines.append(f"{row.name:<46}" + " |".join(cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", help="run once the rows whose names have this in them, and print no figures")
    options = parser.parse_args()
    steps = list(plan(options.rounds))
    if options.only:
        steps = [step for step in dict.fromkeys(steps) if options.only in step[0].name]
    results: Results = {}
    began = time.monotonic()
    for number, (row, load) in enumerate(steps, 1):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            try:
                result = Bench(Path(folder), row, load).run()
            except FailedError as error:
                sys.exit(f"\n{error}")
        results.setdefault((row.name, load), []).append(result)
        print(
            f"[{number}/{len(steps)}, {time.monotonic() - began:.0f} s] {row.name}, {load}: {result.rate:.0f} calls/s, "
            f"{result.cpu_ms:.2f} ms CPU a call, {result.memory_mb:.0f} MB, provider {result.providers_cores:.2f} cores",
            file=sys.stderr,
            flush=True,
        )
    print(table(results))
    if options.only:
        return
    found = figures(results)
    for name, value in found.items():
        print(f"{name}: {value:.3f}")
    out = ROOT / "out" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    runs = [
        {"row": name, "in_flight": load.in_flight, "latency_s": load.latency_s, "runs": [asdict(r) for r in of_it]}
        for (name, load), of_it in results.items()
    ]
    (out / "bench.json").write_text(json.dumps({"figures": found, "results": runs}, indent=1))
    subprocess.run(
        [str(PEERS / "python"), "-m", "benchmarks.plot", str(out / "bench.json"), str(out / "bench.png")],
        cwd=ROOT,
        check=True,
    )
    print(f"All runs: {out / 'bench.json'}; the plot: {out / 'bench.png'}")


if __name__ == "__main__":
    main()
