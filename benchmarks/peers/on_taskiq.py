"""taskiq with its fastest Redis broker (it acknowledges nothing): `taskiq worker benchmarks.peers.on_taskiq:broker`."""

from __future__ import annotations

import asyncio
import sys

from taskiq_redis import ListQueueBroker

from benchmarks.peers.call import REDIS, call

broker = ListQueueBroker(REDIS)


@broker.task(task_name="peer.call")
async def call_model() -> int:
    return await call()


async def enqueue(number: int) -> None:
    await broker.startup()
    for _ in range(number):
        await call_model.kiq()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(enqueue(int(sys.argv[1])))
