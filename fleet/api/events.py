"""What happens to a job as server-sent events: kept by the store, so that whoever comes back misses none.

One reader a job asks the store, however many listen; each listener goes along its log at its own pace. It owns the wire of
events (WHATWG HTML, 9.2); it knows nothing of how a job moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

from redis.exceptions import RedisError

from fleet.errors import JobNotFoundError
from fleet.jobs import JobStatus
from fleet.store import JobStore
from queues.store import Store

logger = logging.getLogger(__name__)

#: Seconds between looks at the store, and after which a silent stream shows that it lives.
LOOK_S, KEEP_ALIVE_S = 0.25, 15.0
#: Looks without news after which the job itself is asked whether it has ended: an earlier version tells of no end.
SILENT_LOOKS = 20
#: Listeners of one process.
MOST_LISTENERS = 5_000
#: Seconds without the store after which listeners are let go; they come again and go on where they were.
AWAY_S = 30.0
FIRST = "0-0"
FINAL = frozenset(str(status) for status in JobStatus if status.final)
_ID = re.compile(r"\d{1,19}-\d{1,19}")

Event = tuple[str, dict[str, str]]


class Feed:
    """The events of one job, as far as they were read."""

    def __init__(self, store: Store, jobs: JobStore, job_id: str) -> None:
        self._store = store
        self._jobs = jobs
        self._job_id = job_id
        self._log: list[Event] = []
        self._news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        #: Everything was read of a job that has ended.
        self._ended = False
        self.listeners = 0

    def join(self) -> None:
        self.listeners += 1
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), context=contextvars.Context())  # not its first listener's

    def leave(self) -> None:
        self.listeners -= 1
        if not self.listeners and self._reader is not None:
            self._reader.cancel()
            self._reader = None

    async def after(self, id_: str) -> AsyncGenerator[Event | None]:
        """The events after one, as they come; None where there was none for a while. Ends with the job, or with the reader."""
        place = 0
        while True:
            news, known = self._news, len(self._log)
            for event in self._log[place:known]:
                if _number(event[0]) > _number(id_):
                    yield event
            place = known
            if place == len(self._log) and (self._ended or self._reader is None or self._reader.done()):
                return
            try:
                await asyncio.wait_for(news.wait(), KEEP_ALIVE_S)
            except TimeoutError:
                yield None

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        answered_at = loop.time()
        silent = 0
        try:
            while True:
                try:
                    found = await self._store.events(self._job_id, self._log[-1][0] if self._log else FIRST)
                    answered_at = loop.time()
                except RedisError as error:
                    if loop.time() - answered_at > AWAY_S:
                        told = {"job": self._job_id}
                        logger.warning("listeners to a job are let go, the store is away: %s", error, extra=told)
                        return
                    found = []
                if found:
                    self._log += found
                    self._ended, silent = False, 0
                    self._tell()
                    continue
                silent += 1
                # What is filed after its end is an event, too.
                if not self._ended and (ended(self._log) or (silent % SILENT_LOOKS == 0 and await self._is_over())):
                    self._ended = True
                    self._tell()
                await asyncio.sleep(LOOK_S)
        finally:
            self._tell()

    async def _is_over(self) -> bool:
        """Whether the job has ended, or is there no more."""
        try:
            return (await self._jobs.load(self._job_id)).status.final
        except JobNotFoundError:
            return True
        except RedisError:
            return False

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Feeds:
    """The feeds of the jobs that somebody listens to."""

    def __init__(self, store: Store, jobs: JobStore) -> None:
        self._store = store
        self._jobs = jobs
        self._feeds: dict[str, Feed] = {}

    @property
    def full(self) -> bool:
        """Whether as many listen as may."""
        return sum(feed.listeners for feed in self._feeds.values()) >= MOST_LISTENERS

    async def stream(self, job_id: str, after: str, still: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """The events of a job after the one with this id, on the wire; `still`: whether whoever listens still may."""
        feed = self._feeds.setdefault(job_id, Feed(self._store, self._jobs, job_id))
        feed.join()
        try:
            # The listener may be closed while it waits; what it waits in has to end with it.
            async with contextlib.aclosing(feed.after(after)) as events:
                async for event in events:
                    if event is None and not await still():
                        return
                    yield b": so far\n\n" if event is None else written(event)
        finally:
            feed.leave()
            if not feed.listeners:
                self._feeds.pop(job_id, None)


def written(event: Event) -> bytes:
    """One event on the wire."""
    id_, fields = event
    data = {name: value for name, value in fields.items() if name != "kind"}
    return f"id: {id_}\nevent: {fields['kind']}\ndata: {json.dumps(data)}\n\n".encode()


def ended(log: Sequence[Event]) -> bool:
    """Whether the last status that was told is one to end with."""
    last = next((fields["status"] for _, fields in reversed(log) if "status" in fields), None)
    return last in FINAL


def is_id(text: str) -> bool:
    """Whether this is the id of an event."""
    return _ID.fullmatch(text) is not None


def _number(id_: str) -> tuple[int, int]:
    at, _, number = id_.partition("-")
    return int(at), int(number)
