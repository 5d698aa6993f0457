"""Reading a body in OpenAI's words: which parameters there are, which of them a fleet has, and what is wrong with a value.

It owns these words and how a turn to read a large body is had; what a parameter does is for the routes to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from fleet.api.bodies import large, told, turn
from fleet.api.openai_errors import OpenAIError
from fleet.config import FleetConfig

#: Bytes of a body that is looked through beside the loop.
LENGTHY_BYTES = 10_000
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

#: What pydantic calls a value of another type than was asked for.
_OF_ANOTHER_TYPE = ("_type", "_parsing", "union_tag_not_found")


async def body_of(request: Request) -> dict[str, Any]:
    """The body of a request as a JSON object. A large one is read in its turn, and not by any number at once."""
    if large(request):
        async with turn(request):
            body = await request.json()
    else:
        body = await request.json()
    if not isinstance(body, dict):
        raise OpenAIError(400, "The body has to be a JSON object.")
    return body


async def beside(request: Request, look: Callable[[], T]) -> T:
    """What comes of looking through a body: beside the loop, where it takes so long that others should not wait for it."""
    return await asyncio.to_thread(look) if told(request) > LENGTHY_BYTES else look()


def read(model: type[M], body: Mapping[str, Any], *, others: frozenset[str]) -> M:
    """The parameters of a body. `others`: OpenAI's, which a fleet does not have; they may be null.

    Raises:
        OpenAIError: 400, in OpenAI's words.
    """
    for name in body.keys() - model.model_fields.keys():
        if name not in others:
            raise OpenAIError(400, f"Unknown parameter: '{name[:100]}'.", param=name[:100], code="unknown_parameter")
        if body[name] is not None:
            message = f"Unsupported parameter: '{name}' is none of those that a fleet passes on."
            raise OpenAIError(400, message, param=name, code="unsupported_parameter")
    try:
        return model.model_validate({name: value for name, value in body.items() if name not in others})
    except ValidationError as error:
        raise wrong(error, body) from None


def wrong(error: ValidationError, body: Mapping[str, Any], at: str = "") -> OpenAIError:
    """What is wrong with a body, of the first thing that is. `at`: where in the request the body stands."""
    # A union tells of all its branches; the one that went deepest into what was given is the one that was meant.
    found = max(error.errors(include_url=False), key=lambda one: len(_path(one["loc"], body)))
    param = at + _written(_path(found["loc"], body))
    if found["type"] == "missing":
        name = f"{param}.{found['loc'][-1]}" if param else str(found["loc"][-1])
        message = f"Missing required parameter: '{name}'."
        return OpenAIError(400, message, param=name, code="missing_required_parameter")
    what = str(found["msg"]).removeprefix("Value error, ")
    code = "invalid_type" if str(found["type"]).endswith(_OF_ANOTHER_TYPE) else "invalid_value"
    where = f"Invalid value for '{param}': " if param else ""
    return OpenAIError(400, f"{where}{what.rstrip('.')}.", param=param or None, code=code)


def tier_of(model: str, config: FleetConfig) -> str:
    """The tier that a model's name stands for.

    Raises:
        OpenAIError: 404, there is no such model.
    """
    tier = config.tier_named(model)
    if tier is not None:
        return tier
    valid = ", ".join(config.names)
    message = f"The model `{model[:100]}` does not exist or you do not have access to it; this fleet has {valid}."
    raise OpenAIError(404, message, param="model", code="model_not_found")


def _path(place: tuple[int | str, ...], body: Any) -> list[int | str]:
    """Of a place in a model, those steps that lead through what was given; the others name branches of unions."""
    path: list[int | str] = []
    for step in place:
        inside = range(len(body)) if isinstance(body, list | tuple) else body if isinstance(body, Mapping) else ()
        if step in inside:
            body = body[step]
            path.append(step)
    return path


def _written(path: list[int | str]) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
