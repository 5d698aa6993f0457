"""Errors of the OpenAI-compatible routes: OpenAI's error object instead of a problem, and an id for each request.

It owns how every refusal on such a route is said; what is refused, and with which status, is for the routes and
`fleet.api.problems` to say. The form is that of https://platform.openai.com/docs/guides/error-codes.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from fleet.api.bodies import BoundedRoute
from fleet.api.problems import told

INVALID, SERVER, LIMITED = "invalid_request_error", "server_error", "rate_limit_error"
#: Codes that clients look at, by the status.
CODES = {401: "invalid_api_key", 403: "insufficient_permissions", 429: "rate_limit_exceeded"}


class ErrorDetail(BaseModel):
    """What went wrong, as OpenAI says it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorObject(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail


#: The refusals of a route for its OpenAPI.
REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorObject, "description": "Refused; the error says why."},
    "5XX": {"model": ErrorObject, "description": "The fleet or its store failed; try again."},
}


#: What answers a route that streams where it is asked to, for its OpenAPI; an event of a stream has its kind, or data alone.
ANSWER_OR_STREAM: dict[str, Any] = {
    "application/json": {"schema": {"type": "object"}},
    "text/event-stream": {
        "schema": {
            "type": "object",
            "required": ["data"],
            "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        }
    },
}


def takes(model: type[BaseModel], example: Mapping[str, Any]) -> dict[str, Any]:
    """What a route that reads its body by itself has to say of it in its OpenAPI."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


class OpenAIError(Exception):
    """A request that is refused in OpenAI's words.

    Args:
        status: of the answer.
        message: a sentence that says what is wrong and what to do.
        type: OpenAI's kind of error.
        param: the field that is wrong.
        code: what programs tell errors apart by.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(message=message, type=type, param=param, code=code)
        self.headers = dict(headers or {})


class OpenAIRoute(BoundedRoute):
    """A bounded route that answers every error with OpenAI's object, and whose answers carry the id of the request.

    A large body has its turn while it is read; what it asks for may take long, and others have theirs meanwhile.
    """

    until_answered = False

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            request_id = f"req_{secrets.token_hex(16)}"
            request.state.request_id = request_id
            try:
                response = await handler(request)
            except Exception as error:  # what is none of ours becomes a 500, and is logged
                response = refusal(error)
            response.headers["x-request-id"] = request_id
            return response

        return answered


class CallRoute(OpenAIRoute):
    """A route of calls: as many as there are, their notes would leave no room for those of anything else."""

    noted = False


def refusal(error: Exception) -> Response:
    """The answer to a request that failed so."""
    refused = as_openai(error)
    return JSONResponse(refusal_of(refused), refused.status, headers=refused.headers)


def refusal_of(error: OpenAIError) -> dict[str, Any]:
    """The body that says so."""
    return ErrorObject(error=error.detail).model_dump()


def as_openai(error: Exception) -> OpenAIError:
    """Any error as one of OpenAI's: what does not fit is a 400 with them, never a 422."""
    if isinstance(error, OpenAIError):
        return error
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        message = f"{first['msg']}." if param is None else f"Invalid '{param}': {first['msg']}."
        return OpenAIError(400, message, param=param)
    status, detail, headers = told(error)
    status = 400 if status == 422 else status
    kind = SERVER if status >= 500 else LIMITED if status == 429 else INVALID
    return OpenAIError(status, detail, type=kind, code=CODES.get(status), headers=headers)
