"""Answers by a correctness table: to prompts that name a case of it, as `Case KIND/ITEM`, whatever else they say.

A right answer has the case's own mark in it, a wrong one that no check sees another of the same form, and one that a check
sees none: `ok-` and eight hexadecimal digits, or `no-`. So a schema or a rule that asks for `^ok-` sees what the table says that
it sees. Asked about an answer (a prompt with a mark in it, and a schema without a property `answer`), a model says whether it is
right, and is mistaken as often as the table has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from fleet.config import FleetConfig
from fleet.sim.asked import Asked
from fleet.sim.table import Table, uniform

_CASE = re.compile(r"\bCase (\S+?)/(\d+)\b")
_MARK = re.compile(r"\b(?:ok|no)-[0-9a-f]{8}\b")
#: What a schema calls a verdict on something that is right, or on something wrong.
_GOOD = re.compile(r"^(right|correct|accept|accepted|pass|passed|yes|ok|good|true|valid)$", re.I)
_BAD = re.compile(r"^(wrong|incorrect|reject|rejected|fail|failed|no|bad|false|invalid)$", re.I)
JUDGED_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and as how many tokens it is billed at least."""

    text: str
    tokens: int


class Tabled:
    """Answers of one provider's models: each speaks for the tier that it serves."""

    def __init__(self, table: Table, config: FleetConfig) -> None:
        self._table = table
        tiers = [tier for tier in config.tiers if tier in table.tiers]
        self._tiers = {config.tiers[tier].model: tier for tier in reversed(tiers)}

    def answer(self, model: str, asked: Asked) -> Said | None:
        """What a model says; None: the prompt names no case, or the table has nothing for the model's tier."""
        named = _CASE.search(asked.prompt)
        tier = self._tiers.get(model)
        if named is None or named[1] not in self._table.kinds:
            return None
        kind, item = named[1], int(named[2])
        properties = (asked.schema or {}).get("properties", {})
        marks = _MARK.findall(asked.prompt)
        if asked.schema is not None and "answer" not in properties and marks:
            right = marks[-1] == self._mark(kind, item)
            if uniform(self._table.seed, kind, item, marks[-1], "judged") < self._table.judge_error:
                right = not right
            return Said(json.dumps(_verdict(asked.schema, right)), JUDGED_TOKENS)
        if tier is None:
            return None
        mark = self._answer(kind, item, tier)
        its = self._table.kinds[kind]
        tokens = round(its.writes(tier) * self._table.spread(kind, item, tier))
        return Said(mark if asked.schema is None else json.dumps({"answer": mark}), tokens)

    def _answer(self, kind: str, item: int, tier: str) -> str:
        truth = self._table.truth(kind, item, tier)
        if truth == "right":
            return self._mark(kind, item)
        other = _digits(self._table.seed, kind, item, tier)
        return f"{'ok' if truth == 'leaked' else 'no'}-{other}"

    def _mark(self, kind: str, item: int) -> str:
        return f"ok-{_digits(self._table.seed, kind, item)}"


def _digits(*parts: object) -> str:
    return blake2b("/".join(map(str, parts)).encode(), digest_size=4).hexdigest()


def _verdict(schema: Mapping[str, Any], right: bool) -> Any:
    """A value for a judge's schema that says right or wrong wherever it can."""
    if options := schema.get("enum"):
        wanted = _GOOD if right else _BAD
        return next((one for one in options if wanted.match(str(one))), options[0 if right else -1])
    kind = schema.get("type")
    if kind == "object":
        return {name: _verdict(below, right) for name, below in schema.get("properties", {}).items()}
    if kind == "boolean":
        return right
    if kind in ("number", "integer"):
        return schema.get("maximum", 1) if right else schema.get("minimum", 0)
    if kind == "array":
        return []
    return "It is as it should be." if right else "It is not what the case asks for."
