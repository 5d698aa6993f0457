"""Puts back what should be moving and is not: expired claims, lost messages, gates whose chord never fired.

The store knows when each of them is due; this loop only asks, at a bounded interval.
"""

from __future__ import annotations

import asyncio
import logging

from redis.exceptions import RedisError

from queues.store import SHARD, Store

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0


class Reconciler:
    """Asks the store once a second."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            try:
                put_back = await self._store.reconcile()
            except RedisError as error:
                logger.warning("reconcile interrupted: %s", error)
                put_back = []
            for id_, state in put_back:
                logger.info("put back into the backlog: subtask=%s found=%s", id_, state, extra={"subtask": id_})
            if len(put_back) < SHARD:
                await asyncio.sleep(INTERVAL_S)
