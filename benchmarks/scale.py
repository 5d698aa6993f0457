"""Owns the measurement of size: what a job of many items costs in memory and time per item: `make bench-scale`.

A real Valkey, coordinator and worker run jobs of one no-op step over 10,000, 100,000 and 1,000,000 items; only the provider
seam is stubbed. While a job runs, the coordinator's resident memory and the store's used memory are looked at every second;
their highest sum counts. Time per item is the job's wall time over its items. The job of 10,000 runs before and after each
larger one, and the median of its times counts: what else a machine does in an hour must not decide.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import redis

from benchmarks.processes import FailedError, Processes
from fleet.client import FleetClient
from fleet.config import Environment
from fleet.jobs import JobSpec, JobStatus
from fleet.runtime import Runtime
from fleet.store import Job

WARM_UP, SMALL, MIDDLE, LARGE = 2_000, 10_000, 100_000, 1_000_000
CONCURRENCY = 200
#: Seconds for which a job may stand still before the run is given up.
STILL_S = 120
CONFIG = {
    "models": {"noop": {"context_tokens": 100_000, "price": {"input": 0, "output": 0}}},
    "tiers": {
        "nano": {"model": "noop", "concurrency": CONCURRENCY, "background": "never"},
        "mini": {"model": "noop", "background": "never"},
        "flagship": {"model": "noop", "background": "never"},
    },
}


@dataclass(frozen=True)
class Figures:
    """What a job came to."""

    items: int
    seconds: float
    store_mb: float
    coordinator_mb: float
    #: CPU milliseconds per item, by process.
    cpu_ms: dict[str, float]

    @property
    def memory_mb(self) -> float:
        return self.store_mb + self.coordinator_mb

    @property
    def ms_per_item(self) -> float:
        return 1000 * self.seconds / self.items

    def __str__(self) -> str:
        cpu = ", ".join(f"{name} {ms:.2f}" for name, ms in self.cpu_ms.items())
        return (
            f"{self.items:>9,} items: {self.seconds:.1f} s, {self.ms_per_item:.2f} ms per item "
            f"(CPU {sum(self.cpu_ms.values()):.2f}: {cpu}), "
            f"store {self.store_mb:.0f} MB, coordinator {self.coordinator_mb:.0f} MB"
        )


class Scale:
    """Runs jobs on the fleet and measures them."""

    def __init__(self, runtime: Runtime, store: redis.Redis, processes: Processes, folder: Path) -> None:
        self._runtime = runtime
        self._client = FleetClient(runtime)
        self._store = store
        self._processes = processes
        self._folder = folder

    async def measure(self, counts: list[int]) -> list[Figures]:
        """One job after the other."""
        try:
            return [await self._run(count) for count in counts]
        finally:
            await self._runtime.aclose()

    async def _run(self, count: int) -> Figures:
        """One job over `count` items, with the highest memory seen while it ran."""
        used = self._processes.cpu_seconds()
        job_id = await self._client.submit(self._spec(count))
        began = time.monotonic()
        job, most = await self._watch(job_id, count)
        took = time.monotonic() - began
        cpu = {name: 1000 * (now - used[name]) / count for name, now in self._processes.cpu_seconds().items()}
        figures = Figures(count, took, *most, cpu)
        print(f"\r{figures}", flush=True)
        if job.status is not JobStatus.COMPLETED:
            raise FailedError(f"The job of {count:,} items is {job.status}: {job.error}")
        if (final := (await self._client.progress(await self._client.job(job_id))).final) != count:
            raise FailedError(f"The job of {count:,} items is completed with {final:,} subtasks done.")
        return figures

    async def _watch(self, job_id: str, count: int) -> tuple[Job, tuple[float, float]]:
        """The job once it has ended, and the most memory (store, coordinator) until then."""
        most = (0.0, 0.0)
        done, moved_at = -1, time.monotonic()
        while True:
            self._processes.check()
            job = await self._client.job(job_id)
            info: dict[str, int] = self._store.info("memory")
            seen = (info["used_memory"] / 2**20, self._processes.resident_mb("coordinator"))
            most = max(most, seen, key=sum)
            if job.status.final:
                return job, most
            before, done = done, (await self._client.progress(await self._client.job(job_id))).final
            if done != before:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > STILL_S:
                raise FailedError(
                    f"The job of {count:,} items is {job.status} and has stood at {done:,} for {STILL_S} s."
                )
            print(f"\r{count:>9,} items: {done:>9,} done, ", end="")
            print(f"store {seen[0]:.0f} MB, coordinator {seen[1]:.0f} MB ", end="", flush=True)
            await asyncio.sleep(1)

    def _spec(self, count: int) -> JobSpec:
        items = self._folder / f"{count}.jsonl"
        with items.open("w") as lines:
            lines.writelines(f'{{"n": {n}}}\n' for n in range(count))
        step = {"id": "noop", "each": "items", "tier": "nano", "prompt": "{{ item.n }}", "max_output_tokens": 1}
        return JobSpec.model_validate({"name": f"{count} items", "items": {"path": str(items)}, "steps": [step]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=LARGE, help="items of the largest job")
    largest = parser.parse_args().largest
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = Processes(folder)
        try:
            figures = _figures(folder, processes, [WARM_UP, SMALL, MIDDLE, SMALL, largest, SMALL])
        except FailedError as error:
            sys.exit(f"\n{error}\n{processes.last_words()}")
        finally:
            processes.stop()
    _, first, middle, second, large, third = figures
    small_ms = statistics.median(one.ms_per_item for one in (first, second, third))
    print(f"memory_1m_over_100k: {large.memory_mb / middle.memory_mb:.3f}")
    print(f"time_per_item_1m_over_10k: {large.ms_per_item / small_ms:.3f}")


def _figures(folder: Path, processes: Processes, counts: list[int]) -> list[Figures]:
    url = processes.start_store()
    (folder / "fleet.yaml").write_text(json.dumps(CONFIG))
    os.environ |= {
        "FLEET_REDIS_URL": url,
        "FLEET_CONFIG": str(folder / "fleet.yaml"),
        "FLEET_BLOBS": str(folder / "blobs"),
        "FLEET_SIM_URL": "http://127.0.0.1:1/v1",
    }
    for name, tier, concurrency in (("coordinator", "coordinator", 20), ("worker", "nano", CONCURRENCY)):
        processes.start(name, sys.executable, "-m", "benchmarks.scale_worker", tier, str(concurrency))
    with redis.Redis.from_url(url) as store:
        processes.until_registered(store, {"coordinator": 1, "nano": 1})
        scale = Scale(Runtime.from_environment(Environment()), store, processes, folder)
        return asyncio.run(scale.measure(counts))


if __name__ == "__main__":
    main()
