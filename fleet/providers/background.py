"""Following a call that runs in the background at the vendor to its end: when to look again, and what to believe.

It pays for nothing and starts nothing. It knows no wire and no connection: a look is a function it is given. Time and
sleep are given too, so that tests wait for nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fleet.errors import ProviderError
from fleet.providers import failures

#: Statuses of a response that is still to come; all others are its end.
UNFINISHED = frozenset(("queued", "in_progress"))
#: The first look comes soon, for short calls; later ones cost a long call at most five seconds.
FIRST_WAIT_S = 0.25
GROWTH = 1.5
LONGEST_WAIT_S = 5.0
#: One look that stalls must not use up the time of the call, nor more than half of what is left of it.
LOOK_TIMEOUT_S, LEAST_TIMEOUT_S = 15.0, 0.5
#: However long the vendor asks to wait, there is a look this close to the deadline: the answer may be there, and paid.
LAST_LOOK_S = 2.0
#: A handle is unknown, or an answer unreadable, when so many looks in a row say so. Vendors do answer 404 during
#: disruptions, and taking that for the truth would mean to pay for the call again.
LOOKS_TO_BELIEVE = 3
_DOUBTED = frozenset(("not_found", "malformed"))

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The call still runs; the vendor may say when to look again."""

    retry_after: float | None = None


class Follower(Generic[T]):
    """Looks at one call until it has ended.

    Args:
        provider: what messages call the provider.
        handle: the vendor's id of the call.
        look: asks the vendor once, taking at most so many seconds: `Unfinished`, what the call came to, or a
            ProviderError of the asking. `Ended` is raised for a call that ended badly.
        timeout_s: the time to follow it.
    """

    def __init__(
        self,
        provider: str,
        handle: str,
        look: Callable[[float], Awaitable[Unfinished | T]],
        timeout_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._provider = provider
        self._handle = handle
        self._look = look
        self._timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep

    async def follow(self) -> T:
        """What the call came to. Errors that may pass (5xx, 429, a broken connection) are looked past.

        Raises:
            ProviderError: it failed, was cancelled, is not known any more, or did not end in time; kind `unreachable` where
                it could not be asked for at last, so that it may have ended long ago.
        """
        deadline = self._clock() + self._timeout_s
        wait, doubts, in_touch = FIRST_WAIT_S, 0, True
        while (left := deadline - self._clock()) > 0:
            try:
                seen = await self._look(min(LOOK_TIMEOUT_S, max(left / 2, LEAST_TIMEOUT_S), left))
            except EndedError as ended:
                failure = ended.failure
                break
            except ProviderError as error:
                doubts = doubts + 1 if error.kind in _DOUBTED else 0
                if doubts >= LOOKS_TO_BELIEVE or not (error.retryable or error.kind in _DOUBTED):
                    failure = self._believed(error)
                    break
                asked, in_touch = error.retry_after, False
            else:
                if not isinstance(seen, Unfinished):
                    return seen
                doubts, in_touch = 0, True
                asked = seen.retry_after
            await self._pause(max(wait, asked or 0.0), deadline)
            wait = min(wait * GROWTH, LONGEST_WAIT_S)
        else:
            late = failures.while_it_runs(failures.timed_out(self._provider, self._timeout_s), self._handle)
            failure = late if in_touch else failures.unreachable(self._provider, self._handle, self._timeout_s)
        # Raised out here, so that nothing of the vendor's words is chained to it.
        try:
            raise failure
        finally:
            del failure  # or it and this frame hold each other until the collector comes

    async def _pause(self, seconds: float, deadline: float) -> None:
        left = deadline - self._clock()
        # Close to the deadline the waits halve down to the shortest: a few looks more, not many.
        latest = max(left - LAST_LOOK_S, left / 2, FIRST_WAIT_S)
        await self._sleep(max(0.0, min(seconds, latest, left)))

    def _believed(self, error: ProviderError) -> ProviderError:
        if error.kind == "not_found":
            return failures.unknown_handle(self._provider, self._handle)
        return failures.while_it_runs(error, self._handle)


class EndedError(Exception):
    """The call has ended without an answer: not an error of the asking, so there is no use in looking again."""

    def __init__(self, failure: ProviderError) -> None:
        super().__init__(str(failure))
        self.failure = failure
