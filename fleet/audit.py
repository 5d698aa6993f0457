"""The audit log: who did what, to what, and what became of it; of each tenant its own.

It owns the stream of a tenant's notes in the store. It keeps ids, never what was sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from queues.link import Link

#: Notes kept of a tenant, and some more.
MOST_NOTES = 100_000


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that was done, or tried."""

    #: Seconds since 1970 by the store's clock.
    at: float
    #: The id of the key, or whoever else it was.
    actor: str
    action: str
    #: The id of what it was done to; empty where there was none.
    target: str
    #: The status of the answer, or a word.
    outcome: str


class Audit:
    """The notes of one fleet. Errors: `queues.link.LinkError` when the store does not answer."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace

    async def note(self, tenant: str, actor: str, action: str, target: str, outcome: str) -> None:
        """Write down what was done."""
        fields = ("actor", actor, "action", action, "target", target, "outcome", outcome)
        await self._link.execute("XADD", self._key(tenant), "MAXLEN", "~", MOST_NOTES, "*", *fields)

    async def latest(self, tenant: str, most: int) -> list[Note]:
        """A tenant's latest notes, newest first."""
        entries = await self._link.execute("XREVRANGE", self._key(tenant), "+", "-", "COUNT", most, idempotent=True)
        found = []
        for id_, flat in entries:
            fields = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
            found.append(Note(int(id_.split(b"-")[0]) / 1000, **fields))
        return found

    def _key(self, tenant: str) -> str:
        return f"{self._namespace}:audit:{tenant}"
