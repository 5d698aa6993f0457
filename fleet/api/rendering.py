"""Pages as HTML: the templates, what may stand in them, and the headers under which a browser shows them.

Whatever a template shows is cleaned and escaped here, so that none can forget to. It knows no job.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from importlib import resources
from typing import Any

import jinja2
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from markupsafe import Markup

from fleet.api.problems import ProblemError, in_time, told
from fleet.display import clean
from fleet.prices import NANO_PER_USD, usd
from fleet.receipt_view import duration, fine_usd, tokens

_FILES = resources.files("fleet.api") / "assets"
#: How pages look: it stands in each of them, so that the one that takes a key needs nothing else.
STYLE = (_FILES / "page.css").read_text()
#: What keeps a page up to date.
SCRIPT = (_FILES / "page.js").read_bytes()
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        # No script of ours makes HTML of a text, and none may.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
#: Of a file that is kept, not shown: whatever is in it is nothing to a browser.
FILE_HEADERS = HEADERS | {"Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'"}
#: Segments of a bar, from the left.
SEGMENTS = ("done", "skipped", "failed", "running")


def _shown(value: Any) -> Any:
    """What a template says of a value: text without anything that acts or hides."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return clean(value, len(value), keep_lines=True)


def _segments(shares: Sequence[float]) -> list[tuple[str, str, str]]:
    """A bar as (name, begin, length), in percent."""
    begins = itertools.accumulate(shares, initial=0.0)
    return [(name, f"{begin:g}%", f"{share:g}%") for name, begin, share in zip(SEGMENTS, begins, shares, strict=False)]


def _dollars(amount: float) -> str:
    return usd(round(amount * NANO_PER_USD))


def _moment(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M} UTC"


def _iso(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("fleet.api", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"moment": _moment, "iso": _iso, "segments": _segments, "clean": clean, "dollars": _dollars}
_TEMPLATES.globals |= {"usd": usd, "fine_usd": fine_usd, "tokens": tokens, "duration": duration}
_TEMPLATES.globals |= {"style": Markup(STYLE), "script": f"/page.js?v={hashlib.sha256(SCRIPT).hexdigest()[:12]}"}  # noqa: S704  ours


class PageRoute(APIRoute):
    """A route for people: what goes wrong is a page, and every answer has the headers of one."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handler = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                response = await (in_time(handler(request)) if request.method == "GET" else handler(request))
            except Exception as error:  # what is none of ours becomes a 500, and is logged
                response = _failure(request, error)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return shown


def page(template: str, *, status: int = 200, **values: Any) -> Response:
    """A page."""
    return HTMLResponse(_TEMPLATES.get_template(f"{template}.html").render(values), status)


def sign_in_page(back: str, *, wrong: str = "") -> Response:
    """The form that takes a key; `back`: where it leads to."""
    return page("sign_in", status=401, back=back, wrong=wrong, visitor=None)


def script() -> Response:
    """What keeps a page up to date; its address changes with it."""
    return Response(
        SCRIPT, media_type="text/javascript", headers={"Cache-Control": "private, max-age=31536000, immutable"}
    )


def _failure(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = ProblemError(404, "There is no such page.")
    status, detail, headers = told(error)
    if status == 401:
        response = sign_in_page(request.url.path)
    else:
        response = page("failure", status=status, title=HTTPStatus(status).phrase, detail=detail, visitor=None)
    response.headers.update(headers)
    return response
