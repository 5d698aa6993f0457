"""From the backlog to the tier queues: rung by the store, it releases what the window has room for and sends it.

Any number of dispatchers may run: what is released, and to whom, is decided in one script. A message that cannot be
sent is sent again by the reconciler. It knows ids and wire names only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from queues.failpoints import failpoint
from queues.gate import Gates
from queues.messages import Publisher
from queues.store import Store
from queues.subtasks import Released
from queues.tiers import Tier

logger = logging.getLogger(__name__)

#: Subtasks released and sent in one go: bounds how long one tier keeps the others waiting.
BATCH = 200
#: Longest sleep without a ring: what was held back for its pace is looked at again, and a lost ring costs no more.
IDLE_S = 0.25
#: Pause after the store or the broker failed.
RETRY_S = 0.5
#: Who hurried looks so much later whether a worker took what was sent: most run by then, and nothing is to be written for them.
TAKEN_S = 0.1


class Dispatcher:
    """Releases and sends, tier by tier."""

    def __init__(self, publisher: Publisher, store: Store, gates: Gates, tiers: Iterable[Tier]) -> None:
        self._publisher = publisher
        self._store = store
        self._gates = gates
        self._tiers = deque(tiers)
        self._by_name = {tier.name: tier for tier in self._tiers}
        #: By tier, what the store was asked for and has not been sent yet.
        self._asked: dict[str, asyncio.Future[list[Released]]] = {}

    async def run(self) -> None:
        """Dispatch until cancelled."""
        try:
            while True:
                try:
                    if not await self.dispatch():
                        await self._store.await_ring(IDLE_S)
                except (RedisError, OperationalError, OSError) as error:
                    logger.warning("dispatch interrupted, the reconciler re-sends what was not sent: %s", error)
                    self._asked = {name: asked for name, asked in self._asked.items() if not _failed(asked)}
                    await asyncio.sleep(RETRY_S)
        finally:
            for asked in self._asked.values():
                asked.cancel()
            self._asked.clear()

    async def hurry(self, tier: str) -> None:
        """Release and send what is due of one tier, beside whoever does it for all: for somebody who waits."""
        try:
            if released := await self._store.release(tier, BATCH, self._by_name[tier].pace):
                await self._publish(tier, released)
                await asyncio.sleep(TAKEN_S)
                await self._store.sent([subtask.id for subtask in released])
        except (RedisError, OperationalError, OSError) as error:
            logger.warning("nothing was hurried, the reconciler re-sends what was not sent: %s", error)

    async def dispatch(self) -> int:
        """One round over all tiers; the number of messages sent."""
        self._tiers.rotate()  # so that of tiers that share an account none is always the first
        for tier in self._tiers:
            self._ask(tier)
        sent = 0
        for tier in tuple(self._tiers):
            released = await self._asked.pop(tier.name)
            if released:
                failpoint("released")
                if len(released) == BATCH:
                    self._ask(tier)  # there is more: the store is at it while these are sent
                await self._send(tier.name, released)
                failpoint("sent")
                sent += len(released)
        return sent

    def _ask(self, tier: Tier) -> None:
        if tier.name not in self._asked:
            self._asked[tier.name] = asyncio.ensure_future(self._store.release(tier.name, BATCH, tier.pace))

    async def _send(self, tier: str, released: Sequence[Released]) -> None:
        await self._publish(tier, released)
        await self._store.sent([subtask.id for subtask in released])

    async def _publish(self, tier: str, released: Sequence[Released]) -> None:
        # All members of a gate share its body. That of a gate sent from here had its chord lost; it reads what was gathered
        # from the store.
        bodies = {gate: await self._gates.body(gate) for gate in {subtask.gate for subtask in released} if gate}
        await self._publisher.publish(tier, released, bodies)


def _failed(asked: asyncio.Future[list[Released]]) -> bool:
    return asked.done() and (asked.cancelled() or asked.exception() is not None)
