"""Caps and how they stand, for whoever sets or watches them, and the jobs that were paused at one.

It owns neither holds nor charges, which are `store`'s: it raises caps, reads what is used, lets go on what fits again, and
frees what an earlier version left held. It knows amounts, not money.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from queues.link import Link
from queues.shared import EVERYBODY, Per, Shared, number_at

#: Holds that are looked at in one script.
LOOKED_AT = 200


class Quotas:
    """Quotas over one `Link`. Errors: `queues.link.LinkError` when the store does not answer."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace

    async def set_cap(self, quota: str, cap: int) -> tuple[int, int] | None:
        """Give a quota its hard cap; what is used and held of it, where that is more, and the cap stays what it was."""
        fits, used, held = await self._link.call("cap", [self._namespace], [quota, cap], idempotent=True)
        return None if fits else (used, held)

    async def shared(self, tenant: str) -> list[Shared]:
        """What is used and held now of what a tenant shares: its own day and month, and everybody's."""
        seconds, _ = await self._link.execute("TIME", idempotent=True)
        pers: tuple[Per, ...] = ("day", "month")
        which = [(whom, per, number_at(per, int(seconds))) for whom in (tenant, EVERYBODY) for per in pers]

        async def look(whom: str, per: Per, number: int) -> Shared:
            names = (f"{self._namespace}:{per}:{what}:{whom}" for what in ("used", "held"))
            looks = (self._link.execute("HGET", name, number, idempotent=True) for name in names)
            used, held = [int(found or 0) for found in await asyncio.gather(*looks)]
            return Shared(whom, per, number, used, held)

        return await asyncio.gather(*(look(*one) for one in which))

    async def short(self, most: int) -> list[str]:
        """Jobs that are paused at a cap, some of them: any, if there are more."""
        found = await self._link.execute("SRANDMEMBER", f"{self._namespace}:short", most, idempotent=True)
        return [job.decode() for job in found]

    async def relieve(self, job: str, caps: str, tiers: Iterable[str]) -> bool:
        """Let a job go on that was paused at a cap, if what it was short of fits by now; `caps`: those of its tenant."""
        return bool(await self._link.call("relieve", [self._namespace], [job, caps, *tiers], idempotent=True))

    async def free_lost(self, cursor: str = "0") -> tuple[str, int]:
        """Free some of the shared quotas' holds whose calls were settled by a version that does not know them.

        What is held for calls that nobody settled before their job was dropped is used from now on: they may have been made.
        The cursor to go on from, `0` at the end, and how many there were.
        """
        reply = await self._link.call("unhold", [self._namespace], [cursor, LOOKED_AT], idempotent=True)
        return reply[0].decode(), reply[1]
