"""How much work it is to hold a value to a JSON schema, with all that the schema refers to in its place. Counted, never tried.

A step is one rule, or one name or value that a rule lists, looked at once. A short schema can ask for any number of them: where
its references fork, each fork doubles what comes behind it. Counted is what `jsonschema` does, which tries alternatives to their
ends; so references are resolved as there. Pure functions of a schema that is well-formed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

import jsonschema
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from fleet import patterns

#: How deep an answer may be nested: `fleet.checks` takes none that goes deeper.
DEEPEST = 100
#: Steps at one value, from one place in the schema: far more than anybody's enumerations and alternatives have.
MOST_STEPS = 100_000
#: Rules that one value is passed on through at most: each takes a part of the stack.
MOST_HOPS = 100
#: Schemas times levels of an answer that are counted through; what has more counts as slow.
MOST_COUNTED = 10_000

#: They have everything that stands beside them looked at again, to know what it has seen.
_AGAIN, _AGAIN_TIMES = frozenset(("unevaluatedItems", "unevaluatedProperties")), 3
#: The keywords that ask something of a value.
_RULES = jsonschema.Draft202012Validator.VALIDATORS.keys()
#: Steps of a matcher, and comparisons of two items, that take as long as one step here.
MATCHING_A_STEP, COMPARING_A_STEP = 20, 4
#: What is looked at again is not counted through; and where a `$dynamicRef` leads can depend on the way to it.
_SLOW = frozenset(("$dynamicRef", *_AGAIN))

#: Where a keyword has schemas: in its value, in a list, or by name.
_ONE = ("not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames", *sorted(_AGAIN))
_LIST = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_REFERENCES = ("$ref", "$dynamicRef")
#: The schemas that the same value is held to, besides those that a reference leads to.
_SAME_VALUE = frozenset(("not", "if", "then", "else", "allOf", "anyOf", "oneOf", "dependentSchemas"))


@dataclass(slots=True)
class _Node:
    """A schema within the schema: what it asks of a value, and the schemas that it passes the value, or one within it, on to."""

    own: int
    times: int
    slow: bool
    #: Of the same value.
    same: list[int] = field(default_factory=list)
    #: Of a value within it: of each of these groups the largest counts, then they add up.
    of_object: list[list[int]] = field(default_factory=list)
    of_array: list[list[int]] = field(default_factory=list)


def check_size(schema: Any) -> int:
    """The steps that a value can cause from one place in it, at most.

    Raises:
        ValueError: it is endless, or too much; or a reference leads nowhere, or outside.
    """
    nodes = _Walk(schema).nodes
    return max(_at_one_place(nodes, _ordered(nodes)))


def steps(schema: Any, chars: int) -> int | None:
    """The steps that one value within an answer of so many characters can cause, at most.

    Those of a matcher are in proportion: it can take them all at one value, if that is most of the answer, and then at no other.
    None: too many to count, or of a schema that `check_size` refuses.
    """
    try:
        nodes = _Walk(schema, chars).nodes
        order = _ordered(nodes)
        now = _at_one_place(nodes, order)
    except ValueError:
        return None
    most = now[0]
    if any(node.slow for node in nodes):
        return None
    for level in range(1, DEEPEST):
        now = _a_level_deeper(nodes, order, now)
        most = max(most, now[0])
        if most > MOST_STEPS or level * len(nodes) > MOST_COUNTED:
            return None
        if not any(now):
            break
    return most


def _at_one_place(nodes: list[_Node], order: Iterable[int]) -> list[int]:
    """By node, the steps at a value that it is asked of. Raises ValueError: too many."""
    steps_, hops = [0] * len(nodes), [0] * len(nodes)
    for at in order:
        node = nodes[at]
        steps_[at] = node.own + node.times * sum(steps_[below] for below in node.same)
        hops[at] = 1 + max((hops[below] for below in node.same), default=0)
        if steps_[at] > MOST_STEPS or hops[at] > MOST_HOPS:
            raise ValueError(
                f"the schema is too much to check: with what it refers to in its place, one value can take over "
                f"{MOST_STEPS:,} steps, or pass over {MOST_HOPS} rules in a row; use fewer allOf, anyOf and $ref in each other"
            )
    return steps_


def _a_level_deeper(nodes: list[_Node], order: Iterable[int], above: list[int]) -> list[int]:
    """The steps at a value that is one level deeper within what each node is asked of than those of `above`."""
    now = [0] * len(nodes)
    for at in order:
        node = nodes[at]
        within = (
            sum(max((above[below] for below in group), default=0) for group in groups)
            for groups in (node.of_object, node.of_array)
        )
        now[at] = min(MOST_STEPS + 1, max(within) + sum(now[below] for below in node.same))
    return now


def _ordered(nodes: list[_Node]) -> list[int]:
    """The nodes, each behind all that it passes the same value on to."""
    try:
        return list(TopologicalSorter({at: node.same for at, node in enumerate(nodes)}).static_order())
    except CycleError:
        raise ValueError(
            "the schema leads back to itself without going into the value: a $ref to what it stands in is only followed "
            "below properties or items"
        ) from None


class _Walk:
    """All schemas within one, the outermost first."""

    def __init__(self, schema: Any, chars: int = 0) -> None:
        """`chars`: of the answer, for what takes more the longer it is; 0: that is left out."""
        self._chars = chars
        self.nodes: list[_Node] = []
        self._known: dict[int, int] = {}
        self._left: list[tuple[int, Mapping[str, Any], Any]] = []
        self._references: list[tuple[int, str, Any]] = []
        # What is not in the schema is not looked for anywhere else.
        self._seen(schema, Registry().resolver_with_root(DRAFT202012.create_resource(schema)))
        self._visit_all()
        while self._references:
            at, reference, resolver = self._references.pop()
            target, its = _resolved(reference, resolver)
            if isinstance(target, dict) and id(target) not in self._known:
                _check_form(target, reference)
            self.nodes[at].same.append(self._seen(target, its))
            self._visit_all()

    def _visit_all(self) -> None:
        while self._left:
            self._visit(*self._left.pop())

    def _seen(self, schema: Any, resolver: Any) -> int:
        """Its place among the nodes, a new one for what is seen the first time."""
        if not isinstance(schema, dict):  # true or false
            self.nodes.append(_Node(1, 1, slow=False))
            return len(self.nodes) - 1
        if (known := self._known.get(id(schema))) is not None:
            return known
        if self.nodes and "$schema" in schema:
            raise ValueError("a $schema is only taken at the top of a schema")
        at = self._known[id(schema)] = len(self.nodes)
        rules = schema.keys() & _RULES
        elsewhere = self._matching(schema) + (self._chars // (4 * COMPARING_A_STEP) if schema.get("uniqueItems") else 0)
        listed = sum(len(schema[rule]) for rule in rules if rule not in _ONE and isinstance(schema[rule], (dict, list)))
        times = _AGAIN_TIMES if _AGAIN & schema.keys() else 1
        self.nodes.append(_Node(1 + len(rules) + listed + elsewhere, times, slow=not _SLOW.isdisjoint(schema)))
        self._left.append((at, schema, resolver))
        return at

    def _matching(self, schema: Mapping[str, Any]) -> int:
        """What its regular expressions take of an answer, for each of its characters."""
        if self._chars == 0:
            return 0
        # Names are matched twice: for their own schemas, and to tell which are left for additionalProperties.
        matched = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        matched += [*schema.get("patternProperties", ())] * 2
        taken = sum(patterns.steps(pattern, self._chars) for pattern in matched)
        return taken // (MATCHING_A_STEP * (self._chars + 1))

    def _visit(self, at: int, schema: Mapping[str, Any], resolver: Any) -> None:
        found: dict[str, list[int]] = {}
        for keyword, below in _below(schema):
            inner = resolver
            if isinstance(below, dict) and "$id" in below:
                inner = resolver.in_subresource(DRAFT202012.create_resource(below))
            found.setdefault(keyword, []).append(self._seen(below, inner))
        self._references += [(at, schema[keyword], resolver) for keyword in _REFERENCES if keyword in schema]
        node = self.nodes[at]
        node.same = [below for keyword in found.keys() & _SAME_VALUE for below in found[keyword]]
        names = [*found.get("properties", ()), *found.get("additionalProperties", ())]
        # A name can match many patterns.
        matched = [[below] for below in found.get("patternProperties", ())]
        node.of_object = [names, found.get("propertyNames", []), *matched]
        node.of_array = [[*found.get("prefixItems", ()), *found.get("items", ())], found.get("contains", [])]


def _below(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas that it has in it, each with its keyword."""
    for keyword, value in schema.items():
        if keyword in _ONE:
            yield keyword, value
        elif keyword in _LIST:
            yield from ((keyword, below) for below in value)
        elif keyword in _NAMED:
            yield from ((keyword, below) for below in value.values())


def _resolved(reference: str, resolver: Any) -> tuple[Any, Any]:
    """What a reference leads to, and from where that one's go on."""
    if not reference.startswith("#"):
        raise ValueError(f'the reference "{reference[:100]}" leads outside the schema; only "#/..." is followed')
    try:
        found = resolver.lookup(reference)
    except (Unresolvable, ValueError, TypeError):
        found = None  # no such place; or a number for a name, or the other way round
    if found is None or not isinstance(found.contents, (dict, bool)):
        raise ValueError(f'the reference "{reference[:100]}" leads to no schema within the schema')
    return found.contents, found.resolver


def _check_form(schema: Mapping[str, Any], reference: str) -> None:
    """What stands where no schema is looked for was not read as one so far."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except (jsonschema.SchemaError, OverflowError, RecursionError) as error:
        raise ValueError(f'the reference "{reference[:100]}" leads to no schema within the schema') from error
