"""An answer to a prompt that keeps a JSON schema, drawn from what the prompt says.

Supports the subset of JSON Schema (2020-12) that vendors take for structured outputs, and degrades to something valid
for the rest, and to nulls where it would be more than an answer may be (`fleet.sim.effort`). Deterministic: the same prompt and
schema get the same answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fleet.sim.asked import words_of
from fleet.sim.choices import choose, decide
from fleet.sim.effort import BASE_UNITS, MATCHING_UNITS, Effort
from fleet.sim.evidence import Evidence
from fleet.sim.phrases import clipped, sentences
from fleet.sim.plan import plan
from fleet.sim.prose import paragraph, reason, report
from fleet.sim.values import number, text_that_fits

MAX_DEPTH = 16
#: Deeper than this only what is required is given, so that a schema that contains itself comes to an end.
OPTIONAL_DEPTH = 4
MAX_ITEMS = 8
#: Characters that surely fit into a token of prose, for bounding an answer by its token limit.
CHARS_PER_TOKEN = 2.5

_REPORTS = words_of("result report markdown document page briefing article body")
_REASONS = words_of("reason reasons why rationale explanation evidence justification")
_PARAGRAPHS = words_of("answer content details overview text note notes comment")
_PURPOSES = words_of("purpose summary description about")
_TITLES = words_of("title name heading label subject symbol id key topic")
_PATHS = words_of("path file filename module source location")
_IMPORTS = words_of("depends dependencies dependency imports import requires uses")
_EMPTY = words_of("rework gaps gap issues missing problems errors failures concerns")
_HEADINGS = words_of("headings sections topics chapters")
_SENTENCES = words_of("points facts findings summary highlights steps risks recommendations sentences actions")


def answer(
    instructions: str, prompt: str, schema: Mapping[str, Any] | None, schema_name: str, max_output_tokens: int
) -> str:
    """The text of an answer: JSON for a schema, Markdown without one."""
    evidence = Evidence(instructions, prompt)
    room = int(max_output_tokens * CHARS_PER_TOKEN)
    if schema is None:
        return report(evidence, min(room, 6000)) if len(evidence.records) > 1 else paragraph(evidence, 4)
    planned = plan(evidence, schema) if schema_name == "plan" else None
    value = _Builder(evidence, schema, room).build(schema) if planned is None else planned
    return json.dumps(value, ensure_ascii=False)


class _Builder:
    """Walks one schema."""

    def __init__(self, evidence: Evidence, root: Mapping[str, Any], room: int) -> None:
        self._evidence = evidence
        self._root = root
        self._room = room
        # What is over the room is cut off anyway.
        self._effort, self._matching = Effort(BASE_UNITS + 2 * room), Effort(MATCHING_UNITS)
        self._led_back: dict[str, bool] = {}

    def build(self, schema: Any, name: str = "", depth: int = 0, focus: str = "") -> Any:
        """A value for a schema; `name` is the property it is for, `focus` what its object is about."""
        self._effort.spend(1)
        if not isinstance(schema, dict) or depth > MAX_DEPTH or self._effort.is_spent:
            return None
        schema = self._resolved(schema)
        if "const" in schema:
            self._effort.spend(_size(schema["const"]))
            return schema["const"]
        if "enum" in schema:
            self._effort.spend(_size(schema["enum"]))
            return choose(schema["enum"], self._evidence)
        kind = self._kind(schema, depth)
        if kind == "object":
            return self._object(schema, depth, focus)
        if kind == "array":
            return self._array(schema, name, depth)
        if kind == "boolean":
            return decide(name, self._evidence)
        if kind in ("integer", "number"):
            return number(schema, kind, name, self._evidence)
        if kind == "null":
            return None
        return self._fitted(schema, self._text(schema, name, focus))

    def _fitted(self, schema: Mapping[str, Any], text: str) -> str:
        fitted = text_that_fits(schema, text, self._evidence, self._matching)
        self._effort.spend(len(fitted))
        return fitted

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema behind `$ref`, `anyOf`, `oneOf` and `allOf`."""
        for _ in range(MAX_DEPTH):
            self._effort.spend(1 + len(schema.get("properties", ())) + len(schema.get("required", ())))
            if self._effort.is_spent:
                return {}
            if isinstance(pointer := schema.get("$ref"), str):
                found = self._found(pointer)
                schema = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
            elif options := schema.get("anyOf") or schema.get("oneOf"):
                rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
                schema = {**rest, **self._option(options)}
            elif parts := schema.get("allOf"):
                merged = {key: value for key, value in schema.items() if key != "allOf"}
                for below in map(self._resolved, filter(_is_mapping, parts)):
                    required = (*merged.get("required", ()), *below.get("required", ()))
                    merged |= {
                        **below,
                        "properties": {**merged.get("properties", {}), **below.get("properties", {})},
                        "required": list(dict.fromkeys(required)),
                    }
                schema = merged
            else:
                break
        return schema

    def _option(self, options: Sequence[Any]) -> Mapping[str, Any]:
        """The first alternative that says something and does not lead back into itself."""
        usable = [option for option in options if isinstance(option, dict)]
        telling = [option for option in usable if option.get("type") != "null" and not self._recursive(option)]
        chosen: Mapping[str, Any] = (telling or [o for o in usable if o.get("type") == "null"] or usable or [{}])[0]
        return chosen

    def _recursive(self, option: Mapping[str, Any]) -> bool:
        pointer = option.get("$ref")
        if not isinstance(pointer, str):
            return False
        if pointer not in self._led_back:
            self._led_back[pointer] = pointer in json.dumps(self._found(pointer))
        return self._led_back[pointer]

    def _found(self, pointer: str) -> Mapping[str, Any]:
        """What a pointer leads to; anything goes where it is no path of names."""
        found: Any = self._root
        for part in pointer.removeprefix("#").strip("/").split("/"):
            if part:
                found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def _kind(self, schema: Mapping[str, Any], depth: int) -> str:
        kinds = schema.get("type")
        if isinstance(kinds, str):
            return kinds
        if isinstance(kinds, list) and kinds:
            telling = [kind for kind in kinds if kind != "null"]
            return "null" if not telling or (depth > OPTIONAL_DEPTH and "null" in kinds) else str(telling[0])
        if "properties" in schema or "required" in schema:
            return "object"
        return "array" if "items" in schema else "string"

    def _object(self, schema: Mapping[str, Any], depth: int, focus: str) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties", {})
        required = schema.get("required", ())
        built = {
            name: self.build(below, name, depth + 1, focus)
            for name, below in properties.items()
            if below is not False and (name in required or depth <= OPTIONAL_DEPTH)
        }
        more = schema.get("additionalProperties")
        for name in required:
            if name not in built:
                built[name] = self.build(more if isinstance(more, dict) else {}, name, depth + 1, focus)
        wanted = self._effort.at_most(schema.get("minProperties", 0 if properties else depth == 0))
        if more is not False and len(built) < wanted:
            for key in ("summary", *self._evidence.names, *(f"entry{number}" for number in range(wanted))):
                if len(built) < wanted and key not in built:
                    built[key] = self.build(more if isinstance(more, dict) else {}, key, depth + 1, focus)
        return built

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        # What costs more than there is left for would be cut off anyway.
        least = self._effort.at_most(schema.get("minItems", 0), 2)
        usual = max(MAX_ITEMS, least)
        most = min(schema.get("maxItems", usual), usual)
        items = schema.get("items", {})
        if items is False or most == 0:
            return []
        words = _words(name)
        if (words & _EMPTY or depth > 2 * OPTIONAL_DEPTH) and not least:
            return []
        resolved = self._resolved(items) if isinstance(items, dict) else {}
        subjects = self._subjects(words)[:most]
        kind = self._kind(resolved, depth) if resolved else "string"
        if "const" in resolved:
            return [resolved["const"]] * max(1, self._paid(least, resolved["const"]))
        if "enum" in resolved:
            least = self._paid(least, max(resolved["enum"], key=_size, default=None))
            return self._several(resolved["enum"], least, most, unique=bool(schema.get("uniqueItems")))
        if kind == "string":
            built: list[Any] = [self._fitted(resolved, subject) for subject in subjects]
        else:
            count = max(least, min(most, len(subjects) if kind == "object" else 1))
            built = []
            while len(built) < count and not self._effort.is_spent:
                focus = subjects[len(built) % len(subjects)] if subjects else ""
                built.append(self.build(items, name, depth + 1, focus))
        if schema.get("uniqueItems"):
            built = list({json.dumps(value, sort_keys=True): value for value in built}.values())
        while len(built) < least and not self._effort.is_spent:
            built.append(self._another(resolved, items, name, depth, len(built)))
        return built

    def _another(self, resolved: Mapping[str, Any], items: Any, name: str, depth: int, at: int) -> Any:
        """One more item than there is evidence for; a text or number unlike the ones before."""
        kind = self._kind(resolved, depth) if resolved else "string"
        if kind == "string" and "const" not in resolved:
            return self._fitted(resolved, f"{at + 1}. {self._evidence.purpose}")
        if kind in ("integer", "number") and "const" not in resolved:
            self._effort.spend(2)
            return number(resolved, kind, name, self._evidence, step=at)
        return self.build(items, name, depth + 1)

    def _paid(self, number: int, value: Any) -> int:
        """As many of one value as there is effort left for, which is taken."""
        number = self._effort.at_most(number, _size(value))
        self._effort.spend(number * _size(value))
        return number

    def _several(self, options: Sequence[Any], least: int, most: int, *, unique: bool) -> list[Any]:
        best = choose(options, self._evidence)
        if unique:
            return [best, *(option for option in options if option != best)][: max(1, least)]
        return [best] * max(1, min(least, most))

    def _subjects(self, words: set[str]) -> list[str]:
        evidence = self._evidence
        if words & _IMPORTS:
            return evidence.imports
        if words & _HEADINGS:
            return evidence.headings or evidence.names
        if words & _SENTENCES:
            return [record.sentence for record in evidence.records if record.sentence] or evidence.sentences
        if words & _PATHS:
            return [evidence.path] if evidence.path else []
        return evidence.names

    def _text(self, schema: Mapping[str, Any], name: str, focus: str) -> str:
        evidence = self._evidence
        words = _words(name)
        if words & _TITLES:
            return focus or (evidence.names[:1] or evidence.headings[:1] or [evidence.goal or evidence.path])[0]
        if words & _PATHS and evidence.path:
            return evidence.path
        if focus:
            return evidence.docs.get(focus) or next((text for text in evidence.sentences if focus in text), focus)
        if words & _REPORTS:
            limit = min(self._room - 120, schema.get("maxLength", self._room))
            return report(evidence, max(limit, 40))
        if words & _REASONS:
            return reason(evidence)
        if words & _PARAGRAPHS:
            return paragraph(evidence)
        if evidence.about and words & _PURPOSES:
            return " ".join(sentences(evidence.about)[:3])
        return evidence.purpose or reason(evidence) or clipped(evidence.prompt.strip(), 160)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _size(value: Any) -> int:
    return len(json.dumps(value))


def _words(name: str) -> set[str]:
    return set(name.lower().replace("-", "_").split("_"))
