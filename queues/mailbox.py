"""A process's mailbox in the store: what became of subtasks, put there by the script that ended them.

What is lost with the store's last second, or with the mailbox of a process that was away, is for its owner to look after. It
knows results as the store does.
"""

from __future__ import annotations

import secrets

from queues.link import Link
from queues.subtasks import Result, State

#: Results taken out together.
MOST = 200


class Mailbox:
    """The mailbox of whoever makes it; it has a name that nobody else has, and is gone a minute after its last news.

    Errors: `queues.link.LinkError` when the store does not answer.
    """

    def __init__(self, link: Link, namespace: str) -> None:
        self.name = secrets.token_hex(8)
        self._link = link
        self._key = f"{namespace}:told:{self.name}"

    async def first(self, timeout_s: float) -> Result | None:
        """The oldest of what came, waited for up to `timeout_s`."""
        found = await self._link.blocking("BLPOP", self._key, timeout=timeout_s)
        return None if found is None else _read(found[1])

    async def rest(self) -> list[Result]:
        """What else is there."""
        return [_read(one) for one in await self._link.execute("LPOP", self._key, MOST) or []]


def _read(told: bytes) -> Result:
    id_, tier, status, output = told.decode().split("\n", 3)
    return Result(id=id_, state=State.FINAL, tier=tier, status=status, output=output)  # type: ignore[arg-type]
