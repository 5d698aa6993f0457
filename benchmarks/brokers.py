"""Owns the comparison of brokers: `python -m benchmarks.brokers AMQP_URL`, with a RabbitMQ that is there already.

The same fleet of processes with a provider that answers at once, with its messages on the store and on RabbitMQ, in turn:
subtasks a second of one worker with all its slots busy, CPU of the worker for each, and on an idle fleet the time from the end of
what a subtask waited for to the start of its call. Ratios are RabbitMQ's over Redis's, the median of the pairs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from benchmarks.dispatch import CONFIG, ready_to_start_ms
from benchmarks.processes import FailedError, Processes
from benchmarks.scenes import bare
from fleet.client import FleetClient
from fleet.jobs import JobSpec, JobStatus
from fleet.runtime import Runtime

ITEMS, PAIRS, SLOTS = 6_000, 3, 200


async def measured(processes: Processes, runtime: Runtime) -> dict[str, float]:
    """Of a fleet."""
    try:
        client = FleetClient(runtime)
        waited_ms = await ready_to_start_ms(client)
        step = {"id": "do", "each": "items", "tier": "nano", "prompt": "Go.", "max_output_tokens": 1}
        spec = {"name": "many", "items": list(range(ITEMS)), "steps": [step]}
        used, began = processes.cpu_seconds()["nano"], time.perf_counter()
        async for progress in client.follow(await client.submit(JobSpec.model_validate(spec))):
            status = progress.status
        if status is not JobStatus.COMPLETED:
            raise FailedError(f"The job is {status}.")
        took = time.perf_counter() - began
        cpu_ms = 1000 * (processes.cpu_seconds()["nano"] - used) / ITEMS
        return {"subtasks_per_s": ITEMS / took, "worker_cpu_ms": cpu_ms, "ready_to_start_ms": waited_ms}
    finally:
        await runtime.aclose()


def run(broker: str | None) -> dict[str, float]:
    """With a store and processes of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = Processes(folder)
        try:
            return uvloop.run(measured(processes, bare(processes, folder, CONFIG, SLOTS, broker)))
        except FailedError as error:
            sys.exit(f"\n{error}\n{processes.last_words()}")
        finally:
            processes.stop()


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("python -m benchmarks.brokers amqp://USER:PASSWORD@HOST:PORT/VHOST")
    pairs = []
    for _ in range(PAIRS):
        pairs.append((run(None), run(sys.argv[1])))
        for name, figures in zip(("Redis", "RabbitMQ"), pairs[-1], strict=True):
            print(name, *(f"{what} {figure:.2f}" for what, figure in figures.items()), flush=True)
    for what in pairs[0][0]:
        ratio = statistics.median(rabbit[what] / plain[what] for plain, rabbit in pairs)
        print(f"rabbitmq_{what}_vs_redis: {ratio:.2f}")


if __name__ == "__main__":
    main()
