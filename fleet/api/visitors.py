"""Who looks at a page: a browser, which sends no key, by the cookie of a session; anybody else as at the API.

A cookie opens the pages alone, which change nothing: the routes of the API never ask here. It owns the cookie and the rules
under which one is given; sessions and keys belong to `fleet.sessions` and `fleet.keys`.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response
from redis.exceptions import RedisError

from fleet.api.auth import Gatekeeper
from fleet.api.problems import ProblemError
from fleet.keys import Keys, Principal
from fleet.sessions import LIFE_S, Sessions

COOKIE = "fleet_session"
#: The name over TLS: a browser takes it from this host alone, and nothing of a neighbouring one overwrites it.
SECURE_COOKIE = f"__Host-{COOKIE}"


class Reception:
    """Lets people in to the pages."""

    def __init__(self, keys: Keys, sessions: Sessions, gatekeeper: Gatekeeper) -> None:
        self._keys = keys
        self._sessions = sessions
        self._gatekeeper = gatekeeper

    async def principal(self, request: Request) -> Principal:
        """Whoever looks, by their key or the cookie of their session, looked up now.

        Raises:
            ProblemError: 401, nobody that we know; 403, their key may not read.
        """
        name = request.cookies.get(_cookie(request))
        found = None
        if name is not None and "authorization" not in request.headers:
            found = await self._sessions.find(name)
        principal = found or await self._gatekeeper.principal(request)
        if not principal.may("read"):
            raise ProblemError(403, "This key may not look at jobs; it takes one with the scope read.")
        return principal

    async def admit(self, request: Request, response: Response, key: str) -> Principal | None:
        """Begin a session of whoever shows this key, and give its cookie; None: the key is nobody's, or may not read."""
        principal = await self._keys.find(key)
        if principal is None or not principal.may("read"):
            return None
        _set(request, response, await self._sessions.begin(principal), LIFE_S)
        return principal

    async def dismiss(self, request: Request, response: Response) -> None:
        """End the session of a request, and take its cookie back."""
        name = request.cookies.get(_cookie(request))
        if name is not None:
            await self._sessions.end(name)
        _set(request, response, "", 0)


async def visitor(request: Request) -> Principal:
    """Whoever looks at a page. Raises ProblemError."""
    return await _reception(request).principal(request)


async def still_here(request: Request) -> bool:
    """Whether whoever looks would be let in now. True while the store cannot say."""
    try:
        await visitor(request)
    except ProblemError:
        return False
    except RedisError:
        return True
    return True


Visitor = Annotated[Principal, Depends(visitor)]


def check_own_form(request: Request) -> None:
    """ProblemError when a form was sent by a page that is not ours.

    What a browser says of the sender decides; an origin of `null` says nothing, ours sends that too where pages keep their
    referrer to themselves.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "null")
    foreign = site not in (None, "same-origin")
    if site is None and origin != "null":
        foreign = urlsplit(origin).netloc != request.headers.get("host")
    if foreign:
        raise ProblemError(403, "This form was sent by a page of some other site, so nothing was done.")


def _reception(request: Request) -> Reception:
    reception: Reception = request.app.state.reception
    return reception


def _secure(request: Request) -> bool:
    """Whether the browser came over TLS, to us or to a proxy before us."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "").startswith("https")


def _cookie(request: Request) -> str:
    return SECURE_COOKIE if _secure(request) else COOKIE


def _set(request: Request, response: Response, value: str, life_s: int) -> None:
    response.set_cookie(
        _cookie(request), value, max_age=life_s, path="/", secure=_secure(request), httponly=True, samesite="strict"
    )
