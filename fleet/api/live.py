"""The numbers of a job to the pages that show it, as they change: server-sent events (WHATWG HTML, 9.2).

One look a second at a job, however many pages show it, and each is sent what is new to it. It knows no HTML and no browser;
what happened to a job, event by event, is `fleet.api.events`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from redis.exceptions import RedisError

from fleet.api.sheet import Sheet, Values
from fleet.errors import FleetError

logger = logging.getLogger(__name__)

#: Seconds between two looks. Looking at a large job takes at most this part of the time, as long as that is not too long.
LOOK_S, LOOK_SHARE, LONGEST_S = 1.0, 0.1, 10.0
#: Seconds after which a silent stream shows that it lives, and whoever listens is looked up again.
KEEP_ALIVE_S = 5.0
#: Pages that one process keeps up to date.
MOST_WATCHERS = 1_000
#: Seconds without the store after which pages are let go; they come again.
AWAY_S = 30.0

Look = Callable[[str], Awaitable[Sheet]]


class Watch:
    """One job, as long as a page shows it."""

    def __init__(self, look: Look, job_id: str) -> None:
        self._look = look
        self._job_id = job_id
        self._seen: tuple[str, Values, bool] | None = None
        self._news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self.watchers = 0

    def join(self) -> None:
        self.watchers += 1
        if self._looking is None or self._looking.done():
            self._seen = None
            self._looking = asyncio.create_task(self._keep_looking())

    def leave(self) -> None:
        self.watchers -= 1
        if not self.watchers and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def states(self) -> AsyncGenerator[tuple[str, Values, bool] | None]:
        """The shape, the values, and whether the job has ended; None where nothing was new for a while.

        Ends with the job, or with the looking.
        """
        known: tuple[str, Values, bool] | None = None
        while True:
            news, seen = self._news, self._seen
            if seen is not None and seen != known:
                known = seen
                yield seen
                if seen[2]:
                    return
                continue
            if self._looking is None or self._looking.done():
                return
            try:
                await asyncio.wait_for(news.wait(), KEEP_ALIVE_S)
            except TimeoutError:
                yield None

    async def _keep_looking(self) -> None:
        loop = asyncio.get_running_loop()
        answered_at = loop.time()
        try:
            while self._seen is None or not self._seen[2]:
                began = loop.time()
                try:
                    sheet = await self._look(self._job_id)
                    self._seen = sheet.shape, sheet.values, sheet.job.status.final
                    answered_at = loop.time()
                except RedisError:
                    if loop.time() - answered_at > AWAY_S:
                        raise
                self._tell()
                await asyncio.sleep(min(max(LOOK_S, (loop.time() - began) / LOOK_SHARE), LONGEST_S))
        except (FleetError, RedisError, OSError) as error:
            logger.warning("the pages of a job are let go: %s", error)
        finally:
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Watches:
    """The jobs that pages show."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._watches: dict[str, Watch] = {}

    @property
    def full(self) -> bool:
        """Whether as many pages are kept up to date as may be."""
        return sum(watch.watchers for watch in self._watches.values()) >= MOST_WATCHERS

    async def stream(self, job_id: str, still: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """What is new of a job, on the wire, until it has ended; `still`: whether whoever looks still may."""
        watch = self._watches.setdefault(job_id, Watch(self._look, job_id))
        watch.join()
        sent: Values = {}
        try:
            # The page may be closed while it waits; what it waits in has to end with it.
            async with contextlib.aclosing(watch.states()) as states:
                async for state in states:
                    if not await still():
                        return
                    if state is None:
                        yield b": so far\n\n"
                        continue
                    shape, values, ended = state
                    news = {name: value for name, value in values.items() if sent.get(name) != value}
                    sent = values
                    yield _written("state", {"shape": shape, "values": news})
                    if ended:
                        yield _written("end", {})
        finally:
            watch.leave()
            if not watch.watchers:
                self._watches.pop(job_id, None)


def _written(kind: str, data: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()
