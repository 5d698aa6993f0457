"""streaQ: `streaq run benchmarks.peers.on_streaq:worker`, its concurrency in BENCH_IN_FLIGHT; with a number it enqueues."""

from __future__ import annotations

import asyncio
import os
import sys

from streaq import Worker

from benchmarks.peers.call import REDIS, call

worker = Worker(
    redis_url=REDIS,
    concurrency=int(os.environ.get("BENCH_IN_FLIGHT", "1")),
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(name="peer.call", silent=True, ttl=0)  # no line of log, no result kept
async def call_model() -> int:
    return await call()


async def enqueue(number: int) -> None:
    async with worker:
        for start in range(0, number, 1000):
            await worker.enqueue_many([call_model.enqueue() for _ in range(start, min(start + 1000, number))])


if __name__ == "__main__":
    asyncio.run(enqueue(int(sys.argv[1])))
