"""Around the whole application: what is logged during a request names the job that it is about, and requests are spans where
spans are recorded.

A request by which a new job is accepted is the root of that job's trace, with a link to its caller's; one that changes a job
belongs to that job's trace; any other belongs to its caller's (W3C Trace Context, `traceparent`) or has a trace of its own. Of a
URL the route alone is told. It knows no route and decides nothing.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet import traces
from fleet.subject import about, also_about

#: version, trace id, parent id, flags; what a later version adds is not read.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
#: Asked every few seconds by machines.
PROBES = ("/healthz", "/readyz", "/metrics")


class Observed:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with about():
            if not traces.recording() or scope["path"] in PROBES:
                await self._app(scope, receive, send)
                return
            with traces.request(scope["method"], caller_of(scope)) as span:
                await self._app(scope, receive, _watched(span, scope, send))


def asked_about(scope: Scope) -> None:
    """Have logs name the job in the path of a request, once its route is known."""
    job = scope.get("path_params", {}).get("job_id")
    if job is not None:
        also_about(job=str(job))


def caller_of(scope: Scope) -> traces.Ids | None:
    """Trace and span of whoever asks, as far as they say so in the form of the standard."""
    for name, value in scope["headers"]:
        if name == b"traceparent" and (found := _TRACEPARENT.fullmatch(value)) is not None:
            trace, span = (int(part, 16) for part in found.groups())
            return (trace, span) if trace and span else None
    return None


def _watched(span: object, scope: Scope, send: Send) -> Send:
    """`send`, with what the answer says noted."""

    async def watching(message: Message) -> None:
        if message["type"] == "http.response.start" and isinstance(span, traces.Span):
            _note(span, scope, message["status"])
        await send(message)

    return watching


def _note(span: traces.Span, scope: Scope, status: int) -> None:
    route = getattr(scope.get("route"), "path_format", None)
    if route is not None:
        span.name = f"{scope['method']} {route}"
        span.attributes["http.route"] = route
    span.attributes |= {
        "http.request.method": scope["method"],
        "http.response.status_code": status,
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
    }
    if status >= 500:
        span.error = str(status)
    job = scope.get("path_params", {}).get("job_id")
    if job is not None and status < 400 and scope["method"] != "GET":
        span.belong_to(str(job))
