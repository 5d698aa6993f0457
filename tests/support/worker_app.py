"""A small app for real worker processes in tests; URLs come from the environment."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time

import redis.asyncio
from celery.exceptions import SoftTimeLimitExceeded

from queues.app import QueueSettings, build_app
from queues.bridge import await_, background
from queues.tiers import Tier

URL = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:1")
WORK = Tier(name="work", queue="test.work", concurrency=int(os.environ.get("TEST_CONCURRENCY", "20")))
SETTINGS = QueueSettings(
    broker_url=URL + "/0",
    store_url=URL + "/1",
    namespace="test",
    visibility_timeout=float(os.environ.get("TEST_VISIBILITY", "3")),
    restore_interval=0.5,
)
app = build_app(SETTINGS, [WORK])
current = contextvars.ContextVar("current", default="unset")


async def _record(kind: str, value: object) -> None:
    async with redis.asyncio.Redis.from_url(URL + "/2") as client:
        await client.rpush(kind, str(value))


@app.task(shared=False, name="test.wait", queue=WORK.queue)
def wait(number: int, seconds: float) -> int:
    """Say that it started, wait, say that it ended."""

    async def body() -> None:
        await _record("started", number)
        await asyncio.sleep(seconds)
        await _record("ended", number)

    await_(body())
    return number


@app.task(shared=False, name="test.context", queue=WORK.queue)
def context(number: int) -> None:
    """A context variable set before an await is still one's own after it."""
    before = current.get()
    current.set(str(number))
    await_(asyncio.sleep(0.02))
    await_(_record("context", f"{before}:{current.get() == str(number)}"))


@app.task(shared=False, name="test.soft", queue=WORK.queue, soft_time_limit=0.2)
def soft() -> None:
    """Ends by its soft limit and cleans up."""
    try:
        await_(asyncio.sleep(30))
    except SoftTimeLimitExceeded:
        await_(_record("soft", "cleaned up"))


@app.task(shared=False, name="test.hard", queue=WORK.queue, time_limit=0.3, ignore_result=False)
def hard() -> None:
    """Ends by its hard limit."""
    try:
        await_(asyncio.sleep(30))
    finally:
        await_(_record("hard", "ended"))


@app.task(shared=False, name="test.fail", queue=WORK.queue, ignore_result=False)
def fail() -> None:
    """Raises."""
    raise ValueError("as asked")


@app.task(shared=False, name="test.block", queue=WORK.queue, soft_time_limit=1.0)
def block(seconds: float) -> None:
    """Stall the whole worker, as a bad neighbour does."""
    await_(asyncio.sleep(0))
    time.sleep(seconds)


@app.task(shared=False, name="test.sleep", queue=WORK.queue)
def sleep(seconds: float) -> None:
    """Wait without any server, and say so in the log."""
    print("sleep is asleep", flush=True)
    await_(asyncio.sleep(seconds))
    print("sleep is awake", flush=True)


@app.task(shared=False, name="test.header", queue=WORK.queue)
def header(number: int) -> int:
    """A chord's part."""
    await_(asyncio.sleep(0.01))
    return number


@app.task(shared=False, name="test.body", queue=WORK.queue)
def body(parts: list[int]) -> None:
    """A chord's body."""
    await_(_record("body", sorted(parts)))


async def _background() -> None:
    await _record("background", "started")
    try:
        await asyncio.Event().wait()
    finally:
        await _record("background", "ended")


background.add(_background)
