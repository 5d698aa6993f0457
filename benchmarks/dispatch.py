"""Owns what stands between a subtask and its call: a part of `make bench`.

- `ready_to_start_p50_ms`: on an idle fleet, from the end of what a subtask waited for to the start of its call.
- `release_vs_apply_async`: subtasks a second that one coordinator expands, releases and sends, over messages a second that
  plain Celery sends with `apply_async` in a loop to the same store; in turn, the median of pairs.
- `permit_cpu_ms`: CPU of one client and of the store for one permit, taken and given back, by a client that has as many calls in
  flight as a worker has; and, beside it, by one that has one at a time.

The store, the coordinator and the worker are processes of their own; only the provider answers without being asked.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import redis
import uvloop
from celery import Celery
from kombu import Queue

from benchmarks.processes import FailedError, Processes
from benchmarks.scenes import bare
from fleet.client import FleetClient
from fleet.jobs import JobSpec, JobStatus
from fleet.runtime import Runtime
from queues.tiers import Allowance

DEPTH, CHAINS = 6, 40
RELEASED, PAIRS = 8_000, 5
PERMITS, LANES = 20_000, 100
PATIENCE_S = 120
#: More than RELEASED may be under way at a time.
CAPACITY = 100_000
CONFIG = {
    "models": {"noop": {"context_tokens": 100_000, "price": {"input": 0, "output": 0}}},
    "tiers": {name: {"model": "noop", "background": "never"} for name in ("nano", "mini", "flagship")},
}


async def ready_to_start_ms(client: FleetClient) -> float:
    """The median over jobs of one chain of steps, one job at a time."""
    steps = [
        {"id": f"s{n}", "each": "items", "tier": "nano", "prompt": "Go.", "needs": [f"s{n - 1}"] if n else []}
        for n in range(DEPTH)
    ]
    waits = []
    for number in range(CHAINS + 1):
        job_id = await client.submit(JobSpec.model_validate({"name": "chain", "items": [number], "steps": steps}))
        async for progress in client.follow(job_id):
            status = progress.status
        if status is not JobStatus.COMPLETED:
            raise FailedError(f"A job of one chain is {status}.")
        entries = [entry async for entry in client.ledger(await client.job(job_id))]
        entries.sort(key=lambda entry: entry.started_at)
        if number:  # connections and caches are warm after the first
            waits += [after.started_at - before.finished_at for before, after in itertools.pairwise(entries)]
    return 1000 * statistics.median(waits)


async def released_a_second(client: FleetClient, store: redis.Redis) -> float:
    """From the plan of a job on, whose tier has room for all of it and nobody who takes the messages."""
    await client.runtime.store.register("mini", "nobody", CAPACITY, 600_000)
    step = {"id": "do", "each": "items", "tier": "mini", "prompt": "Go.", "max_output_tokens": 1}
    spec = JobSpec.model_validate({"name": "released", "items": list(range(RELEASED)), "steps": [step]})

    async def all_sent() -> float:
        deadline = time.time() + PATIENCE_S
        while store.llen("mini") < RELEASED:
            if time.time() > deadline:
                raise FailedError(f"{store.llen('mini'):,} of {RELEASED:,} subtasks were sent within {PATIENCE_S} s.")
            await asyncio.sleep(0.02)
        return await client.runtime.store.now()

    # The job is released from its acceptance on, which `submit` returns from only when it is on disk.
    job_id, ended = await asyncio.gather(client.submit(spec), all_sent())
    took = ended - (await client.job(job_id)).created_at
    await client.runtime.store.stop(job_id, "cancelled", list(client.runtime.tiers))
    store.delete("mini")
    return RELEASED / took


def sent_a_second(url: str, store: redis.Redis) -> float:
    """Plain Celery on its own transport."""
    app = Celery("plain", broker=url)
    app.conf.update(task_queues=[Queue("plain")], task_default_queue="plain", task_ignore_result=True)

    @app.task(name="plain.do")
    def do(number: int) -> None:
        raise AssertionError("nobody works here")

    do.apply_async((0,))
    began = time.perf_counter()
    for number in range(RELEASED):
        do.apply_async((number,))
    took = time.perf_counter() - began
    store.delete("plain")
    app.close()
    return RELEASED / took


async def permit_cpu_ms(runtime: Runtime, processes: Processes, lanes: int) -> float:
    """One permit after the other in each lane, within limits that hold nobody up."""
    allowance = Allowance(requests_per_minute=10_000_000, tokens_per_minute=1_000_000_000, in_flight=1_000)
    numbers = iter(range(PERMITS))

    async def take() -> None:
        for number in numbers:
            permit = await runtime.limiter.acquire(
                f"bench {lanes}", allowance, tokens=100, permit_id=f"p{number}", lease_s=60, patience_s=60
            )
            await runtime.limiter.settle(permit, 50)

    used = time.process_time() + processes.cpu_seconds()["store"]
    await asyncio.gather(*(take() for _ in range(lanes)))
    return 1000 * (time.process_time() + processes.cpu_seconds()["store"] - used) / PERMITS


async def measure(processes: Processes, runtime: Runtime) -> None:
    url = str(runtime.environment.fleet_redis_url)
    store = redis.Redis.from_url(url)
    try:
        client = FleetClient(runtime)
        print(f"ready_to_start_p50_ms: {await ready_to_start_ms(client):.2f}", flush=True)
        pairs = []
        for _ in range(PAIRS):
            pairs.append((await released_a_second(client, store), await asyncio.to_thread(sent_a_second, url, store)))
            print(f"released {pairs[-1][0]:,.0f}/s, apply_async {pairs[-1][1]:,.0f}/s", flush=True)
        print(f"release_vs_apply_async: {statistics.median(ours / plain for ours, plain in pairs):.2f}", flush=True)
        print(f"permit_cpu_ms: {await permit_cpu_ms(runtime, processes, LANES):.3f}")
        print(f"permit_cpu_ms_alone: {await permit_cpu_ms(runtime, processes, 1):.3f}")
    finally:
        store.close()
        await runtime.aclose()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = Processes(folder)
        try:
            uvloop.run(measure(processes, bare(processes, folder, CONFIG, slots=100)))
        except FailedError as error:
            sys.exit(f"\n{error}\n{processes.last_words()}")
        finally:
            processes.stop()


if __name__ == "__main__":
    main()
