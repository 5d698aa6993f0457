"""Requests to a fleet's API: sent again where that does no harm, and what it refuses raised as the error it stands for.

It owns the retries (bounded, with growing pauses of random length, longer where the API asks for that) and the table from
problem+json (RFC 9457) to errors. It knows no route.
"""

from __future__ import annotations

import contextlib
import email.utils
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx2

from fleet.errors import (
    ApiError,
    ApiUnreachableError,
    BadInputError,
    FleetError,
    JobNotFoundError,
    KeyReusedError,
    NotAllowedError,
    StoreUnavailableError,
    TenantLimitError,
)
from fleet.remote.pools import Asked, Pool

#: Seconds before each further try; each is drawn from between half of it and all of it.
PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0)
#: The longest that the API may ask to wait; beyond it that is for the caller to do.
MOST_S = 60.0
#: Statuses after which nothing was done, so that anything may be asked again.
UNDONE = (408, 429)
#: What went wrong before anything was sent.
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
PROBLEM = "application/problem+json"
REFUSED: dict[int, type[FleetError]] = {
    400: BadInputError,
    404: JobNotFoundError,
    409: KeyReusedError,
    413: BadInputError,
    422: BadInputError,
    503: StoreUnavailableError,
    507: StoreUnavailableError,
}


class Wire:
    """One API, over a pool of connections to it."""

    def __init__(self, pool: Pool, url: str) -> None:
        self.pool = pool
        self.url = url

    async def ask(self, asked: Asked, *, repeatable: bool) -> httpx2.Response:
        """The answer to a request. `repeatable`: asking twice does the same as asking once.

        Raises:
            FleetError: of the class that fits what the API said; ApiUnreachableError when it said nothing.
        """
        return await self._answered(asked, repeatable=repeatable, stream=False)

    @contextlib.asynccontextmanager
    async def stream(self, asked: Asked) -> AsyncIterator[httpx2.Response]:
        """An answer whose body is still to come: read it with `lines`. Raises as `ask` does, and from `lines` what breaks."""
        response = await self._answered(asked, repeatable=True, stream=True)
        try:
            yield response
        finally:
            await self.pool.drop(response)

    async def lines(self, response: httpx2.Response) -> AsyncGenerator[bytes]:
        """The lines of a body without their ends, as they come.

        Raises:
            httpx2.TransportError: the connection broke, or what came last is no whole line.
        """
        rest = b""
        async for chunk in self.pool.chunks(response):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line.removesuffix(b"\r")
        if rest:
            raise httpx2.RemoteProtocolError("the last line was cut off")

    async def pause(self, number: int, failure: FleetError, at_least_s: float = 0.0) -> None:
        """Wait before another try, after `number` pauses; once there were enough of them, raise what the last try failed of."""
        if number == len(PAUSES_S):
            raise failure
        await self.pool.sleep(max(at_least_s, PAUSES_S[number] * random.uniform(0.5, 1.0)))  # noqa: S311  no secret

    def broken(self, error: httpx2.TransportError) -> ApiUnreachableError:
        """What is told of a request without an answer."""
        what = str(error) or type(error).__name__
        return ApiUnreachableError(f"The API at {self.url} did not answer: {what}.")

    async def _answered(self, asked: Asked, *, repeatable: bool, stream: bool) -> httpx2.Response:
        """An answer that is one. Errors are raised outside their handlers: those of the library hold the request, and the key."""
        pauses = 0
        while True:
            wait_s = 0.0
            try:
                response = await self.pool.send(asked, stream=stream)
            except httpx2.TransportError as error:
                failure: FleetError = self.broken(error)
                again = repeatable or isinstance(error, NEVER_SENT)
            else:
                if response.status_code == 204 or (response.is_success and _media(response) == asked.media):
                    return response
                await self.pool.drop(response)
                failure = self._refusal(response)
                again = response.status_code in UNDONE or (repeatable and response.status_code >= 500)
                wait_s = _retry_after_s(response)
            if not again or wait_s > MOST_S or asked.late:
                raise failure
            await self.pause(pauses, failure, wait_s)
            pauses += 1

    def _refusal(self, response: httpx2.Response) -> FleetError:
        status = response.status_code
        problem = _problem(response)
        if problem is None:
            return ApiError(
                f"{self.url} answered {status}, and not as a fleet's API does; is that its address (FLEET_API_URL)?",
                status,
            )
        errors = problem.get("errors")
        told = [str(problem.get("detail", "no reason was given"))]
        told += [f"{one.get('at')}: {one.get('what')}" for one in errors or () if isinstance(one, dict)]
        if status in (401, 403):
            return NotAllowedError("\n".join(told), status)
        if status == 429:
            return TenantLimitError("\n".join(told), _retry_after_s(response))
        kind = REFUSED.get(status)
        return ApiError("\n".join(told), status) if kind is None else kind("\n".join(told))


def _media(response: httpx2.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _problem(response: httpx2.Response) -> dict[str, Any] | None:
    if _media(response) != PROBLEM:
        return None
    try:
        problem = response.json()
    except ValueError:
        return None
    return problem if isinstance(problem, dict) else None


def _retry_after_s(response: httpx2.Response) -> float:
    """What the API asks to wait (RFC 9110, 10.2.3: seconds or a date); 0 where it does not, or in no way that is known."""
    told = response.headers.get("Retry-After", "")
    if told.isascii() and told.isdecimal():
        return float(told[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return 0.0
