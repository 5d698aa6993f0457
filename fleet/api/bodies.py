"""Reading what a caller sent, within bounds: a body is JSON of so many bytes, nested so deep, soon, or it is refused.

Nobody's body is read before it is known who they are. It knows nothing of what the body means.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from redis.exceptions import RedisError
from starlette.background import BackgroundTask, BackgroundTasks

from fleet.api.auth import identify
from fleet.api.observed import asked_about
from fleet.api.problems import ProblemError, in_time
from fleet.audit import Audit
from fleet.keys import Principal

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 10_000_000
MAX_DEPTH = 64
#: Digits of a number; more is no quantity of anything.
MAX_DIGITS = 50
#: Seconds for a body to come.
PATIENCE_S = 30.0
#: Bodies over `LARGE_BYTES` that are read and looked at side by side: what they take of memory is bounded by that.
AT_ONCE = 8
LARGE_BYTES = 100_000


class BoundedRequest(Request):
    """A request whose body is bounded."""

    async def body(self) -> bytes:
        """Raises ProblemError: it is too large, or too slow."""
        if not hasattr(self, "_body"):
            if told(self) > MAX_BODY_BYTES:
                raise _too_large()
            parts, length = [], 0
            try:
                async with asyncio.timeout(PATIENCE_S):
                    async for part in self.stream():
                        parts.append(part)
                        length += len(part)
                        if length > MAX_BODY_BYTES:
                            raise _too_large()
            except TimeoutError:
                raise ProblemError(408, f"The body did not come within {PATIENCE_S:.0f} s.") from None
            self._body = b"".join(parts)
        return self._body

    async def json(self) -> Any:
        """Raises ProblemError: it is no JSON, or too large or too deep."""
        if not hasattr(self, "_json"):
            body = await self.body()
            # A small one is read in less time than a thread takes to begin.
            self._json = await asyncio.to_thread(_parsed, body) if len(body) > LARGE_BYTES else _parsed(body)
        return self._json


class BoundedRoute(APIRoute):
    """A route whose callers are known, whose requests are bounded, and whose changes are noted in the audit log."""

    #: Whether a large body has its turn until it is answered, or its reader takes one.
    until_answered = True
    #: Whether what went well is noted; a call is a job, which says whose it is.
    noted = True

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handler = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            asked_about(request.scope)
            principal = await in_time(identify(request))
            if request.method == "GET":
                return await in_time(handler(request))
            bounded_request = BoundedRequest(request.scope, request.receive)
            target = str(next(iter(request.path_params.values()), ""))

            async def note(outcome: str) -> None:
                await _note(request, principal, f"{request.method} {self.path_format}", target[:200], outcome)

            try:
                if not self.until_answered or not large(request):
                    response = await handler(bounded_request)
                else:
                    async with turn(request):
                        response = await handler(bounded_request)
            except RequestValidationError:
                await note("refused")
                raise
            except Exception as error:
                target = target or (getattr(error, "headers", None) or {}).get("x-fleet-job", "")
                await note(str(getattr(error, "status_code", getattr(error, "status", type(error).__name__))))
                raise
            target = target or response.headers.get("x-fleet-job", response.headers.get("location", ""))
            # Once it is answered: nobody waits for the note.
            if not self.noted:
                return response
            tasks = BackgroundTasks([BackgroundTask(note, str(response.status_code))])
            if response.background is not None:
                tasks.tasks.append(response.background)
            response.background = tasks
            return response

        return bounded


async def _note(request: Request, principal: Principal, action: str, target: str, outcome: str) -> None:
    audit: Audit = request.app.state.audit
    try:
        await audit.note(principal.tenant, principal.key_id, action, target, outcome)
    except RedisError as error:  # it is done, whether or not it can be written down
        logger.warning("not noted: %s did %s to %s (%s): %s", principal.key_id, action, target, outcome, error)


@contextlib.asynccontextmanager
async def turn(request: Request) -> AsyncIterator[None]:
    """One of the turns for large bodies. Raises ProblemError: none comes in time."""
    turns: asyncio.Semaphore = request.app.state.turns
    try:
        async with asyncio.timeout(PATIENCE_S):
            await turns.acquire()
    except TimeoutError:
        after = {"Retry-After": "5"}
        raise ProblemError(503, "Too many large bodies are being read; come again.", headers=after) from None
    try:
        yield
    finally:
        turns.release()


def large(request: Request) -> bool:
    """Whether a body is large, or does not say how large it is."""
    return told(request) > LARGE_BYTES


def told(request: Request) -> int:
    """How many bytes a body says it has; a server takes no more than that."""
    if request.headers.get("transfer-encoding") is not None:
        return LARGE_BYTES + 1
    told = request.headers.get("content-length", "0")
    return int(told[:20]) if told.isdecimal() else MAX_BODY_BYTES + 1


def _parsed(body: bytes) -> Any:
    try:
        value = json.loads(body, parse_constant=_no_number, parse_float=_float, parse_int=_int)
        _check_depth(value)
        # Half of a character of two cannot be written again.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        what = (
            str(error)
            if isinstance(error, json.JSONDecodeError)
            else "it has a number or text that cannot be written again"
        )
        raise ProblemError(400, f"The body is not JSON: {what}.") from None
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise _too_deep()


def _float(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"{word[:20]} is too large")
    return number


def _int(word: str) -> int:
    if len(word) > MAX_DIGITS:
        raise ValueError("a number has too many digits")
    return int(word)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _too_large() -> ProblemError:
    return ProblemError(413, f"The body is over {MAX_BODY_BYTES:,} bytes; upload items as a file, or split the job.")


def _too_deep() -> ProblemError:
    return ProblemError(400, f"The body is nested over {MAX_DEPTH} levels deep.")
