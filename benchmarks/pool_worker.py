"""Owns what the pool benchmark runs: the bare scripts, and the tasks of the Celery workers beside them.

Settings come from the environment, because Celery imports this module by name.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

import uvloop
from celery import Celery
from openai import AsyncOpenAI, DefaultAioHttpClient, OpenAI

from queues.app import QueueSettings, build_app
from queues.bridge import await_
from queues.tiers import Tier

REDIS = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:1")
SERVER = os.environ.get("BENCH_SERVER_URL", "http://127.0.0.1:1/v1")
TIER = Tier(name="bench", queue="bench")
MESSAGES: Any = [{"role": "user", "content": "Say something. " * 50}]

#: Ours: `celery -A benchmarks.pool_worker:ours worker`.
ours = build_app(QueueSettings(broker_url=REDIS + "/0", store_url=REDIS + "/1", namespace="bench"), [TIER])
#: Celery as it comes: `celery -A benchmarks.pool_worker:stock worker -P prefork`.
stock = Celery("stock", broker=REDIS + "/2", set_as_current=False)
stock.conf.update(task_ignore_result=True, task_default_queue="bench", broker_connection_retry_on_startup=True)

_clients: dict[str, Any] = {}


def make_client(transport: str) -> AsyncOpenAI:
    """`transport` is "aiohttp" or the client's "default"."""
    http = DefaultAioHttpClient() if transport == "aiohttp" else None
    return AsyncOpenAI(api_key="none", base_url=SERVER, max_retries=0, timeout=60, http_client=http)


async def call(client: AsyncOpenAI, raw: bool) -> int:
    """One model call; returns the tokens it used. `raw` skips the client's model classes."""
    if raw:
        body = {"model": "mock", "messages": MESSAGES}
        answer: Any = await client.post("/chat/completions", body=body, cast_to=object)
        return int(answer["usage"]["total_tokens"])
    completion = await client.chat.completions.create(model="mock", messages=MESSAGES)
    assert completion.usage is not None
    return completion.usage.total_tokens


@ours.task(name="bench.typed")
def typed() -> int:
    """A call in our pool."""
    return await_(call(_shared(), False))


@ours.task(name="bench.raw")
def raw() -> int:
    """A call in our pool, its answer not parsed into model classes."""
    return await_(call(_shared(), True))


@stock.task(name="bench.prefork")
def prefork() -> int:
    """A call in a process of its own."""
    if "sync" not in _clients:
        _clients["sync"] = OpenAI(api_key="none", base_url=SERVER, max_retries=0, timeout=60)
    completion = _clients["sync"].chat.completions.create(model="mock", messages=MESSAGES)
    return int(completion.usage.total_tokens)


def _shared() -> AsyncOpenAI:
    if "async" not in _clients:
        _clients["async"] = make_client("aiohttp")
    client: AsyncOpenAI = _clients["async"]
    return client


async def bare(transport: str, raw: bool, in_flight: int) -> None:
    """Keep `in_flight` calls going until killed: the best that a script without any queue can do."""
    client = make_client(transport)

    async def lane() -> None:
        while True:
            await call(client, raw)

    await asyncio.gather(*[lane() for _ in range(in_flight)])


def main() -> None:
    """`python -m benchmarks.pool_worker --transport aiohttp --in-flight 500 [--raw]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", choices=["default", "aiohttp"], required=True)
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--in-flight", type=int, required=True)
    options = parser.parse_args()
    uvloop.run(bare(options.transport, options.raw, options.in_flight))


if __name__ == "__main__":
    main()
