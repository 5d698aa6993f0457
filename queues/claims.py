"""The claims a worker process holds: renewed together in the background, and whoever lost one is told.

It owns the heartbeat of a worker: one timer renews its claims and its place in the tier's window. It does not know
what the claims are for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence

from redis.exceptions import RedisError

from queues.store import Store
from queues.subtasks import Claim

logger = logging.getLogger(__name__)


class ClaimLost(Exception):
    """Another worker took over: this one must stop, and what it writes is refused."""


class Claims:
    """The live claims of one worker process."""

    def __init__(self, store: Store, tiers: Sequence[str], capacity: Callable[[], int]) -> None:
        self._store = store
        self._tiers = tiers
        self._capacity = capacity
        self._worker = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(3)}"
        self._held: dict[Claim, asyncio.Task[object]] = {}
        self._lost: set[Claim] = set()

    @contextlib.asynccontextmanager
    async def held(self, claim: Claim) -> AsyncIterator[None]:
        """Keep `claim` alive while the block runs.

        Raises:
            ClaimLost: it was lost, the block has been cancelled.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine always runs in one
        self._held[claim] = task
        try:
            yield
        except asyncio.CancelledError:
            if claim in self._lost:
                task.uncancel()
                raise ClaimLost(f"The claim on {claim.id} was taken over by another worker.") from None
            raise
        finally:
            del self._held[claim]
            self._lost.discard(claim)

    async def keep(self) -> None:
        """Renew claims and registration until cancelled; then take the worker out of the window."""
        interval_s = self._store.lease_ms / 3000
        # After the store was away its claims have little time left.
        again_s = min(interval_s, 0.5)
        capacity = self._capacity()
        try:
            while True:
                if (now := self._capacity()) != capacity:
                    await self._register(capacity, 0)
                    capacity = now
                known = await self._register(capacity, self._store.lease_ms)
                renewed = await self._renew()
                await asyncio.sleep(interval_s if known and renewed else again_s)
        finally:
            await self._register(capacity, 0)

    async def _register(self, capacity: int, lives_ms: int) -> bool:
        known = True
        for tier in self._tiers:
            try:
                await self._store.register(tier, self._worker, capacity, lives_ms)
            except RedisError as error:
                logger.warning("worker not registered in tier %s: %s", tier, error)
                known = False
        return known

    async def _renew(self) -> bool:
        try:
            lost = await self._store.renew(list(self._held))
        except RedisError as error:  # It does not answer, or it is full and refuses.
            # A claim that cannot be renewed expires; its fence then keeps this worker from writing.
            logger.warning("%d claims not renewed: %s", len(self._held), error)
            return False
        for claim in lost:
            if (task := self._held.get(claim)) is not None:
                self._lost.add(claim)
                task.cancel()
        return True
