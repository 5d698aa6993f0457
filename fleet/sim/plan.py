"""The simulated planner: two steps, classify then summarise, over the fields seen in the sample items."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from fleet import patterns
from fleet.expansion import check_size
from fleet.schemas import patterns_of
from fleet.sim.evidence import Evidence

_CLASSIFY: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["relevant", "reason"],
    "properties": {"relevant": {"type": "boolean"}, "reason": {"type": "string"}},
}
_SUMMARISE: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["purpose", "main_names"],
    "properties": {"purpose": {"type": "string"}, "main_names": {"type": "array", "items": {"type": "string"}}},
}
#: Fields of a sample item that a prompt shows at most.
MAX_FIELDS = 6
#: Steps of a schema at one value, and of each of its patterns over a text of so many characters: it is tried on many.
MOST_STEPS, MOST_MATCHING, TEXT_CHARS = 200, 100_000, 1_000


def plan(evidence: Evidence, schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """A plan that keeps the schema, or `None` when the schema is of another kind of plan, or too much to try plans on."""
    if not _is_simple(schema):
        return None
    shown = _template(evidence)
    goal = evidence.goal or "the goal of this job"
    steps: list[dict[str, Any]] = [
        {
            "id": "classify",
            "each": "items",
            "tier": "nano",
            "kind": "classify",
            "prompt": f"Is this item relevant to: {goal}? Answer with the reason.\n\n{shown}",
            "needs": [],
            "when": None,
            "output": _CLASSIFY,
            "max_output_tokens": 300,
        },
        {
            "id": "summarise",
            "each": "items",
            "tier": "mini",
            "kind": "summarise",
            "prompt": f"Summarise this item for: {goal}. Name what it is for and its main names.\n\n{shown}",
            "needs": ["classify"],
            "when": "classify.relevant",
            "output": _SUMMARISE,
            "max_output_tokens": 600,
        },
    ]
    try:
        wanted = _resolved(schema["properties"]["steps"], schema)
        of_step = _resolved(wanted["items"], schema)
    except (KeyError, TypeError):
        return None
    fitted = [_fitted(step, of_step, schema) for step in steps]
    answer: dict[str, Any] = {"steps": fitted}
    for name, below in schema["properties"].items():
        if name != "steps" and name in schema.get("required", ()):
            answer[name] = _stated(evidence, below)
    return answer if Draft202012Validator(schema).is_valid(answer) else None


def _is_simple(schema: Mapping[str, Any]) -> bool:
    matching = (patterns.steps(pattern, TEXT_CHARS) for pattern in patterns_of(schema))
    try:
        return check_size(schema) <= MOST_STEPS and max(matching, default=0) <= MOST_MATCHING
    except ValueError:
        return False


def _template(evidence: Evidence) -> str:
    """The lines of a prompt that show an item: `path: {{ item.path }}`."""
    fields: dict[str, str] = {}
    for record in evidence.records[:5]:
        for name, value in _item(record.value).items():
            fields.setdefault(name, type(value).__name__)
    usable = [name for name, kind in fields.items() if kind in ("str", "int", "float") and name.isidentifier()]
    return "\n".join(f"{name}: {{{{ item.{name} }}}}" for name in usable[:MAX_FIELDS]) or "{{ item }}"


def _item(value: dict[str, Any]) -> dict[str, Any]:
    below = value.get("item")
    return below if isinstance(below, dict) else value


def _fitted(step: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """The fields the schema knows, each in a form it takes: as is, as JSON text, as empty text, or as null."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    required = schema.get("required", ())
    fitted: dict[str, Any] = {}
    for name, below in properties.items():
        value = step.get(name)
        forms: tuple[Any, ...] = (value, _listed(value), json.dumps(value), {}, [], "", None, True, 1)
        taken = [form for form in forms if _takes({**below, "$defs": root.get("$defs", {})}, form)]
        if taken and (name in required or value is not None):
            fitted[name] = taken[0]
    return fitted


def _listed(value: Any) -> list[dict[str, Any]]:
    """An output schema as a list of its fields, for planners that ask for `{name, type, values}`."""
    properties = value.get("properties", {}) if isinstance(value, dict) else {}
    kinds = {"array": "list"}
    return [
        {"name": name, "type": kinds.get(below["type"], below["type"]), "values": []}
        for name, below in properties.items()
    ]


def _takes(schema: Mapping[str, Any], value: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


def _stated(evidence: Evidence, schema: Mapping[str, Any]) -> Any:
    forms: tuple[Any, ...] = (
        "Classify every item, then summarise those that matter.",
        evidence.names,
        {},
        [],
        None,
        2,
        True,
    )
    return next((form for form in forms if _takes(schema, form)), None)


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    pointer = schema.get("$ref")
    if isinstance(pointer, str) and pointer.startswith("#/"):
        found: Any = root
        for part in pointer[2:].split("/"):
            found = found[part]
        return _resolved(found, root)
    return schema
