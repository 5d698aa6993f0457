"""Admitting jobs: written wholly or not at all, and told to their clients only once they are on the disk of the store.

It knows jobs as ids, hashes and the subtask that starts them, and what the store says of its disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from queues.link import Link
from queues.subtasks import NewSubtask

#: A store that syncs its disk once a second has synced what was written so long ago.
SYNCED_S = 2.0


class NotDurableError(Exception):
    """What was written is not on the disk of the store."""


@dataclass(frozen=True, slots=True)
class Once:
    """A promise to accept what is asked for one time only, however often it is asked: key below the namespace, and digest."""

    key: str
    digest: str
    keep_s: float


@dataclass(frozen=True, slots=True)
class Ends:
    """A job that ends with the subtask it starts with."""

    #: Whose mailbox the subtask's id is put into then; '-': nobody's.
    tell: str
    #: For how long the job, and the record of its entries, are kept from then on.
    keep_s: float
    record: str


@dataclass(frozen=True, slots=True)
class Within:
    """What a tenant may have under way at a time, and send in a day; None: any number. And what this job sends."""

    open_jobs: int | None = None
    bytes_per_day: int | None = None
    #: What it, and all together, may use (`queues.shared.words`).
    caps: str = ""
    bytes: int = 0


class OverLimitError(Exception):
    """A tenant has all that it may have; the text is of what: `jobs`, `bytes`, or a cap that is used up, `WHOM:PER:NUMBER`."""


class Admission:
    """Admits jobs over one `Link`. Errors: `queues.link.LinkError` when the store does not answer."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace

    async def accept(
        self,
        job: str,
        start: NewSubtask,
        *,
        tenant: str,
        share: float,
        weight: float,
        cap: int | None,
        document: tuple[str, Mapping[str, str | int | float]],
        index: tuple[str, float] = ("", 0.0),
        once: Once | None = None,
        ends: Ends | None = None,
        within: Within = Within(),
        hurried: bool = False,
    ) -> str | None:
        """Open a job with its document, its place in an index, its quota's cap and the subtask that starts it, or nothing.

        `share`: its weight among its tenant's jobs; `weight`: its tenant's among tenants; `document`: key below the namespace
        and fields; `index`: key and score; `ends`: the job ends with the subtask that starts it.

        `within`: what its tenant may have; `hurried`: the caller sends the subtask (`Dispatcher.hurry`).

        The job's id; that of an earlier one which the same was asked for under `once`; None where that was something else.

        Raises:
            OverLimitError: the tenant has all that it may have; nothing was written.
        """
        fields = [part for pair in document[1].items() for part in pair]
        head = [
            job,
            tenant,
            share,
            "" if cap is None else cap,
            document[0],
            *index,
            start.id,
            start.task,
            start.tier,
            weight,
        ]
        promise = ("", "", 0) if once is None else (once.key, once.digest, round(once.keep_s * 1000))
        end = ("", 0, "") if ends is None else (ends.tell, round(ends.keep_s * 1000), ends.record)
        most = ["" if limit is None else limit for limit in (within.open_jobs, within.bytes_per_day)]
        what = (
            *head,
            *promise,
            start.payload,
            start.cost,
            *end,
            *most,
            within.caps,
            within.bytes,
            int(hurried),
            *fields,
        )
        reply: str = (await self._call("accept", *what)).decode()
        if reply.startswith("!"):
            raise OverLimitError(reply[1:])
        return reply or None

    async def keeps_on_disk(self) -> float:
        """Seconds after which what was written is surely on the disk of the store, beside what `on_disk` waits for.

        Valkey 9.1 answers WAITAOF at once where it syncs once a second, before it has: time is all that can be trusted then.

        Raises:
            NotDurableError: the store keeps nothing on disk, or does not say when it does.
        """
        info = (await self._link.execute("INFO", "persistence", idempotent=True)).decode()
        try:
            setting = (await self._link.execute("CONFIG", "GET", "appendfsync", idempotent=True))[1]
        except ResponseError:  # not for everybody's eyes: the default then
            setting = b"everysec"
        if "aof_enabled:1" not in info or setting not in (b"always", b"everysec"):
            raise NotDurableError(
                "The store keeps nothing on disk at once, so no job is accepted: set appendonly yes and appendfsync "
                "always (or everysec, with which each submit takes two seconds)."
            )
        return 0.0 if setting == b"always" else SYNCED_S

    async def on_disk(self) -> None:
        """Wait until everything written on this link so far is on the disk of the store.

        Raises:
            NotDurableError: the store keeps nothing on disk, or did not manage within 10 s.
        """
        wait_s = await self.keeps_on_disk()
        try:
            local, _ = await self._link.execute("WAITAOF", 1, 0, 10_000)
        except ResponseError:  # a server without WAITAOF
            local = 1
        if local < 1:
            raise NotDurableError(
                "The store did not write to its disk within 10 s; look at its disk, then submit again."
            )
        await asyncio.sleep(wait_s)

    async def retract(self, job: str, start: str, document: str, index: str, once: Once | None = None) -> bool:
        """Take back a job that `accept` wrote; False when it has begun."""
        return bool(await self._call("retract", job, document, index, start, "" if once is None else once.key))

    async def _call(self, script: str, *args: str | int | float) -> Any:
        return await self._link.call(script, [self._namespace], args, idempotent=True)
