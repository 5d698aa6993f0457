"""What a link carries: calls with their bytes and those who wait for them, and several alike made one. It knows no connection."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import hiredis
from redis.exceptions import ResponseError

from queues.scripts import Script, load

Argument = str | int | float | bytes

#: Calls that one run of a script serves: bounds how long the server is kept from other clients by that.
MAX_EACH = 128


@dataclass(slots=True, eq=False)
class Words:
    """Words of a command as they go over the wire, and how many."""

    number: int
    packed: bytes

    @classmethod
    def of(cls, words: Sequence[Argument]) -> Words:
        """Raises TypeError: one of them is nothing that a command can have."""
        packed = cast("bytes", hiredis.pack_command(cast("Any", tuple(words))))
        return cls(len(words), packed[packed.index(b"\r\n") + 2 :])


@dataclass(slots=True, eq=False)
class Call:
    """One call on its way: its words, who waits for it, and what may be done when the connection breaks."""

    name: str
    words: Sequence[Words]
    replies: list[asyncio.Future[Any]]
    idempotent: bool
    script: Script | None = None
    #: Whether the reply is a list of one for each of `replies`.
    many: bool = False
    tries: int = 0
    waits: int = 0

    def answer(self, reply: Any) -> None:
        """Give those who wait the reply, or each theirs of it."""
        if self.many and (not isinstance(reply, list) or len(reply) != len(self.replies)):
            self.fail(ResponseError(f"The script {self.name} answered {len(self.replies)} calls with something else."))
            return
        for future, its in zip(self.replies, reply if self.many else [reply], strict=True):
            if not future.done():
                if isinstance(its, Exception):
                    future.set_exception(its)
                else:
                    future.set_result(its)

    def fail(self, error: Exception) -> None:
        for future in self.replies:
            if not future.done():
                future.set_exception(copy.copy(error))  # each is raised, and gets a traceback, on its own

    def send_source(self) -> None:
        """From now on with the script's source: the server does not know it."""
        if self.script is not None:
            self.words = [Words.of(("EVAL", self.script.source)), *self.words[1:]]


@dataclass(slots=True, eq=False)
class Each:
    """One of several calls that become one, as long as they agree in script, keys and head."""

    name: str
    keys: tuple[str, ...]
    head: tuple[Argument, ...]
    words: Words
    reply: asyncio.Future[Any]


def packed(words: Sequence[Words]) -> bytes:
    """A command of these words."""
    return b"*%d\r\n" % sum(some.number for some in words) + b"".join([some.packed for some in words])


def scripted(
    name: str, keys: Sequence[str], args: Sequence[Argument], replies: list[asyncio.Future[Any]], *, idempotent: bool
) -> Call:
    """A call of `queues/lua/<name>.lua`. Raises ValueError: there is no such script."""
    script = load(name)
    words = [Words.of(("EVALSHA", script.sha)), Words.of((len(keys), *keys, *args))]
    return Call(name, words, replies, idempotent, script)


def merged(waiting: Iterable[Call | Each]) -> list[Call]:
    """As few calls as will do, without what nobody waits for any more."""
    calls: list[Call] = []
    alike: dict[tuple[Any, ...], list[Each]] = {}
    for call in waiting:
        if isinstance(call, Each):
            if not call.reply.cancelled():
                alike.setdefault((call.name, call.keys, call.head), []).append(call)
        elif not all(reply.cancelled() for reply in call.replies):
            calls.append(call)
    for (name, keys, head), several in alike.items():
        for start in range(0, len(several), MAX_EACH):
            some = several[start : start + MAX_EACH]
            replies = [each.reply for each in some]
            one = scripted(name, keys, head, replies, idempotent=True)
            one.words = [*one.words, *(each.words for each in some)]
            one.many = True
            calls.append(one)
    return calls
