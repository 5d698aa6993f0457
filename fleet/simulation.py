"""Whether the simulated provider answers for the fleet's models, as the fleet itself says it: receipts tell whether anybody paid.

Who submits a job may have a key that the fleet has not, and the reverse. So the coordinator notes in the store what its processes
use, and who submits reads that. It knows no provider.
"""

from __future__ import annotations

import logging

from redis.exceptions import NoPermissionError

from queues.link import Link

logger = logging.getLogger(__name__)


class Simulation:
    """What one process knows of it, and what the fleet has said. Errors: RedisError when the store does not answer."""

    def __init__(self, link: Link, namespace: str, *, own: bool) -> None:
        """`own`: whether it is so by the configuration and the environment of this process."""
        self._link = link
        self._key = f"{namespace}:simulated"
        self._own = own

    async def note(self) -> None:
        """Say it for the fleet: its coordinator does, before it takes work."""
        try:
            await self._link.execute("SET", self._key, int(self._own), idempotent=True)
        except NoPermissionError:
            logger.warning(
                "The store's users are older than the fleet: receipts say `simulated` as who submits knows it."
            )

    async def known(self) -> bool:
        """What the fleet has said; of one that has not (an older version's), what this process would use."""
        try:
            said = await self._link.execute("GET", self._key, idempotent=True)
        except NoPermissionError:
            said = None
        return self._own if said is None else said == b"1"
