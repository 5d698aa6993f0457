"""dramatiq with coroutines as actors: `dramatiq benchmarks.peers.on_dramatiq`; with a number it enqueues."""

from __future__ import annotations

import asyncio
import sys

import dramatiq
import uvloop
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware.asyncio import AsyncIO

from benchmarks.peers.call import REDIS, call

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
broker = RedisBroker(url=REDIS)
broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="peer_call")
async def call_model() -> None:
    await call()


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        call_model.send()
