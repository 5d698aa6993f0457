"""The outbox: what happened to jobs and somebody outside is to be told of, until they were, or it was given up.

A notice is written by the script that changes the job (queues/lua/_outbox.lua), under a name that stays. Whoever tells of it
takes it for a while; one who dies leaves it due again, so it is told of at least once. It knows hosts as names that share a lane;
who is told, and how, is not its to know. Notices are kept for a week.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from queues.link import Link
from queues.subtasks import by_tier

State = Literal["due", "delivered", "failed"]

#: Longest that what was answered is kept.
MAX_ANSWER_CHARS = 300


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that happened to a job, and how far the telling is. Times are the store's, in seconds since 1970."""

    id: str
    job: str
    host: str
    #: The job's status by it.
    kind: str
    at: float
    #: What the job had used of its quota, and how many of its subtasks stood where, by tier, at that moment.
    used: int
    counts: Mapping[str, Mapping[str, int]]
    state: State
    #: Those that were begun, since it was asked for last.
    tries: int
    #: Of whoever took it last; only they may record what came of it.
    fence: int
    #: What came of the last try.
    last: str | None
    #: When it is tried next; while it is being tried, when somebody else may.
    due: float | None


class Outbox:
    """The outbox over one `Link`. Errors: `queues.link.LinkError` when the store does not answer."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace

    async def take(self, most: int, *, of_one_host: int, under_way: Mapping[str, int], lease_s: float) -> list[Notice]:
        """Up to `most` notices that are due, for `lease_s`: of one host so many, with those `under_way`."""
        pairs = [part for pair in under_way.items() for part in pair]
        flat = await self._call("outbox_claim", most, of_one_host, round(lease_s * 1000), *pairs, idempotent=False)
        taken = {id_.decode(): fence for id_, fence in zip(flat[::2], flat[1::2], strict=True)}
        return [notice for notice in await self._load(taken) if notice.fence == taken[notice.id]]

    async def delivered(self, notice: Notice, answer: str) -> bool:
        """Say that it was told. False here and below: somebody else has taken it since."""
        return await self._record(notice, "delivered", answer)

    async def later(self, notice: Notice, answer: str, delay_s: float) -> bool:
        """Have it tried again."""
        return await self._record(notice, "due", answer, delay_s)

    async def given_up(self, notice: Notice, answer: str) -> bool:
        """Have it tried no more."""
        return await self._record(notice, "failed", answer)

    async def again(self, name: str) -> str | None:
        """Have a notice told of again, or the latest one of a job; its id, None where there is none."""
        reply: bytes = await self._call("outbox_again", name)
        return reply.decode() or None

    async def latest(self, most: int, job: str | None = None) -> list[Notice]:
        """The newest notices, of one job or of all, newest first."""
        key = self._key("oba") if job is None else self._key("obj", job)
        found = await self._link.execute("ZRANGE", key, 0, most - 1, "REV", idempotent=True)
        return await self._load(id_.decode() for id_ in found)

    async def _record(self, notice: Notice, state: State, answer: str, delay_s: float = 0.0) -> bool:
        what = (notice.id, notice.fence, state, answer[:MAX_ANSWER_CHARS], round(delay_s * 1000))
        return bool(await self._call("outbox_record", *what))

    async def _load(self, ids: Iterable[str]) -> list[Notice]:
        """Those that are still known."""
        found = await asyncio.gather(*(self._notice(id_) for id_ in ids))
        return [notice for notice in found if notice is not None]

    async def _notice(self, id_: str) -> Notice | None:
        flat = await self._link.execute("HGETALL", self._key("obe", id_), idempotent=True)
        fields = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
        if not fields:
            return None
        due = await self._link.execute("ZSCORE", self._key("ob", fields["host"]), id_, idempotent=True)
        return _notice(id_, fields, due)

    async def _call(self, script: str, *args: str | int, idempotent: bool = True) -> Any:
        return await self._link.call(script, [self._namespace], args, idempotent=idempotent)

    def _key(self, *parts: str) -> str:
        return ":".join((self._namespace, *parts))


def _notice(id_: str, fields: Mapping[str, str], due: bytes | None) -> Notice:
    counts: list[str] = json.loads(fields["counts"]) or []  # an empty list of Lua comes as {}
    return Notice(
        id=id_,
        job=fields["job"],
        host=fields["host"],
        kind=fields["kind"],
        at=int(fields["at"]) / 1000,
        used=int(fields["used"]),
        counts=by_tier([part.encode() for part in counts]),
        state=fields["state"],  # type: ignore[arg-type]
        tries=int(fields["tries"]),
        fence=int(fields.get("fence", 0)),
        last=fields.get("last"),
        due=None if due is None else float(due) / 1000,
    )
