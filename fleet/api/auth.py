"""Who asks: the principal of a request by its key, and whether it may. Deny by default.

As long as a fleet has never had a key, an API that only this machine can reach serves the default tenant without one. What a
proxy passed on, or a browser sent for a page of some other origin, is refused even then. It knows keys and headers, not what
is asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Path, Request
from redis.exceptions import RedisError

from fleet.api.problems import ProblemError
from fleet.keys import Keys, Principal, Scope
from fleet.loopback import from_here
from fleet.tenants import DEFAULT, tenant_of

NOBODY = Principal("none", DEFAULT, frozenset(("admin",)), "no key", 0.0)
#: Longest id of a job: a tenant's name, a dot, and 18 characters.
MAX_JOB_ID = 60


class Gatekeeper:
    """Tells principals by their keys."""

    def __init__(self, keys: Keys, *, loopback: bool) -> None:
        """`loopback`: whether only this machine can reach the API."""
        self._keys = keys
        self._loopback = loopback

    async def principal(self, request: Request) -> Principal:
        """Whoever asks.

        Raises:
            ProblemError: 401, nobody that we know.
        """
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if key:
            found = await self._keys.find(key.strip()) if scheme.lower() == "bearer" else None
            if found is not None:
                return found
        elif not scheme and self._loopback and _from_here(request) and not await self._keys.ever():
            return NOBODY
        raise ProblemError(
            401,
            "This takes a key: send `Authorization: Bearer KEY`; `fleet keys create` makes one.",
            headers={"WWW-Authenticate": "Bearer"},
        )


async def identify(request: Request) -> Principal:
    """Whoever asks, found out once for each request. Raises ProblemError."""
    known: Principal | None = getattr(request.state, "principal", None)
    if known is None:
        gatekeeper: Gatekeeper = request.app.state.gatekeeper
        known = request.state.principal = await gatekeeper.principal(request)
    return known


async def still_known(request: Request) -> bool:
    """Whether whoever asked would be let in now: a key may be revoked while its owner listens. True while nobody can say."""
    gatekeeper: Gatekeeper = request.app.state.gatekeeper
    try:
        await gatekeeper.principal(request)
    except ProblemError:
        return False
    except RedisError:
        return True
    return True


def may(scope: Scope) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency: whoever asks, if they may do this."""

    async def allowed(request: Request) -> Principal:
        principal = await identify(request)
        if not principal.may(scope):
            raise ProblemError(403, f"This key may not do that; it takes one with the scope {scope}.")
        return principal

    return allowed


Submitter = Annotated[Principal, Depends(may("submit"))]
Reader = Annotated[Principal, Depends(may("read"))]
Admin = Annotated[Principal, Depends(may("admin"))]
JobId = Annotated[str, Path(max_length=MAX_JOB_ID, pattern=r"^[a-z0-9.-]+$", examples=["j0199c2f4a11d03be7"])]


def own(job_id: str, principal: Principal) -> str:
    """`job_id`, if it is a job of theirs; what is another's does not exist. Raises ProblemError."""
    if tenant_of(job_id) != principal.tenant:
        raise ProblemError(404, f'There is no job "{job_id}".')
    return job_id


def _from_here(request: Request) -> bool:
    client = request.client.host if request.client is not None else ""
    return from_here(client, request.headers.getlist("host"), request.headers.get("origin"), request.headers)
