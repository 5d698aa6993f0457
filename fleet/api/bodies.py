"""Reading what a caller sent, within bounds: a body is JSON of so many bytes, nested so deep, soon, or it is refused.

Nobody's body is read before it is known who they are. It knows nothing of what the body means.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from fleet.api.auth import identify
from fleet.api.problems import ProblemError

MAX_BODY_BYTES = 10_000_000
MAX_DEPTH = 64
#: Digits of a number; more is no quantity of anything.
MAX_DIGITS = 50
#: Seconds for a body to come.
PATIENCE_S = 30.0
#: Bodies that are read and looked at side by side: what they take of memory is bounded by that.
AT_ONCE = 8


class BoundedRequest(Request):
    """A request whose body is bounded."""

    async def body(self) -> bytes:
        """Raises ProblemError: it is too large, or too slow."""
        if not hasattr(self, "_body"):
            told = self.headers.get("content-length", "0")
            if told.isdecimal() and int(told[:20]) > MAX_BODY_BYTES:
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
            self._json = await asyncio.to_thread(_parsed, await self.body())
        return self._json


class BoundedRoute(APIRoute):
    """A route whose callers are known and whose requests are bounded."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handler = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            await identify(request)
            if request.method != "POST" or self.body_field is None:  # one that reads no body, or reads it as it comes
                return await handler(request)
            turns: asyncio.Semaphore = request.app.state.turns
            async with turns:
                return await handler(BoundedRequest(request.scope, request.receive))

        return bounded


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
