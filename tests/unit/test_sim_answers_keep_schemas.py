"""Whatever the schema, within the subset vendors take, the simulated answer keeps it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from fleet.sim.answers import answer

PROMPT = """Describe the file.
Path: shop/cart.py
```python
\"\"\"Carts and what they hold. A cart is never shared.\"\"\"
from shop.prices import Price

class Cart:
    \"\"\"Items a customer means to buy.\"\"\"

def total(cart): ...
```
"""
NAMES = ["role", "relevant", "reason", "name", "count", "score", "items", "depends_on", "result", "x_1"]
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["a", "library", ""])


def ranges(low: str, high: str, largest: int) -> st.SearchStrategy[dict[str, int]]:
    pairs = st.tuples(st.integers(0, largest), st.integers(0, largest)).map(sorted)
    return pairs.flatmap(
        lambda pair: st.sampled_from([{}, {low: pair[0]}, {high: pair[1]}, {low: pair[0], high: pair[1]}])
    )


def typed(kind: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    types: list[Any] = [kind, [kind, "null"]]
    return st.sampled_from(types).map(lambda given: {"type": given, **fields})


STRINGS = st.builds(
    lambda base, lengths: {**base, **lengths}, typed("string"), ranges("minLength", "maxLength", 400)
) | st.sampled_from(
    [
        {"type": "string", "pattern": pattern}
        for pattern in (r"^[a-z_]+$", r"^\d{4}-\d{2}-\d{2}$", r"^[A-Z]{2,5}$", r"\.py$", r"^[a-z0-9-]{1,20}$", r"^v?\d")
    ]
    + [{"type": "string", "format": name} for name in ("date-time", "date", "email", "ipv4", "uuid", "uri")]
)
NUMBERS = st.builds(
    lambda kind, span, unit: {"type": kind, **span, **unit},
    st.sampled_from(["integer", "number"]),
    st.tuples(st.integers(-50, 50), st.integers(3, 60)).flatmap(
        lambda pair: st.sampled_from(
            [
                {},
                {"minimum": pair[0]},
                {"maximum": pair[0]},
                {"exclusiveMinimum": pair[0]},
                {"exclusiveMaximum": pair[0]},
                {"minimum": pair[0], "maximum": sum(pair)},
                {"exclusiveMinimum": pair[0], "exclusiveMaximum": sum(pair)},
            ]
        )
    ),
    st.sampled_from([{}, {}, {"multipleOf": 2}]),
)
LEAVES = (
    STRINGS
    | NUMBERS
    | typed("boolean")
    | st.just({"type": "null"})
    | SCALARS.map(lambda value: {"const": value})
    | st.lists(SCALARS, min_size=1, max_size=4, unique_by=repr).map(lambda values: {"enum": values})
    | st.sampled_from([{"$ref": "#/$defs/named"}, {"$ref": "#/$defs/tree"}])
)


def objects(below: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda properties, closed, count: {
            "type": "object",
            "properties": properties,
            "required": list(properties)[:count],
            **({"additionalProperties": False} if closed else {}),
        },
        st.dictionaries(st.sampled_from(NAMES), below, max_size=5),
        st.booleans(),
        st.integers(0, 5),
    )


def containers(below: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    lists = st.builds(
        lambda items, lengths: {"type": "array", "items": items, **lengths}, below, ranges("minItems", "maxItems", 12)
    )
    options = st.builds(
        lambda keyword, parts: {keyword: parts}, st.just("anyOf"), st.lists(below, min_size=1, max_size=3)
    )
    alternatives = st.just({"oneOf": [{"type": "string"}, {"type": "null"}]})
    return objects(below) | lists | options | alternatives


SCHEMAS = objects(st.recursive(LEAVES, containers, max_leaves=12)).map(
    lambda schema: {
        **schema,
        "$defs": {
            "named": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
            "tree": {
                "type": "object",
                "required": ["name", "children"],
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                    "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                },
            },
        },
    }
)


@settings(max_examples=300, deadline=None)
@given(SCHEMAS, st.sampled_from([PROMPT, "", "Hello", "Was this ticket about a refund? I was charged twice."]))
def test_an_answer_keeps_its_schema(schema: dict[str, Any], prompt: str) -> None:
    value = json.loads(answer("", prompt, schema, "output", 4096))
    errors = [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(schema, format_checker=FormatChecker()).iter_errors(value)
    ]
    assert not errors
