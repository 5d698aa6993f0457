"""How much a schema asks of whoever checks it: what forks without end is refused, whatever people write is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fleet import expansion
from fleet.expansion import MOST_HOPS, MOST_STEPS
from fleet.schemas import MAX_SCHEMA_CHARS, check_schema, check_short

Schema = dict[str, Any]
#: Of an answer, where the number makes no difference.
CHARS = 1_000

TREE: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "below": {"type": "array", "items": {"$ref": "#"}}},
}


class Leaf(BaseModel):
    kind: Literal["leaf"]
    name: Annotated[str, Field(max_length=40)]
    size: int = 0


class Sum(BaseModel):
    kind: Literal["sum"]
    left: Term
    right: Term
    notes: list[Leaf] | None = None


class Product(BaseModel):
    kind: Literal["product"]
    by_name: dict[str, Term] = {}


Term = Annotated[Leaf | Sum | Product, Field(discriminator="kind")]


class Address(BaseModel):
    street: str
    number: int | None = None


class Person(BaseModel):
    home: Address
    work: Address | None = None
    friends: list[Person] = []


def forks(levels: int, keyword: str = "allOf", wrap: Callable[[Schema], Schema] = lambda inner: inner) -> Schema:
    """A short schema each of whose levels doubles what comes below it."""
    defs: Schema = {
        f"d{at}": {keyword: [wrap({"$ref": f"#/$defs/d{at + 1}"}), wrap({"$ref": f"#/$defs/d{at + 1}"})]}
        for at in range(levels)
    }
    return {"$defs": defs | {f"d{levels}": {"type": "object"}}, "$ref": "#/$defs/d0"}


def chain(hops: int) -> Schema:
    defs: Schema = {f"d{at}": {"$ref": f"#/$defs/d{at + 1}"} for at in range(hops)}
    return {"$defs": defs | {f"d{hops}": True}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        forks(26),
        forks(26, "anyOf"),
        forks(26, "oneOf", lambda inner: {"not": inner}),
        forks(26, wrap=lambda inner: {"if": inner, "then": inner}),
        {"properties": {"a": {"prefixItems": [forks(26)["$defs"]["d0"]]}}, "$defs": forks(26)["$defs"]},
        {
            "$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}", "unevaluatedProperties": False} for n in range(20)}
            | {"d20": {}}
        }
        | {"$ref": "#/$defs/d0"},
        chain(MOST_HOPS + 1),
    ],
)
def test_what_forks_or_goes_on_too_far_at_one_value_is_refused(schema: Schema) -> None:
    check_short(schema)
    with pytest.raises(ValueError, match="too much to check"):
        check_schema(schema)


def test_a_fork_doubles_and_the_bound_is_where_it_says() -> None:
    steps = [expansion.steps(forks(levels), CHARS) for levels in (4, 5, 6)]
    assert all(step is not None for step in steps)
    first, second, third = (step or 0 for step in steps)
    assert 1.8 < second / first < 2.2
    assert 1.8 < third / second < 2.2
    for levels in range(30):
        try:
            most = expansion.check_size(forks(levels))
        except ValueError:
            break
        assert most <= MOST_STEPS
    assert levels == 14, "2^14 ends with a few steps each"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {}]}}, "properties": {"x": {"$ref": "#/$defs/a"}}},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}}},
        {"$dynamicAnchor": "a", "allOf": [{"$dynamicRef": "#a"}]},
    ],
)
def test_a_reference_back_that_goes_into_no_value_is_refused(schema: Schema) -> None:
    with pytest.raises(ValueError, match="leads back to itself"):
        check_schema(schema)


@pytest.mark.parametrize(
    "reference",
    ["#/definitions/a", "#/$defs/b", "#b", "#/required/0", "#/required/a", "#/minLength/a", "#/odd", "#/$defs/a/type"],
)
def test_a_reference_that_leads_to_no_schema_is_refused_by_name(reference: str) -> None:
    schema = {
        "properties": {"a": {"items": {"$ref": reference}}},
        "$defs": {"a": {"type": "string"}},
        "required": ["a"],
        "minLength": 1,
        "odd": {"type": 5},
    }
    with pytest.raises(ValueError, match=f'the reference "{reference.replace("$", ".")}" leads to no schema'):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "other.json#/a"},
        {"$id": "http://192.0.2.1/a", "$ref": "b"},
        {"$ref": "#/odd/a", "odd": {"a": {"$id": "http://192.0.2.1/", "$ref": "#/nowhere"}}},
    ],
)
def test_no_reference_leads_outside(schema: Schema) -> None:
    with pytest.raises(ValueError, match=r"leads (outside|to no schema)"):
        check_schema(schema)


def test_what_would_be_read_by_other_rules_is_refused() -> None:
    """From another dialect's `extends`, say, nobody counts."""
    inner = {"$schema": "http://json-schema.org/draft-03/schema#", "extends": [{}]}
    with pytest.raises(ValueError, match=r"\$schema is only taken at the top"):
        check_schema({"properties": {"a": inner}})
    check_schema({"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"$schema": {}, "$ref": {}}})


@pytest.mark.parametrize(
    "schema",
    [
        TREE,
        {"$defs": {"node": TREE | {"properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}}},
        {"items": {"$ref": "#"}},
        {"$defs": {"a b/c": {"$anchor": "there"}}, "anyOf": [{"$ref": "#/$defs/a%20b~1c"}, {"$ref": "#there"}]},
        {"definitions": {"a": {"type": "string"}}, "items": {"$ref": "#/definitions/a"}},
        {"$id": "https://example.com/a", "$ref": "#/$defs/a", "$defs": {"a": {}}},
        {"odd": {"a": {"type": "string"}}, "items": {"$ref": "#/odd/a"}},
        {"enum": [f"value {number}" for number in range(20_000)]},
        {"anyOf": [{"properties": {f"p{n}": {"type": "string"} for n in range(50)}} for _ in range(100)]},
        Person.model_json_schema(),
        Sum.model_json_schema(),
        chain(MOST_HOPS - 2),
    ],
)
def test_what_people_write_is_taken(schema: Schema) -> None:
    check_schema(schema)


def test_deep_is_fine() -> None:
    schema: Schema = {"type": "string"}
    for _ in range(30):
        schema = {"type": "object", "required": ["below"], "properties": {"below": schema}}
    check_schema(schema)
    assert expansion.steps(schema, CHARS) == expansion.steps({**schema, "properties": {"below": {}}}, CHARS)


@pytest.mark.parametrize(
    ("schema", "steps"),
    [
        ({"type": "string"}, 2),
        ({"enum": ["a", "b", "c"]}, 5),
        # Itself, a type, the keyword and its two names; each value within takes less.
        ({"type": "object", "properties": {"a": {"type": "string"}, "b": True}}, 5),
        # The value is looked at by the two and by what they are in.
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, 4 + 2 + 2),
        # Of an object's values each is one of these; it has one name for each.
        ({"additionalProperties": {"enum": list("abcdefgh")}, "propertyNames": {"maxLength": 2}}, 10 + 2),
        ({"items": {"enum": list("abcdefgh")}, "contains": {"enum": list("abcd")}}, 10 + 6),
        # Below it, a reference to it and itself.
        (TREE, 2 + 7),
    ],
)
def test_steps_are_those_of_the_value_that_takes_the_most(schema: Schema, steps: int) -> None:
    assert expansion.steps(schema, CHARS) == steps


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": ".*.*.*="}}},
        {"patternProperties": {".*.*.*=": {}}},
        {"properties": {"a": {}}, "unevaluatedProperties": False},
        # What grows with the depth of the answer has no bound of its own.
        forks(26, wrap=lambda inner: {"items": inner}),
        Sum.model_json_schema(),
    ],
)
def test_what_cannot_be_bounded_has_no_number(schema: Schema) -> None:
    check_schema(schema)
    assert expansion.steps(schema, CHARS) is None


@pytest.mark.parametrize(
    "schema", [{"pattern": "^[a-z]+$"}, {"patternProperties": {"a.*b": {}}}, {"uniqueItems": True}]
)
def test_what_takes_more_the_longer_the_answer_is_counts_by_that(schema: Schema) -> None:
    short, long = (expansion.steps({"items": schema}, chars) for chars in (128, 1_024))
    assert short is not None
    assert long is not None
    assert 4 * short < long < 16 * short
    linear = {"items": {"pattern": r"^\d{4}-\d{2}-\d{2}$"}}
    assert expansion.steps(linear, 128) == expansion.steps(linear, 1_024)


def test_a_name_can_match_many_patterns_and_be_held_to_all_of_them() -> None:
    of_each: Schema = {"enum": list("abcdefgh")}
    assert expansion.steps({"patternProperties": {"a": of_each, "b": of_each}}, 10) == 2 * 10


def test_a_model_without_forks_is_linear() -> None:
    assert 0 < (expansion.steps(Person.model_json_schema(), CHARS) or 0) < 50


_leaves = st.sampled_from(
    [True, {"type": "integer"}, {"type": "object"}, {"enum": [1, "a", None]}, {"$ref": "#/$defs/d"}]
)
_schemas = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(
            lambda key, parts: {key: parts},
            st.sampled_from(["allOf", "anyOf", "oneOf"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        st.builds(
            lambda key, part: {key: part}, st.sampled_from(["not", "if", "items", "contains", "propertyNames"]), inner
        ),
        st.builds(lambda parts: {"properties": parts}, st.dictionaries(st.sampled_from("ab"), inner, min_size=1)),
    ),
    max_leaves=12,
)
_values = st.recursive(
    st.sampled_from([1, "a", None]),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(_schemas, _schemas, _values)
def test_no_checker_takes_more_steps_than_were_counted(schema: Any, definition: Any, value: Any) -> None:
    """Counted by the checker's own rules: how often any is applied, over all values within the answer."""
    schema = {"$defs": {"d": definition}, "allOf": [schema]}
    steps = expansion.steps(schema, CHARS)
    if steps is None:
        return  # it leads back to itself, or forks at each level
    taken = 0

    def counted(rule: Any) -> Any:
        def apply(*given: Any) -> Any:
            nonlocal taken
            taken += 1
            return rule(*given)

        return apply

    rules = {name: counted(rule) for name, rule in jsonschema.Draft202012Validator.VALIDATORS.items()}
    checker = jsonschema.validators.extend(jsonschema.Draft202012Validator, rules)  # type: ignore[no-untyped-call]
    list(checker(schema).iter_errors(value))
    assert taken <= steps * _size(value)


def _size(value: Any) -> int:
    """The values that it has, names and itself among them."""
    if isinstance(value, dict):
        return 1 + sum(1 + _size(below) for below in value.values())
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def test_none_from_outside_is_longer_than_can_be_counted() -> None:
    wide = {"$defs": {f"n{at}": {"items": {"$ref": f"#/$defs/n{(at * 7 + 1) % 600}"}} for at in range(600)}}
    check_schema(check_short(wide | {"$ref": "#/$defs/n0"}))
    assert len(str(wide)) < MAX_SCHEMA_CHARS
    assert expansion.steps(wide | {"$ref": "#/$defs/n0"}, CHARS) is None, "it would take longer to count than to check"
