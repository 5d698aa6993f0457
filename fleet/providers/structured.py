"""Whether a JSON schema keeps the rules under which vendors can enforce it while they write (strict outputs)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Keywords that strict outputs refuse. Source: the vendor's guide on structured outputs, "supported schemas".
_UNSUPPORTED = frozenset(
    (
        "allOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "dependentRequired",
        "dependentSchemas",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "unevaluatedProperties",
        "contains",
        "uniqueItems",
        "prefixItems",
    )
)


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Whether `strict: true` may be asked for: closed objects, every property required, no odd keywords."""
    return schema.get("type") == "object" and all(map(_keeps_rules, _schemas(schema)))


def _keeps_rules(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or _UNSUPPORTED & schema.keys():
        return False
    if not schema.keys() & {"type", "enum", "const", "anyOf", "$ref"}:
        return False
    if schema.get("type") == "object" or "properties" in schema:
        closed = schema.get("additionalProperties") is False
        return closed and set(schema.get("required", ())) == set(schema.get("properties", {}))
    return schema.get("type") != "array" or "items" in schema


def _schemas(schema: Any) -> Iterator[Any]:
    """The schema and all below it."""
    yield schema
    if not isinstance(schema, Mapping):
        return
    for holder in ("properties", "$defs", "definitions"):
        for below in schema.get(holder, {}).values():
            yield from _schemas(below)
    for below in schema.get("anyOf", ()):
        yield from _schemas(below)
    if "items" in schema:
        yield from _schemas(schema["items"])
