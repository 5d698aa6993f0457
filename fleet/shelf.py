"""Records of one kind in the store, each tenant's in the order of their ids: uploaded files, batches.

It owns their keys; what is in a record, and what its id looks like, is for its users to say. An id that sorts by time makes
the order one of time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from queues.link import Link

Record = dict[str, str]


class Shelf:
    """The records of one kind. Errors: `queues.link.LinkError` when the store does not answer."""

    def __init__(self, link: Link, namespace: str, kind: str) -> None:
        self._link = link
        self._namespace = namespace
        self._kind = kind

    def key(self, tenant: str, id_: str) -> str:
        """Of a record, below the namespace."""
        return f"{self._kind}:{tenant}:{id_}"

    async def keep(self, tenant: str, id_: str, fields: Mapping[str, str | int], ends_at: float | None = None) -> bool:
        """Keep a record; False when there is one of that id. `ends_at`: seconds since 1970, for `ended` to find it."""
        flat = [part for pair in fields.items() for part in pair]
        what = (self._kind, tenant, id_, "" if ends_at is None else repr(ends_at), *flat)
        return bool(await self._link.call("keep", [self._namespace], what, idempotent=True))

    async def load(self, tenant: str, id_: str) -> Record | None:
        """A record; None when there is none."""
        flat = await self._link.execute("HGETALL", f"{self._namespace}:{self.key(tenant, id_)}", idempotent=True)
        return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)} or None

    async def page(
        self, tenant: str, most: int, *, after: str | None = None, newest_first: bool = True
    ) -> list[tuple[str, Record | None]]:
        """Records of a tenant behind the id `after`, whether that is still there or not; None for one that is just leaving."""
        key = f"{self._namespace}:{self._kind}:{tenant}"
        first, last = ("+", "-") if newest_first else ("-", "+")
        how = ("BYLEX", *(("REV",) if newest_first else ()), "LIMIT", 0, most)
        start = first if after is None else f"({after}"
        found = await self._link.execute("ZRANGE", key, start, last, *how, idempotent=True)
        ids = [id_.decode() for id_ in found]
        return list(zip(ids, await asyncio.gather(*(self.load(tenant, id_) for id_ in ids)), strict=True))

    async def drop(self, tenant: str, id_: str) -> None:
        """Drop a record. Safe to repeat; what is cut off half-way, `ended` and `page` still name."""
        below = f"{self._namespace}:{self._kind}"
        await self._link.execute("DEL", f"{below}:{tenant}:{id_}", idempotent=True)
        await self._link.execute("ZREM", f"{below}:{tenant}", id_, idempotent=True)
        await self._link.execute("ZREM", below, f"{tenant}/{id_}", idempotent=True)

    async def ended(self, now: float, most: int) -> list[tuple[str, str]]:
        """Tenant and id of records whose time is over."""
        range_ = ("-inf", repr(now), "BYSCORE", "LIMIT", 0, most)
        found = await self._link.execute("ZRANGE", f"{self._namespace}:{self._kind}", *range_, idempotent=True)
        pairs = [one.decode().partition("/") for one in found]
        return [(tenant, id_) for tenant, _, id_ in pairs]
