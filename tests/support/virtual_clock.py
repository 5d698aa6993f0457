"""The store's clock in a test's hand: its scripts read a key of their namespace where they would ask the server."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from queues import scripts

#: The one place at which the scripts over a namespace ask for the time, and what stands there instead.
SERVERS = b"local clock = redis.call('TIME')"
VIRTUAL = b"local clock = redis.call('HMGET', KEYS[1] .. ':clock', 'seconds', 'microseconds')"


@functools.cache
def load(name: str) -> scripts.Script:
    """The script of this name, on the virtual clock. Raises ValueError if it asks the server elsewhere."""
    source = scripts.load(name).source.replace(SERVERS, VIRTUAL)
    if source.count(VIRTUAL) != 1 or b"'TIME'" in source:
        raise ValueError(f"The script {name!r} has a clock of its own; it cannot run on a virtual one.")
    return scripts.Script(name=name, source=source, sha=hashlib.sha1(source, usedforsecurity=False).hexdigest())


@contextmanager
def virtual_clock() -> Iterator[None]:
    """Every link in this block runs its scripts on the clock of their namespace, which `at` sets."""
    with patch("queues.calls.load", load):
        yield


def at(namespace: str, now_ms: int) -> tuple[str | int, ...]:
    """The command that sets the clock of a namespace."""
    seconds, milliseconds = divmod(now_ms, 1000)
    return ("HSET", f"{namespace}:clock", "seconds", seconds, "microseconds", milliseconds * 1000)
