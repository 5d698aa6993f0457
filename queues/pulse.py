"""What moves in the store right now: what was spent so far, whose work is out or ready, what lies in the queues of the broker.

For whoever watches, about once a second: a bounded number of plain reads, which change nothing. What stands where by tier is
`queues.survey`'s to say. It knows ids and numbers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from queues.link import Link
from queues.subtasks import by_tier

#: Subtasks that are out, of which one look takes a sample by tier; tenants, and jobs of each, with something ready.
SAMPLE, MOST_TENANTS, MOST_LANES = 200, 20, 20


class Pulse:
    """Looks over one `Link`, at the given tiers. Raises RedisError when the store does not answer."""

    def __init__(self, link: Link, namespace: str, tiers: Sequence[str]) -> None:
        self._link = link
        self._namespace = namespace
        self._tiers = tiers

    async def spent(self) -> dict[str, dict[str, int]]:
        """By lane, what charges have added up to since the store is there: `amount`, and what their tallies count."""
        return by_tier(await self._read("HGETALL", self._key("spent")))

    async def busy(self, most: int) -> list[str]:
        """Jobs with something under way or ready, those with the most of a sample under way first; at most so many."""
        samples = await asyncio.gather(
            *(self._read("SRANDMEMBER", self._key("out", tier), SAMPLE) for tier in self._tiers)
        )
        found = Counter(id_.decode().partition("/")[0] for sample in samples for id_ in sample)
        tenants = await asyncio.gather(
            *(self._read("ZRANGE", self._key("b", tier), 0, MOST_TENANTS - 1) for tier in self._tiers)
        )
        lanes = [
            self._key("b", tier, tenant.decode())
            for tier, some in zip(self._tiers, tenants, strict=True)
            for tenant in some
        ]
        for jobs in await asyncio.gather(*(self._read("ZRANGE", lane, 0, MOST_LANES - 1) for lane in lanes)):
            found.update({job.decode(): 0 for job in jobs})
        return [job for job, _ in found.most_common(most)]

    async def calls(self, job: str) -> int:
        """The calls of a job that are under way."""
        return int(await self._read("HLEN", self._key("i", job)))

    async def _read(self, *command: str | int) -> Any:
        return await self._link.execute(*command, idempotent=True)

    def _key(self, *parts: str) -> str:
        return ":".join((self._namespace, *parts))
