"""Which JSON schemas an answer can be held to: well-formed ones that stay within themselves. Pure functions of the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from re import _constants as re_constants  # type: ignore[attr-defined]
from re import _parser as re_parser  # type: ignore[attr-defined]
from typing import Any

import jsonschema

#: Characters of a schema that comes from outside: to check one of so many takes most of a second.
MAX_SCHEMA_CHARS = 30_000
#: Repeats that a pattern may have within others.
MOST_REPEATS = 20
JSON_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))


def check_schema(schema: dict[str, Any]) -> None:
    """ValueError that says why `schema` is no JSON schema (draft 2020-12), or where it leads outside itself."""
    for kinds in _lists_of_types(schema):
        if len(kinds) > len(JSON_TYPES) or not set(map(str, kinds)) <= JSON_TYPES:
            raise ValueError("not a JSON schema: a list of types has at most one of each")
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except (OverflowError, RecursionError) as error:
        raise ValueError("not a JSON schema: a pattern in it cannot be used") from error
    except jsonschema.SchemaError as error:
        raise ValueError(f"not a JSON schema: {error.message}") from error
    for pattern in _patterns(schema):
        try:
            check_pattern(pattern)
        except Unusable as error:
            raise ValueError("not a JSON schema: a pattern in it cannot be used") from error
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise ValueError(f'the reference "{reference}" leads outside the schema; only "#/..." is followed')


class Unusable(ValueError):
    """No regular expression."""


def check_pattern(pattern: str) -> None:
    """ValueError where a regular expression can take for ever; `Unusable` where it is none."""
    try:
        parsed = re_parser.parse(pattern)
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise Unusable(f'"{pattern[:100]}" is no regular expression') from error
    if _may_take_for_ever(parsed):
        raise ValueError(
            f'the pattern "{pattern[:100]}" can take for ever: it repeats what repeats, or has a choice in what it repeats'
        )


def _patterns(schema: Any) -> Iterable[str]:
    """What of it a regular expression is made of."""
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        if isinstance(schema.get("patternProperties"), dict):
            yield from schema["patternProperties"]
        for value in schema.values():
            yield from _patterns(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _patterns(value)


def _may_take_for_ever(parsed: Any, *, repeated: bool = False) -> bool:
    """Whether a backtracking matcher can need a time that doubles with each character: a repeat or a choice in a repeat."""
    for operation, argument in parsed:
        repeats = operation in (re_constants.MAX_REPEAT, re_constants.MIN_REPEAT) and argument[1] > MOST_REPEATS
        if repeated and (repeats or operation is re_constants.BRANCH):
            return True
        for inner in _within(argument):
            if _may_take_for_ever(inner, repeated=repeated or repeats):
                return True
    return False


def _within(argument: Any) -> Iterable[Any]:
    """The expressions within a part of one."""
    if isinstance(argument, re_parser.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for part in argument:
            yield from _within(part)


def check_short(schema: Any) -> Any:
    """`schema`; ValueError when it is longer than one from outside may be."""
    if len(json.dumps(schema)) > MAX_SCHEMA_CHARS:
        raise ValueError(f"a schema of over {MAX_SCHEMA_CHARS:,} characters")
    return schema


def _lists_of_types(schema: Any) -> Iterable[list[Any]]:
    if isinstance(schema, dict):
        if isinstance(schema.get("type"), list):
            yield schema["type"]
        for value in schema.values():
            yield from _lists_of_types(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _lists_of_types(value)


def _references(schema: Any) -> Iterable[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
