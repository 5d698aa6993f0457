"""What the routes of the simulated provider have in common: the key, bodies, refusals, and answers that the connection breaks.

It knows no route and no model.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fleet.sim.asked import ApiError
from fleet.sim.background import HANG_S
from fleet.sim.produce import Fault
from fleet.sim.settings import SimSettings

MAX_BODY_BYTES = 32_000_000
RESET_LATE: frozenset[Fault] = frozenset(("reset_in_body", "reset_after_body"))


def authorize(request: Request, settings: SimSettings) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if settings.api_key is not None and not hmac.compare_digest(given.encode(), settings.api_key.encode()):
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")


async def content(request: Request, most: int = MAX_BODY_BYTES) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise ApiError(413, f"Your request is over {most} bytes.", code="request_too_large")
    return bytes(content)


async def until_gone(receive: Receive) -> None:
    try:
        async with asyncio.timeout(HANG_S):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return


async def deliver(
    text: str | bytes, fault: Fault | None, headers: Mapping[str, str], scope: Scope, receive: Receive, send: Send
) -> None:
    """Sends an answer, as far as the connection lets it through."""
    if fault == "reset":
        await reset(scope, receive)
        return
    if fault == "malformed_json":
        text = text[: len(text) // 2]
    response = Response(text, media_type="application/json", headers=dict(headers))
    if fault not in RESET_LATE:
        await response(scope, receive, send)
        return
    body = bytes(response.body)
    await send({"type": "http.response.start", "status": 200, "headers": response.raw_headers})
    sent = body[: len(body) // 2] if fault == "reset_in_body" else body
    await send({"type": "http.response.body", "body": sent, "more_body": True})
    await reset(scope, receive)


async def reset(scope: Scope, receive: Receive) -> None:
    await asyncio.sleep(0)  # What was sent is written at the end of this turn of the loop.
    scope["state"]["reset"]()
    await until_gone(receive)


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(value), status_code=status, media_type="application/json", headers=dict(headers or {}))


def refusal(error: ApiError) -> Response:
    return as_json(error.body, error.status, error.headers)
