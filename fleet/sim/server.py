"""The simulated provider's HTTP server: routes, keys, streams, faults of the connection. It listens on 127.0.0.1 only.

It speaks the vendor's protocol (its API reference: chat completions, responses, models, errors, rate-limit headers) as
far as the official client uses it; what an answer says is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fleet.config import FleetConfig
from fleet.sim import chat, responses
from fleet.sim.asked import ApiError, Asked, Parameters
from fleet.sim.background import HANG_S, Background
from fleet.sim.charges import ChargeLog
from fleet.sim.listener import listen
from fleet.sim.produce import Fault, Produced
from fleet.sim.settings import SimSettings
from fleet.sim.vendor import Call, Vendor

MAX_BODY_BYTES = 32_000_000
#: Text of one streamed event: about four words.
PIECE = re.compile(r"(?:\S*\s*){1,4}", re.S)
RESET_LATE: frozenset[Fault] = frozenset(("reset_in_body", "reset_after_body"))


class Wire(Protocol):
    """One of the vendor's two protocols."""

    parameters: Parameters

    def read(self, body: Mapping[str, Any]) -> Asked: ...

    def write(self, call: Call, produced: Produced, ident: str) -> dict[str, Any]: ...

    def events(self, asked: Asked, produced: Produced, answer: dict[str, Any]) -> Iterator[str]: ...


class ChatWire:
    parameters = chat.PARAMETERS
    read = staticmethod(chat.read)

    def write(self, call: Call, produced: Produced, ident: str) -> dict[str, Any]:
        return chat.write(produced, ident=ident, model=call.answers_as, created=int(time.time()))

    def events(self, asked: Asked, produced: Produced, answer: dict[str, Any]) -> Iterator[str]:
        return chat.chunks(asked, produced, _pieces, answer)


class ResponsesWire:
    parameters = responses.PARAMETERS
    read = staticmethod(responses.read)

    def write(self, call: Call, produced: Produced, ident: str) -> dict[str, Any]:
        return responses.write(call.asked, produced, ident=ident, model=call.answers_as, created=int(time.time()))

    def events(self, asked: Asked, produced: Produced, answer: dict[str, Any]) -> Iterator[str]:
        return responses.events(asked, produced, _pieces(produced.text), answer)


class Endpoint:
    """`POST` of one wire, as an ASGI application: it needs the connection itself for the faults."""

    def __init__(self, vendor: Vendor, wire: Wire, background: Background) -> None:
        self._vendor = vendor
        self._wire = wire
        self._background = background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            _authorize(request, self._vendor.settings)
            content = await _content(request)
            asked = self._asked(content)
            call = self._vendor.admit(asked, content, request.headers.get("x-client-request-id"))
            begun = self._background.begin(call) if asked.background else None
        except ApiError as error:
            await _refusal(error)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        if begun is not None:
            await _deliver(begun, call.fault, self._vendor.headers(call), scope, receive, send)
            return
        try:
            await self._serve(call, scope, receive, send)
        finally:
            call.leave()

    def _asked(self, content: bytes) -> Asked:
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ApiError(400, "We could not parse the JSON body of your request.")
        if self._vendor.settings.strict:
            self._wire.parameters.check(body)
        try:
            return self._wire.read(body)
        except (AttributeError, TypeError, KeyError) as error:
            raise ApiError(400, "Invalid type for a parameter of your request.", code="invalid_type") from error

    async def _serve(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        vendor = self._vendor
        produced = vendor.generate(call)
        answer = self._wire.write(call, produced, call.ident)
        if call.asked.store:
            vendor.store(answer)
        headers = vendor.headers(call)
        if call.fault == "hang":
            await _until_gone(receive)
        elif call.fault == "reset":
            await vendor.pause(produced.first_s)
            await _deliver("", call.fault, headers, scope, receive, send)
        elif call.asked.stream:
            await self._stream(call, produced, answer, headers, send)
            if call.fault in RESET_LATE:
                await _reset(scope, receive)
        else:
            await vendor.pause(produced.first_s + produced.rest_s)
            await _deliver(json.dumps(answer), call.fault, headers, scope, receive, send)

    async def _stream(
        self, call: Call, produced: Produced, answer: dict[str, Any], headers: dict[str, str], send: Send
    ) -> None:
        await self._vendor.pause(produced.first_s)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        raw.append((b"content-type", b"text/event-stream; charset=utf-8"))
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        events = list(self._wire.events(call.asked, produced, answer))
        if call.fault in ("malformed_json", "reset_in_body"):
            # A stream that just ends: the client raises nothing, only the finish is missing.
            events = events[: len(events) // 2]
        for event in events:
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            await self._vendor.pause(produced.rest_s / len(events))
        if call.fault not in RESET_LATE:
            await send({"type": "http.response.body", "body": b""})


class Kept:
    """`GET` of a response, or `POST` that cancels it."""

    def __init__(self, vendor: Vendor, background: Background) -> None:
        self._vendor = vendor
        self._background = background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            _authorize(request, self._vendor.settings)
            ident = request.path_params["ident"]
            answer = self._background.find(ident) or self._vendor.stored.get(ident)
            if answer is None:
                raise ApiError(404, f"Response with id '{ident}' not found.")
            fault = self._vendor.fault_of_look(ident)
            if request.method == "POST":
                answer = self._background.cancel(ident)
                if answer is None:
                    raise ApiError(400, "Only a response in the background can be cancelled.")
        except ApiError as error:
            await _refusal(error)(scope, receive, send)
            return
        headers = {"x-request-id": f"req_{uuid.uuid4().hex}"}
        await _deliver(answer, fault, headers, scope, receive, send)


def create_app(settings: SimSettings, config: FleetConfig, charges: ChargeLog | None = None) -> Starlette:
    """The provider as an ASGI application; faults of the connection need the server that `serve` runs."""
    vendor = Vendor(settings, config, charges or ChargeLog(settings.charges))

    async def models(request: Request) -> Response:
        _authorize(request, settings)
        return _json({"object": "list", "data": [_model(name) for name in config.models]})

    async def model(request: Request) -> Response:
        _authorize(request, settings)
        name = request.path_params["name"]
        vendor.model(name)
        return _json(_model(name))

    background = Background(vendor)
    kept = Kept(vendor, background)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", Endpoint(vendor, ChatWire(), background), methods=["POST"]),
            Route("/v1/responses", Endpoint(vendor, ResponsesWire(), background), methods=["POST"]),
            Route("/v1/responses/{ident}", kept, methods=["GET"]),
            Route("/v1/responses/{ident}/cancel", kept, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name}", model),
        ],
        exception_handlers={ApiError: _on_api_error, HTTPException: _on_http_error},
    )


def serve(settings: SimSettings, config: FleetConfig) -> None:
    """Serves until SIGINT or SIGTERM. Ready once `settings.ready_file` holds the base URL (else a line on stdout does).

    Raises:
        OSError: the port is taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener, ChargeLog(settings.charges) as charges:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listen(create_app(settings, config, charges), listener, settings.ready_file)


def _authorize(request: Request, settings: SimSettings) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if settings.api_key is not None and not hmac.compare_digest(given.encode(), settings.api_key.encode()):
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")


async def _content(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise ApiError(413, f"Your request is over {MAX_BODY_BYTES} bytes.", code="request_too_large")
    return bytes(content)


async def _until_gone(receive: Receive) -> None:
    try:
        async with asyncio.timeout(HANG_S):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return


async def _deliver(
    text: str, fault: Fault | None, headers: Mapping[str, str], scope: Scope, receive: Receive, send: Send
) -> None:
    """Sends an answer, as far as the connection lets it through."""
    if fault == "reset":
        await _reset(scope, receive)
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
    await _reset(scope, receive)


async def _reset(scope: Scope, receive: Receive) -> None:
    await asyncio.sleep(0)  # What was sent is written at the end of this turn of the loop.
    scope["state"]["reset"]()
    await _until_gone(receive)


def _pieces(text: str) -> list[str]:
    return [piece for piece in PIECE.findall(text) if piece]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "simulated"}


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(value), status_code=status, media_type="application/json", headers=dict(headers or {}))


def _refusal(error: ApiError) -> Response:
    return _json(error.body, error.status, error.headers)


async def _on_api_error(_: Request, error: Exception) -> Response:
    return _refusal(cast(ApiError, error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    status = cast(HTTPException, error).status_code
    what = f"Unknown request URL: {request.method} {request.url.path}."
    return _refusal(ApiError(status, what, code="unknown_url"))
