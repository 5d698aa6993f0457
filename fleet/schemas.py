"""Which JSON schemas an answer can be held to: well-formed ones within themselves and within bounds. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeVar

import jsonschema

from fleet.expansion import check_size
from fleet.patterns import Unusable, check_pattern

_T = TypeVar("_T")

#: Characters of a schema that comes from outside: to check one of so many takes most of a second.
MAX_SCHEMA_CHARS = 30_000
JSON_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))


def check_schema(schema: dict[str, Any]) -> None:
    """ValueError that says why `schema` is no JSON schema (draft 2020-12), leads outside itself, or is too much to check."""
    for kinds in _each(schema, "type", list):
        if len(kinds) > len(JSON_TYPES) or not set(map(str, kinds)) <= JSON_TYPES:
            raise ValueError("not a JSON schema: a list of types has at most one of each")
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except OverflowError as error:
        raise ValueError("not a JSON schema: a pattern in it cannot be used") from error
    except RecursionError as error:
        raise ValueError("not a JSON schema: it is nested too deep, or a pattern in it cannot be used") from error
    except jsonschema.SchemaError as error:
        raise ValueError(f"not a JSON schema: {error.message}") from error
    try:
        for pattern in patterns_of(schema):
            check_pattern(pattern)
    except Unusable as error:
        raise ValueError("not a JSON schema: a pattern in it cannot be used") from error
    check_size(schema)


def patterns_of(schema: Any) -> Iterator[str]:
    """What of it a regular expression is made of."""
    yield from _each(schema, "pattern", str)
    yield from chain.from_iterable(_each(schema, "patternProperties", dict))


def _each(schema: Any, keyword: str, kind: type[_T]) -> Iterator[_T]:
    """All that stands under a keyword, and is of a kind, wherever it stands."""
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if isinstance(value := part.get(keyword), kind):
                yield value
            left += part.values()
        elif isinstance(part, list):
            left += part


def check_short(schema: Any) -> Any:
    """`schema`; ValueError when it is longer than one from outside may be."""
    if len(json.dumps(schema)) > MAX_SCHEMA_CHARS:
        raise ValueError(f"a schema of over {MAX_SCHEMA_CHARS:,} characters")
    return schema
