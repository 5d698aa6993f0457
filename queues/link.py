"""Owns the one asyncio connection of a process to its store, and the batching on it.

Commands and script calls that coroutines issue in one tick of the loop leave in one write; while that batch is under
way the next one collects. Calls of the same script for one thing each become one call for all of them. Each caller awaits
its own reply or gets its own error. It knows Redis commands and Lua scripts, not what they are for. A `Link` belongs to the
loop on which it is first used.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, cast

from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig

from queues.calls import Argument, Call, Each, Words, merged, packed, scripted
from queues.scripts import load

#: Seconds to wait before each new try to reach the store; their number bounds the tries.
BACKOFF = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
#: Seconds between looks at a server that loads its data, and how long a call waits for that.
LOADING_DELAY, LOADING_PATIENCE = 0.2, 60.0
#: Calls sent in one batch: bounds both the write and how long the server is kept from other clients.
MAX_BATCH = 512
#: Idle connections kept for blocking commands; one more blocking call than that opens a connection of its own.
MAX_IDLE_BLOCKING = 4


#: What a server says that refuses to write for now: its disk is full, it loads its data, it is no primary.
REFUSES_FOR_NOW = ("MISCONF", "OOM", "NOREPLICAS", "READONLY", "LOADING", "TRYAGAIN", "MASTERDOWN")


class LinkError(RedisConnectionError):
    """The store did not answer a call. To code that knows redis-py only, a ConnectionError of its own."""


class LinkLost(LinkError):
    """The connection broke after a call was sent: it may or may not have been carried out."""


class LinkClosed(LinkError):
    """The link was closed before the call was answered."""


def passes(error: RedisError) -> bool:
    """Whether a store that failed so may do it later."""
    if isinstance(error, RedisConnectionError | OutOfMemoryError | ReadOnlyError):
        return True
    return isinstance(error, ResponseError) and str(error).startswith(REFUSES_FOR_NOW)


class _Wire(Protocol):
    """The part of redis-py's connection that a link uses."""

    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = False) -> None: ...
    async def send_packed_command(self, command: Sequence[bytes], check_health: bool = True) -> None: ...
    async def read_response(self, *, disconnect_on_error: bool = True) -> Any: ...


class Link:
    """A batching asyncio connection. Replies are bytes, ints, lists or None; an error reply is raised as redis-py's."""

    def __init__(self, url: str, *, reply_timeout: float) -> None:
        """Use `Link.from_url`."""
        kwargs = cast("dict[str, Any]", dict(parse_url(url)))
        self._wire_class = cast("type[Any]", kwargs.pop("connection_class", Connection))
        # RESP2 and no push messages: every byte that arrives answers a call, in order.
        self._wire_kwargs = kwargs | {
            "protocol": 2,
            "socket_connect_timeout": reply_timeout,
            "socket_timeout": None,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        self._reply_timeout = reply_timeout
        self._wire: _Wire | None = None
        self._waiting: deque[Call | Each] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._idle_blocking: list[_Wire] = []
        self._closed = False

    @classmethod
    def from_url(cls, url: str, *, reply_timeout: float = 10.0) -> Link:
        """A link to `redis://`, `rediss://` or `unix://` `url`; it connects at the first call.

        `reply_timeout`: seconds after which an unanswered batch counts as a lost connection.
        """
        return cls(url, reply_timeout=reply_timeout)

    async def call(
        self, name: str, keys: Sequence[str], args: Sequence[Argument] = (), *, idempotent: bool = False
    ) -> Any:
        """Run the script `queues/lua/<name>.lua`. `idempotent` calls are sent again if the connection breaks.

        Raises ValueError (no such script), redis.exceptions.ResponseError (the script failed), LinkError.
        """
        reply = self._reply()
        self._submit(scripted(name, keys, args, [reply], idempotent=idempotent))
        return await reply

    async def each(self, name: str, keys: Sequence[str], head: Sequence[Argument], args: Sequence[Argument]) -> Any:
        """As `call`, for a script that does the same for each of several groups of arguments, which follow the head.

        Those that are asked for in one tick with the same keys and head run as one. Its reply is a list of one reply for
        each group; what one of them fails of is raised to whoever asked for that one. Sent again if the connection breaks.
        Raises as `call` does.
        """
        reply = self._reply()
        load(name)  # there is one, or whoever asks is told so
        self._submit(Each(name, tuple(keys), tuple(head), Words.of(args), reply))
        return await reply

    async def execute(self, *command: Argument, idempotent: bool = False) -> Any:
        """Run one command, for example `execute("GET", key)`. Never a blocking one: use `blocking` for those."""
        reply = self._reply()
        self._submit(Call(str(command[0]), [Words.of(command)], [reply], idempotent))
        return await reply

    async def blocking(self, *command: Argument, timeout: float) -> Any:  # noqa: ASYNC109 - the server's own timeout
        """Run a command that waits in the server (BLPOP, BLMOVE), with `timeout` in seconds as its last argument.

        It has a connection of its own. Never retried; a cancelled call closes its connection. Raises LinkError.
        """
        self._check_open()
        wire = self._idle_blocking.pop() if self._idle_blocking else self._new_wire()
        try:
            async with asyncio.timeout(timeout + self._reply_timeout):
                await wire.connect()
                await wire.send_packed_command([packed((Words.of((*command, timeout)),))], check_health=False)
                reply = await wire.read_response()
        except (RedisConnectionError, OSError, TimeoutError) as error:
            await wire.disconnect(nowait=True)
            raise LinkLost(f"The store's connection broke during {command[0]!s}: {error}. Call again.") from error
        except BaseException:
            await wire.disconnect(nowait=True)
            raise
        if self._closed or len(self._idle_blocking) >= MAX_IDLE_BLOCKING:
            await wire.disconnect()
        else:
            self._idle_blocking.append(wire)
        return reply

    async def aclose(self) -> None:
        """Close the connections; calls that are still waiting get LinkClosed. Idempotent."""
        self._closed = True
        if self._pump is not None:
            self._pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump
        for call in self._taken(len(self._waiting)):
            call.fail(LinkClosed("The link to the store was closed before this call ran."))
        wires = [*self._idle_blocking, *([self._wire] if self._wire else [])]
        self._idle_blocking, self._wire = [], None
        for wire in wires:
            await wire.disconnect()

    def _check_open(self) -> None:
        if self._closed:
            raise LinkClosed("The link to the store is closed; make a new one with Link.from_url.")

    def _new_wire(self) -> _Wire:
        return cast("_Wire", self._wire_class(**self._wire_kwargs))

    def _reply(self) -> asyncio.Future[Any]:
        self._check_open()
        return asyncio.get_running_loop().create_future()

    def _submit(self, call: Call | Each) -> None:
        self._waiting.append(call)
        if self._pump is None:
            # The task's first step runs in the next tick, so everything issued in this one shares its batch.
            self._pump = asyncio.get_running_loop().create_task(self._run(), name="link")

    def _taken(self, most: int) -> list[Call]:
        """Up to `most` of what waits."""
        return merged([self._waiting.popleft() for _ in range(min(len(self._waiting), most))])

    async def _run(self) -> None:
        """Send batches until nothing waits."""
        await asyncio.sleep(0)  # for what those issue that were started beside whoever issued the first
        try:
            while self._waiting:
                batch = self._taken(MAX_BATCH)
                try:
                    await self._exchange(batch)
                except asyncio.CancelledError:
                    for call in batch:
                        call.fail(LinkClosed("The link to the store was closed while this call ran."))
                    raise
        finally:
            self._pump = None

    async def _exchange(self, batch: list[Call]) -> None:
        """One round trip for `batch`; calls that may go again are put back in front of the queue."""
        again: list[Call] = []
        answered = 0
        loading = False
        try:
            wire = await self._connected()
        except (RedisError, OSError, TimeoutError) as error:
            for call in batch:
                call.fail(
                    LinkError(
                        f"The store cannot be reached: {str(error).rstrip('.')}. Check its URL and that it runs."
                    ),
                )
            return
        try:
            async with asyncio.timeout(self._reply_timeout):
                await wire.send_packed_command([b"".join([packed(call.words) for call in batch])], check_health=False)
                for call in batch:
                    loading |= await self._read_reply(wire, call, again)
                    answered += 1
        except (RedisConnectionError, OSError, TimeoutError) as error:
            await self._drop()
            again.extend(self._after_loss(batch[answered:], error))
        except asyncio.CancelledError:
            await self._drop()
            raise
        self._waiting.extendleft(reversed(self._after_loading(again) if loading else again))
        if loading:
            await asyncio.sleep(LOADING_DELAY)

    async def _read_reply(self, wire: _Wire, call: Call, again: list[Call]) -> bool:
        """Answer `call`, or add it to those that go again; whether the server is still loading its data."""
        try:
            reply = await wire.read_response(disconnect_on_error=False)
        except NoScriptError as error:
            if call.script is None:
                call.fail(error)
            else:  # It has not run: send the source, which also loads it.
                call.send_source()
                again.append(call)
        except BusyLoadingError:
            # A server that reads its data back has not run it: it goes again, when that may be over.
            again.append(call)
            return True
        except RedisConnectionError:
            raise
        except RedisError as error:
            call.fail(error)
        else:
            call.answer(reply)
        return False

    def _after_loading(self, calls: list[Call]) -> list[Call]:
        """Those of `calls` that have not waited too long for the server to have its data; the others fail."""
        patient = []
        for call in calls:
            call.waits += 1
            if call.waits * LOADING_DELAY <= LOADING_PATIENCE:
                patient.append(call)
            else:
                call.fail(LinkError("The store is still loading its data; wait until it has, then call again."))
        return patient

    def _after_loss(self, calls: list[Call], error: BaseException) -> list[Call]:
        """Those of `calls` that may be sent again; the others fail."""
        again = []
        for call in calls:
            call.tries += 1
            if call.idempotent and call.tries <= len(BACKOFF):
                again.append(call)
            else:
                reason = f"{call.name}: {str(error) or type(error).__name__}"
                call.fail(LinkLost(f"The store's connection broke during {reason}. It may have run."))
        return again

    async def _connected(self) -> _Wire:
        """The connection, made new if need be, trying as often as BACKOFF has entries."""
        if self._wire is not None:
            return self._wire
        for delay in (*BACKOFF, None):
            wire = self._new_wire()
            try:
                await wire.connect()
            except (RedisConnectionError, OSError, TimeoutError):
                await wire.disconnect(nowait=True)
                if delay is None:
                    raise
                await asyncio.sleep(delay)
            else:
                self._wire = wire
                return wire
        raise AssertionError("unreachable: the last try returns or raises")

    async def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.disconnect(nowait=True)
