"""Errors of our routes as problem+json (RFC 9457): one table from what the fleet raises to what a caller is told.

It owns the statuses and the words; no handler of a route knows a status of an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from fleet.errors import (
    BadInputError,
    FleetError,
    JobNotFoundError,
    KeyReusedError,
    StoreUnavailableError,
    TenantLimitError,
)
from queues.link import passes

logger = logging.getLogger(__name__)

T = TypeVar("T")

MEDIA_TYPE = "application/problem+json"
#: Seconds after which a caller may try again when the store is away.
COME_AGAIN_S = 2
#: Longest that a caller waits for what is only looked at, as of a store that hangs. Probes give up about as soon.
LOOK_S = 5.0
#: Problems of a body that are told one by one.
MOST_TOLD = 20


class Problem(BaseModel):
    """What went wrong with a request, and what to do about it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = Field(None, description="Where in the body, and what is wrong there.")


class ProblemError(HTTPException):
    """A request that cannot be answered."""


def problem(status: int, detail: str, *, headers: Mapping[str, str] | None = None, errors: Any = None) -> Response:
    """The answer that says so."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors)
    return JSONResponse(body.model_dump(exclude_none=True), status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


async def in_time(look: Awaitable[T]) -> T:
    """What a look at the store finds. Raises StoreUnavailableError: nothing for `LOOK_S`."""
    try:
        async with asyncio.timeout(LOOK_S):
            return await look
    except TimeoutError:
        raise StoreUnavailableError(f"The store has not answered for {LOOK_S:.0f} s; try again.") from None


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems of a route for its OpenAPI."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def linked(parameter: str, *routes: str) -> dict[str, Any]:
    """For the OpenAPI of a route that makes something: those of its router that take the `id` it answers with."""
    links = {name: {"x-route": name, "parameters": {parameter: "$response.body#/id"}} for name in routes}
    return {"description": "Made.", "links": links}


def install(app: FastAPI) -> None:
    """Have every error of `app` answered by a problem, and its OpenAPI say so."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = FastAPI.openapi(app)
            parts = found.setdefault("components", {})
            parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            found["security"] = [{"key": []}]
            _hoist(found["paths"], parts["schemas"])
            _name_links(found["paths"])
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        errors = [
            {"at": ".".join(str(part) for part in one["loc"]), "what": str(one["msg"])}
            for one in error.errors()[:MOST_TOLD]
        ]
        return problem(422, "The request does not fit; see errors.", errors=errors)

    async def failed(request: Request, error: Exception) -> Response:
        status, detail, headers = told(error)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {"Allow": ", ".join(_methods_of(app, request))}
        return problem(status, detail, headers=headers)

    for kind in (HTTPException, FleetError, RedisError, OSError, Exception):
        app.add_exception_handler(kind, failed)


def _methods_of(app: FastAPI, request: Request) -> list[str]:
    """What may be done with a path, by all the routes that it has."""
    found: set[str] = set()
    for route in app.routes:
        # A router that was included stands there as one.
        included = getattr(route, "original_router", None)
        for one in [route] if included is None else included.routes:
            if isinstance(one, Route) and one.matches(request.scope)[0] is not Match.NONE:
                found |= one.methods or set()
    return sorted(found)


def _name_links(paths: dict[str, Any]) -> None:
    """Have links name operations as they are called: those of routes below the path of what made the thing."""
    for path, methods in paths.items():
        for operation in methods.values():
            for answer in operation.get("responses", {}).values():
                for link in answer.get("links", {}).values():
                    name = link.pop("x-route")
                    link["operationId"] = next(
                        other["operationId"]
                        for below, theirs in paths.items()
                        for other in theirs.values()
                        if below.startswith(f"{path}/") and other["operationId"].startswith(f"{name}_")
                    )


def _hoist(part: Any, schemas: dict[str, Any]) -> None:
    """Move definitions that stand with their schema to where references look for them."""
    if isinstance(part, dict):
        schemas |= part.pop("$defs", {})
        for inner in part.values():
            _hoist(inner, schemas)
    elif isinstance(part, list):
        for inner in part:
            _hoist(inner, schemas)


def told(error: Exception) -> tuple[int, str, Mapping[str, str]]:
    """What a caller is told of an error: the status, a sentence, and headers; what they need not know is logged."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), error.headers or {}
    if isinstance(error, FleetError):
        if isinstance(error, TenantLimitError):
            return 429, str(error), {"Retry-After": f"{error.retry_after_s:.0f}"}
        if isinstance(error, StoreUnavailableError):
            return 503, str(error), {"Retry-After": str(COME_AGAIN_S)}
        for kind, status in ((JobNotFoundError, 404), (KeyReusedError, 409), (BadInputError, 422)):
            if isinstance(error, kind):
                return status, str(error), {}
        logger.error("a request failed: %s", error)
        return 500, "The fleet could not do this; its log says why.", {}
    if isinstance(error, RedisError):
        if not passes(error):
            logger.error("the store refused: %s", error)
            return 500, "The store refused this; the log of the API says why.", {}
        logger.warning("the store does not answer: %s", error)
        return 503, "The store does not answer; try again.", {"Retry-After": str(COME_AGAIN_S)}
    if isinstance(error, OSError):
        logger.error("the blob folder cannot be written to: %s", error)
        return 507, "The fleet has no room for the items; nothing was accepted.", {}
    logger.error("a request failed on an error of our own", exc_info=error)
    return 500, f"internal error: {type(error).__name__}", {}
