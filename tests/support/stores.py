"""A store over the test Valkey, and the small moves that store tests share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from queues.link import Link
from queues.store import Store
from queues.subtasks import Claim, NewSubtask
from tests.support.valkey import Valkey

NAMESPACE = "test"
TASK = "test.run"


@contextlib.asynccontextmanager
async def open_store(valkey: Valkey, *, lease_ms: int = 30_000, capacity: int = 1_000) -> AsyncIterator[Store]:
    """A store whose tiers `nano` and `mini` have one live worker each of `capacity`."""
    link = Link.from_url(valkey.url)
    store = Store(link, NAMESPACE, lease_ms=lease_ms)
    try:
        for tier in ("nano", "mini"):
            await store.register(tier, "w", capacity, 600_000)
        yield store
    finally:
        await link.aclose()


def new(id_: str, **fields: object) -> NewSubtask:
    """A subtask of tier nano unless told otherwise."""
    return NewSubtask(**({"id": id_, "task": TASK, "tier": "nano", "payload": f"payload of {id_}"} | fields))  # type: ignore[arg-type]


async def claimed(store: Store, id_: str, tier: str = "nano") -> Claim:
    """The claim on a subtask that must be free to claim."""
    claim = await store.claim(id_, tier)
    assert isinstance(claim, Claim), claim
    return claim
