"""What a caller asked for, whichever wire it came over, and the vendor's error object.

It knows no route, no limit and no answer.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from fleet.schemas import check_schema
from fleet.tokens import MAX_PATCHES, tokens_of_image

#: Of a picture only the header is decoded; a JPEG can have a large preview before it.
IMAGE_HEAD_CHARS = 400_000


class ApiError(Exception):
    """A refusal in the vendor's own form: HTTP status and `{"error": {"message", "type", "param", "code"}}`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the caller's that the model can ask it to call."""

    name: str
    description: str
    #: JSON schema of its arguments, of type object.
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Offer:
    """The functions that the model may call in this answer, and whether it has to."""

    functions: tuple[Function, ...] = ()
    required: bool = False
    #: It may call several at once.
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """What a function returned that the model had called."""

    function: str
    text: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for an answer."""

    model: str
    instructions: str
    prompt: str
    image_tokens: int = 0
    #: JSON schema of a structured answer; `None` for free text.
    schema: Mapping[str, Any] | None = None
    schema_name: str = ""
    #: The text of schema and functions as it is billed: part of the input.
    schema_text: str = ""
    offer: Offer = Offer()
    #: What the user said last, where nobody has answered it yet.
    question: str = ""
    #: What the functions returned that were called last, where nobody has spoken since.
    results: tuple[Result, ...] = ()
    #: Sequences before which the answer ends.
    stop: tuple[str, ...] = ()
    max_output_tokens: int | None = None
    effort: str | None = None
    stream: bool = False
    #: Chat completions report usage on a stream only when asked to.
    stream_usage: bool = False
    store: bool = False
    background: bool = False
    #: `flex`, where it was asked for.
    service_tier: str | None = None
    #: What the caller says its prompts' beginnings have in common.
    cache_key: str = ""
    #: The request as it came, for fields the answer repeats.
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The names a route takes: those that do something here, those that may go unheeded, and the vendor's others."""

    simulated: frozenset[str]
    harmless: frozenset[str]
    refused: frozenset[str]

    def check(self, body: Mapping[str, Any]) -> None:
        """Refuses a parameter that the vendor does not have, or that would change an answer and is not simulated."""
        for name in body.keys() - self.simulated - self.harmless:
            if body[name] is None:
                continue
            if name in self.refused:
                raise ApiError(
                    400,
                    f"The parameter '{name}' is not simulated; run the simulated provider without strict to ignore it.",
                    code="unsupported_parameter",
                    param=name,
                )
            raise ApiError(400, f"Unknown parameter: '{name}'.", code="unknown_parameter", param=name)


def words_of(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Parts:
    """What a wire calls the parts of a message's content."""

    text: frozenset[str]
    image: str


def text_and_images(content: Any, param: str, parts: Parts) -> tuple[str, int]:
    """The text of a message's content (a string or a list of parts) and the tokens of its pictures."""
    if isinstance(content, str):
        return content, 0
    if content is None:
        return "", 0
    if not isinstance(content, list):
        raise ApiError(400, f"Invalid type for '{param}': expected a string or an array.", param=param)
    texts: list[str] = []
    tokens = 0
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in parts.text:
            texts.append(str(part.get("text", "")))
        elif kind == "refusal":
            texts.append(str(part.get("refusal", "")))
        elif kind == parts.image:
            url = part.get("image_url")
            # The chat wire wraps it, the other does not.
            tokens += _image_tokens(url.get("url") if isinstance(url, dict) else url, param)
        else:
            known = ", ".join(f"'{name}'" for name in sorted({*parts.text, parts.image, "refusal"}))
            said = f"Invalid value: '{kind}'. Supported values are: {known}."
            raise ApiError(400, said, code="invalid_value", param=param)
    return "\n".join(texts), tokens


def _image_tokens(url: Any, param: str) -> int:
    if not isinstance(url, str):
        raise ApiError(400, f"Missing image URL in '{param}'.", code="missing_required_parameter", param=param)
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
        # An address elsewhere is not fetched: the picture counts as the largest.
        return MAX_PATCHES
    try:
        return tokens_of_image(base64.b64decode(data[:IMAGE_HEAD_CHARS], validate=True))
    except binascii.Error as error:
        raise ApiError(400, f"Invalid base64 image in '{param}'.", code="invalid_image", param=param) from error


def checked_schema(form: Mapping[str, Any], param: str) -> tuple[Mapping[str, Any], str]:
    """Schema and name of a structured output format, refused where the vendor's strict mode refuses."""
    name, schema = form.get("name"), form.get("schema")
    if not isinstance(name, str) or not name:
        raise ApiError(400, f"Missing required parameter: '{param}.name'.", param=f"{param}.name")
    if not isinstance(schema, dict):
        raise ApiError(400, f"Missing required parameter: '{param}.schema'.", param=f"{param}.schema")
    if wrong := why_invalid(schema, strict=bool(form.get("strict"))):
        raise ApiError(
            400,
            f"Invalid schema for response_format '{name}': {wrong}",
            code="invalid_json_schema",
            param=f"{param}.schema",
        )
    return schema, name


def why_invalid(schema: Mapping[str, Any], *, strict: bool) -> str:
    """Why the vendor takes no such schema, as the end of a sentence; empty where it does."""
    if (wrong := _why_no_schema(json.dumps(schema))) or not strict or is_strict(schema):
        return wrong
    return "in strict mode every object needs 'additionalProperties': false and all of its properties in 'required'."


@lru_cache(maxsize=256)
def _why_no_schema(text: str) -> str:
    try:
        check_schema(json.loads(text))
    except ValueError as error:
        return f"{error}."
    return ""


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Whether the vendor's strict mode takes a schema: an object, and every object in it closed and without options."""
    return schema.get("type") == "object" and all(map(_closed, _objects(schema)))


def _objects(schema: Any) -> Iterable[Mapping[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object" or "properties" in schema:
            yield schema
        below = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), schema.get("items")]
        for part in (*below, *schema.get("anyOf", ())):
            yield from _objects(part)


def _closed(schema: Mapping[str, Any]) -> bool:
    properties = set(schema.get("properties", {}))
    return schema.get("additionalProperties") is False and set(schema.get("required", ())) == properties


#: The names that `service_tier` takes.
SERVICE_TIERS = ("auto", "default", "flex", "scale", "priority")


def service_tier_of(body: Mapping[str, Any]) -> str | None:
    """`flex` where a request asks for that; the others are served as the standard here. Raises ApiError."""
    given = body.get("service_tier")
    if given is not None and given not in SERVICE_TIERS:
        known = ", ".join(f"'{name}'" for name in SERVICE_TIERS)
        said = f"Invalid value: '{given}'. Supported values are: {known}."
        raise ApiError(400, said, code="invalid_value", param="service_tier")
    return "flex" if given == "flex" else None
