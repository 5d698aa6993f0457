"""What an answer is likely to look like before there is one: a stand-in by the schema or the length that a step asks for.

Prompts over answers that do not exist yet are rendered with it, and its length is a first guess of theirs. Pure; nothing of it is
ever shown to a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fleet.tokens import estimate_tokens

#: Of `max_output_tokens`, what a free text usually takes.
TYPICAL_OUTPUT = 0.25
#: Words of a text inside a structured answer, elements of a list in it, and how deep is looked.
WORDS, ELEMENTS, DEPTH = 12, 3, 8
WORD = "word"


def answer(schema: Mapping[str, Any] | None, max_output_tokens: int) -> Any:
    """A stand-in for the answer of a step: what `schema` describes, or a text of a quarter of the most tokens."""
    if schema is None:
        return " ".join([WORD] * max(1, round(max_output_tokens * TYPICAL_OUTPUT)))
    return _value(schema, DEPTH)


def output_tokens(schema: Mapping[str, Any] | None, max_output_tokens: int) -> int:
    """Tokens of such an answer."""
    if schema is None:
        return max(1, round(max_output_tokens * TYPICAL_OUTPUT))
    return min(max_output_tokens, estimate_tokens(json.dumps(answer(schema, max_output_tokens))))


def _value(schema: Any, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth == 0:
        return None
    for name in ("enum", "examples"):
        options = schema.get(name)
        if isinstance(options, list) and options:
            return max(options, key=lambda one: len(json.dumps(one, default=str)))
    if "const" in schema:
        return schema["const"]
    for name in ("anyOf", "oneOf", "allOf"):
        options = schema.get(name)
        if isinstance(options, list) and options:
            return _value(options[0], depth - 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), None)
    properties = schema.get("properties")
    if kind == "object" or isinstance(properties, Mapping):
        fields = properties if isinstance(properties, Mapping) else {}
        return {str(name): _value(its, depth - 1) for name, its in fields.items()}
    if kind == "array":
        return [_value(schema.get("items"), depth - 1)] * ELEMENTS
    return {"integer": 10, "number": 0.25, "boolean": True, "null": None}.get(str(kind), " ".join([WORD] * WORDS))
