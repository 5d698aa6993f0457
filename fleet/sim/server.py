"""The simulated provider's HTTP server: routes, keys, streams, faults of the connection. It listens on 127.0.0.1 only.

It speaks the vendor's protocol (its API reference: chat completions, responses, models, files, batches, errors, limits) as
far as the official client uses it; what an answer says is decided elsewhere.
"""

from __future__ import annotations

import json
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Protocol, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fleet.config import FleetConfig
from fleet.sim import batch_routes, chat, http, responses
from fleet.sim.asked import ApiError, Asked, Parameters
from fleet.sim.background import Background
from fleet.sim.batches import Endpoint
from fleet.sim.charges import ChargeLog
from fleet.sim.listener import listen
from fleet.sim.produce import Produced
from fleet.sim.settings import SimSettings
from fleet.sim.vendor import Call, Vendor

#: Text of one streamed event: about four words.
PIECE = re.compile(r"(?:\S*\s*){1,4}", re.S)


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
        return chat.write(produced, ident=ident, model=call.answers_as, created=int(time.time()), served=call.served)

    def events(self, asked: Asked, produced: Produced, answer: dict[str, Any]) -> Iterator[str]:
        return chat.chunks(asked, produced, _pieces, answer)


class ResponsesWire:
    parameters = responses.PARAMETERS
    read = staticmethod(responses.read)

    def write(self, call: Call, produced: Produced, ident: str) -> dict[str, Any]:
        return responses.write(
            call.asked, produced, ident=ident, model=call.answers_as, created=int(time.time()), served=call.served
        )

    def events(self, asked: Asked, produced: Produced, answer: dict[str, Any]) -> Iterator[str]:
        return responses.events(asked, produced, _pieces(produced.text), answer)


class Door:
    """`POST` of one wire, as an ASGI application: it needs the connection itself for the faults."""

    def __init__(self, vendor: Vendor, wire: Wire, background: Background) -> None:
        self._vendor = vendor
        self._wire = wire
        self._background = background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            http.authorize(request, self._vendor.settings)
            content = await http.content(request)
            asked = self._asked(content)
            call = self._vendor.admit(asked, content, request.headers.get("x-client-request-id"))
            begun = self._background.begin(call) if asked.background else None
        except ApiError as error:
            await http.refusal(error)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        if begun is not None:
            await http.deliver(begun, call.fault, self._vendor.headers(call), scope, receive, send)
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
        return _read(self._vendor, self._wire, body)

    async def _serve(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        vendor = self._vendor
        produced = vendor.generate(call)
        answer = self._wire.write(call, produced, call.ident)
        if call.asked.store:
            vendor.store(answer)
        headers = vendor.headers(call)
        if call.fault == "hang":
            await http.until_gone(receive)
        elif call.fault == "reset":
            await vendor.pause(produced.first_s)
            await http.deliver("", call.fault, headers, scope, receive, send)
        elif call.asked.stream:
            await self._stream(call, produced, answer, headers, send)
            if call.fault in http.RESET_LATE:
                await http.reset(scope, receive)
        else:
            await vendor.pause(produced.first_s + produced.rest_s)
            await http.deliver(json.dumps(answer), call.fault, headers, scope, receive, send)

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
        if call.fault not in http.RESET_LATE:
            await send({"type": "http.response.body", "body": b""})


class Kept:
    """`GET` of a response, or `POST` that cancels it."""

    def __init__(self, vendor: Vendor, background: Background) -> None:
        self._vendor = vendor
        self._background = background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            http.authorize(request, self._vendor.settings)
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
            await http.refusal(error)(scope, receive, send)
            return
        headers = {"x-request-id": f"req_{uuid.uuid4().hex}"}
        await http.deliver(answer, fault, headers, scope, receive, send)


def create_app(settings: SimSettings, config: FleetConfig, charges: ChargeLog | None = None) -> Starlette:
    """The provider as an ASGI application; faults of the connection need the server that `serve` runs."""
    vendor = Vendor(settings, config, charges or ChargeLog(settings.charges))

    async def models(request: Request) -> Response:
        http.authorize(request, settings)
        return http.as_json({"object": "list", "data": [_model(name) for name in config.models]})

    async def model(request: Request) -> Response:
        http.authorize(request, settings)
        name = request.path_params["name"]
        vendor.model(name)
        return http.as_json(_model(name))

    background = Background(vendor)
    kept = Kept(vendor, background)
    wires: dict[str, Wire] = {"/v1/chat/completions": ChatWire(), "/v1/responses": ResponsesWire()}
    lines = {path: Endpoint(partial(_read, vendor, wire), partial(_line, vendor, wire)) for path, wire in wires.items()}
    return Starlette(
        routes=[
            *(Route(path, Door(vendor, wire, background), methods=["POST"]) for path, wire in wires.items()),
            Route("/v1/responses/{ident}", kept, methods=["GET"]),
            Route("/v1/responses/{ident}/cancel", kept, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name}", model),
            *batch_routes.routes(vendor, lines),
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


def _read(vendor: Vendor, wire: Wire, body: Mapping[str, Any]) -> Asked:
    """What a body asks. Raises ApiError."""
    if vendor.settings.strict:
        wire.parameters.check(body)
    try:
        return wire.read(body)
    except (AttributeError, TypeError, KeyError) as error:
        raise ApiError(400, "Invalid type for a parameter of your request.", code="invalid_type") from error


def _line(vendor: Vendor, wire: Wire, call: Call) -> dict[str, Any]:
    """The answer to a line of a batch, which is billed here."""
    return wire.write(call, vendor.generate(call), call.ident)


def _pieces(text: str) -> list[str]:
    return [piece for piece in PIECE.findall(text) if piece]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "simulated"}


async def _on_api_error(_: Request, error: Exception) -> Response:
    return http.refusal(cast(ApiError, error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    status = cast(HTTPException, error).status_code
    what = f"Unknown request URL: {request.method} {request.url.path}."
    return http.refusal(ApiError(status, what, code="unknown_url"))
