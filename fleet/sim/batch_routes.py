"""The routes of files and batches at the simulated vendor; what they do is `fleet.sim.files`' and `fleet.sim.batches`'.

Faults by chance befall each request as they befall a look at a response: refused before it did anything, or broken off behind it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fleet.sim import http
from fleet.sim.asked import ApiError
from fleet.sim.batches import Batches, Endpoint
from fleet.sim.files import MAX_FILE_BYTES, Files
from fleet.sim.vendor import Vendor

#: Of a form beside its file.
FRAME_BYTES = 100_000
MOST_LISTED = 100

#: What a request comes to: JSON, or the bytes of a file.
Work = Callable[[Request], Awaitable[dict[str, Any] | bytes]]


class _Door:
    """One method of one path, as an ASGI application: it needs the connection itself for the faults."""

    def __init__(self, vendor: Vendor, work: Work) -> None:
        self._vendor = vendor
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            http.authorize(request, self._vendor.settings)
            fault = self._vendor.fault_of_look(f"{request.method} {request.url.path}")
            done = await self._work(request)
        except ApiError as error:
            await http.refusal(error)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        text = done if isinstance(done, bytes) else json.dumps(done)
        await http.deliver(text, fault, {"x-request-id": f"req_{uuid.uuid4().hex}"}, scope, receive, send)


def routes(vendor: Vendor, endpoints: Mapping[str, Endpoint]) -> list[Route]:
    """The routes; `endpoints`: what lines of a batch may ask, by path."""
    files = Files()
    batches = Batches(vendor, files, endpoints)

    async def upload(request: Request) -> dict[str, Any]:
        body = await http.content(request, MAX_FILE_BYTES + FRAME_BYTES)
        return files.upload(request.headers.get("content-type", ""), body).object

    async def list_files(request: Request) -> dict[str, Any]:
        data = [file.object for file in files.listed()[: _limit(request)]]
        return {"object": "list", "data": data, "has_more": False}

    async def file(request: Request) -> dict[str, Any]:
        return files.get(request.path_params["ident"]).object

    async def content(request: Request) -> bytes:
        return files.get(request.path_params["ident"]).data

    async def delete(request: Request) -> dict[str, Any]:
        return files.delete(request.path_params["ident"])

    async def create(request: Request) -> dict[str, Any]:
        try:
            body = json.loads(await http.content(request))
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ApiError(400, "We could not parse the JSON body of your request.")
        return batches.create(body)

    async def list_batches(request: Request) -> dict[str, Any]:
        return batches.listed(_limit(request), request.query_params.get("after"))

    async def batch(request: Request) -> dict[str, Any]:
        return batches.get(request.path_params["ident"])

    async def cancel(request: Request) -> dict[str, Any]:
        return batches.cancel(request.path_params["ident"])

    doors: list[tuple[str, str, Work]] = [
        ("/v1/files", "POST", upload),
        ("/v1/files", "GET", list_files),
        ("/v1/files/{ident}", "GET", file),
        ("/v1/files/{ident}", "DELETE", delete),
        ("/v1/files/{ident}/content", "GET", content),
        ("/v1/batches", "POST", create),
        ("/v1/batches", "GET", list_batches),
        ("/v1/batches/{ident}", "GET", batch),
        ("/v1/batches/{ident}/cancel", "POST", cancel),
    ]
    return [Route(path, _Door(vendor, work), methods=[method]) for path, method, work in doors]


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", "20")
    return min(MOST_LISTED, max(1, int(given))) if given.isdigit() else 20
