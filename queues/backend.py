"""Owns Celery's results and chord counts in Redis, written without blocking the worker's loop.

Celery's own Redis backend, logic and Lua unmodified, but for parts that complete no chord; inside a task of the asyncio pool
its commands ride the batches of one `Link`, anywhere else they go over redis-py's connections as ever.
`result_backend="queues.backend.LinkBackend+redis://..."`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

import redis
from celery.backends.redis import RedisBackend
from celery.states import SUCCESS
from redis.client import Pipeline

from queues.bridge import await_, background, in_crossing
from queues.link import Link

#: Seconds before each new try when the store did not answer; after the last one the error is the task's.
RETRY_DELAYS = (0.2, 0.5, 1.0, 2.0)


class LinkRedis(redis.Redis):
    """redis-py's client, whose commands ride a link when a task of the asyncio pool makes them."""

    link: Link

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command."""
        if not in_crossing():
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        return self._understood(args, options, await_(self.link.execute(*_flat(args))))

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """A pipeline whose commands share one batch of the link."""
        pipe = LinkPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipe.owner = self
        return pipe

    def _understood(self, args: Any, options: dict[str, Any], reply: Any) -> Any:
        callback = self.response_callbacks.get(args[0])
        options = {name: value for name, value in options.items() if name not in ("keys", "NEVER_DECODE")}
        return callback(reply, **options) if callback is not None else reply


class LinkPipeline(Pipeline):
    """The pipeline of LinkRedis.

    The link keeps its order but makes no transaction of it: the backend sets a key and then publishes it.
    """

    owner: LinkRedis

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """All commands in one batch; raises the first error reply."""
        if not in_crossing():
            return super().execute(raise_on_error)
        commands = [(args, options) for args, options in self.command_stack]
        self.reset()
        replies = await_(_gather(self.owner.link, [_flat(args) for args, _ in commands]))
        for reply in replies:
            if isinstance(reply, BaseException) and raise_on_error:
                raise reply
        return [
            reply if isinstance(reply, BaseException) else self.owner._understood(args, options, reply)
            for (args, options), reply in zip(commands, replies, strict=True)
        ]


class LinkBackend(RedisBackend):
    """Celery's Redis backend over LinkRedis."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._link = Link.from_url(self.url)
        background.add(self._hold_link)

    def _create_client(self, **params: Any) -> LinkRedis:
        client = LinkRedis(connection_pool=self._get_pool(**params))
        client.link = self._link
        return client

    def on_chord_part_return(self, request: Any, state: str, result: Any, propagate: Any = None, **kwargs: Any) -> None:
        """Celery's own; a part that completes nothing is counted together with others, for less."""
        if request.group and state == SUCCESS and self._chord_zset and in_crossing():
            try:
                value = json.dumps([1, request.id, state, result])
            except TypeError:  # Celery's encoder knows more types
                value = None
            place = "+inf" if request.group_index is None else request.group_index
            if value is not None and await_(self._count(request.group, request.id, value, place)):
                return
        super().on_chord_part_return(request, state, result, propagate, **kwargs)

    async def _count(self, *part: Any) -> bool:
        """Whether a part is counted now; else it is for Celery to count."""
        return bool(await self._link.each("part", (self._prefix,), (self._kept_s,), part))

    @cached_property
    def _prefix(self) -> str:
        return str(self.get_key_for_group("x").decode()).removesuffix("x")

    @cached_property
    def _kept_s(self) -> int:
        return int(self.chord_expires or 0)

    def ensure(self, fun: Callable[..., Any], args: tuple[Any, ...], **policy: Any) -> Any:
        """Celery's retries sleep; in a task these wait instead."""
        if not in_crossing():
            return super().ensure(fun, args, **policy)
        for delay in RETRY_DELAYS:
            try:
                return fun(*args)
            except self.connection_errors:
                await_(asyncio.sleep(delay))
        return fun(*args)

    async def _hold_link(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await self._link.aclose()


def _flat(args: tuple[Any, ...]) -> list[Any]:
    """redis-py allows "SCRIPT LOAD" as one word; the wire does not."""
    return [*str(args[0]).split(), *args[1:]]


async def _gather(link: Link, commands: list[list[Any]]) -> list[Any]:
    return await asyncio.gather(*[link.execute(*command) for command in commands], return_exceptions=True)
