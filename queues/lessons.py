"""What was learned from what happened: books of discounted sums, which the scripts add to as they write charges.

It owns reading them, and what is learned where there is no charge, from what is written down for a job. A book is a hash that
ages with every lesson (`learn` in `queues/lua/_common.lua`): for each half-life a clock `age:I` and sums `I:NAME`, of which what
is kept, over 2^age, is what they are worth now. What the sums mean is not known here. Books lie on shelves; one that is not
written for three months is dropped, as is the oldest of 500 on a shelf.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from queues.link import Link
from queues.subtasks import Lesson, described


@dataclass(frozen=True, slots=True)
class Learned:
    """What a book says now."""

    #: By half-life, from 1, and by name.
    sums: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    #: What else stands in it.
    notes: Mapping[str, str] = field(default_factory=dict)


class Lessons:
    """The books of one store. Errors: `queues.link.LinkError` when the store does not answer."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace

    async def read(self, shelf: str, book: str) -> Learned:
        """A book; an empty one where there is none."""
        flat = await self._link.execute("HGETALL", self._key(shelf, book), idempotent=True)
        return learned({name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)})

    async def books(self, shelf: str) -> dict[str, float]:
        """The books of a shelf, and when each was last written, in Unix seconds; the latest first."""
        flat = await self._link.execute("ZRANGE", self._key(shelf), 0, -1, "REV", "WITHSCORES", idempotent=True)
        return {name.decode(): float(at) / 1000 for name, at in zip(flat[::2], flat[1::2], strict=True)}

    async def note(self, shelf: str, book: str, notes: Mapping[str, str]) -> None:
        """Write notes into a book that is there; they do not age."""
        if await self._link.execute("EXISTS", self._key(shelf, book), idempotent=True):
            pairs = [part for name, value in notes.items() for part in (f"note:{name}", value)]
            await self._link.execute("HSET", self._key(shelf, book), *pairs, idempotent=True)

    async def amend(self, job: str, name: str, stands: str | None, body: str, lessons: Sequence[Lesson]) -> bool:
        """Write something down for a job in the place of what stands there, and learn from it, once however often it is asked.

        False where something else stands there by now; nothing is written then.
        """
        told = json.dumps(described(lessons))
        what = (job, name, stands or "", body, told)
        return bool(await self._link.call("amend", [self._namespace], what, idempotent=True))

    def _key(self, *parts: str) -> str:
        return ":".join((self._namespace, "learned", *parts))


def learned(fields: Mapping[str, str]) -> Learned:
    """What the fields of a book say."""
    ages = {name.removeprefix("age:"): float(age) for name, age in fields.items() if name.startswith("age:")}
    sums: dict[int, dict[str, float]] = {}
    notes: dict[str, str] = {}
    for field_, value in fields.items():
        of_it, _, name = field_.partition(":")
        if of_it == "note":
            notes[name] = value
        elif of_it in ages:
            sums.setdefault(int(of_it), {})[name] = float(value) / 2 ** ages[of_it]
    return Learned(sums, notes)
