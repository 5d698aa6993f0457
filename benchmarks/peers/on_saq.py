"""SAQ: `saq benchmarks.peers.on_saq.settings`, its concurrency in BENCH_IN_FLIGHT; with a number it enqueues."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import uvloop
from saq import Queue

from benchmarks.peers.call import REDIS, call

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
queue = Queue.from_url(REDIS)


async def call_model(_: Any) -> int:
    return await call()


settings = {
    "queue": queue,
    "functions": [call_model],
    "concurrency": int(os.environ.get("BENCH_IN_FLIGHT", "1")),
    # It reads every job that has run for so long again, as often, to see whether it is aborted; each second by itself.
    "timers": {"abort": 10},
}


async def enqueue(number: int) -> None:
    await queue.connect()
    await queue.sweep(lock=600)  # not again meanwhile: at its start a worker's sweep aborts what it has just taken
    for _ in range(number):
        await queue.enqueue("call_model", timeout=60, ttl=-1)  # no result is kept
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(enqueue(int(sys.argv[1])))
