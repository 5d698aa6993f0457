"""A process's mailbox in the store: the ids of subtasks that ended, put there by the script that ended them.

What is lost with the store's last second, or with the mailbox of a process that was away, is for its owner to look after. It
knows ids only.
"""

from __future__ import annotations

import secrets

from queues.link import Link

#: Ids taken out together.
MOST = 200


class Mailbox:
    """The mailbox of whoever makes it; it has a name that nobody else has, and is gone a minute after its last news."""

    def __init__(self, link: Link, namespace: str) -> None:
        self.name = secrets.token_hex(8)
        self._link = link
        self._key = f"{namespace}:told:{self.name}"

    async def first(self, timeout_s: float) -> str | None:
        """The oldest of what came, waited for up to `timeout_s`. Raises `queues.link.LinkError`."""
        found = await self._link.blocking("BLPOP", self._key, timeout=timeout_s)
        return None if found is None else found[1].decode()

    async def rest(self) -> list[str]:
        """What else is there. Raises `queues.link.LinkError`."""
        return [id_.decode() for id_ in await self._link.execute("LPOP", self._key, MOST) or []]
