"""Relief: lets jobs go on that were paused at a cap, as soon as what they were short of fits again.

Because a day or a month has begun, the configuration allows more, or less was used in the end than was thought. The store
decides whether it fits; this loop of the coordinator only asks, at a bounded interval, and any number of them may. It also
frees what an earlier version left held of shared quotas.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from redis.exceptions import RedisError

from fleet.caps import Caps
from queues.quotas import Quotas

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
#: Jobs that are asked about each time.
MOST = 100
#: Looks after which the holds are gone through once.
ROUNDS = 30


class Relief:
    """Looks every few seconds for jobs that are paused at a cap."""

    def __init__(self, quotas: Quotas, caps: Caps, tiers: Sequence[str]) -> None:
        self._quotas = quotas
        self._caps = caps
        self._tiers = tiers

    async def run(self) -> None:
        """Relieve until cancelled."""
        looks = 0
        while True:
            try:
                await self.look()
                if looks % ROUNDS == 0:
                    await self.free_lost()
                looks += 1
            except RedisError as error:
                logger.warning("relief interrupted: %s", error)
            await asyncio.sleep(INTERVAL_S)

    async def look(self) -> None:
        """Let go on what can."""
        for job in await self._quotas.short(MOST):
            if await self._quotas.relieve(job, self._caps.of(job), self._tiers):
                logger.info("goes on: what it was short of fits again", extra={"job": job})

    async def free_lost(self) -> None:
        """Go through the holds once."""
        cursor, freed = await self._quotas.free_lost()
        while cursor != "0":
            cursor, more = await self._quotas.free_lost(cursor)
            freed += more
        if freed:
            logger.warning("freed %d holds of shared budgets whose calls were settled without them, or never", freed)
