"""Whether a value keeps a JSON schema, and the sentence that says where it does not, without the value in it.

It owns how a value is held to a schema, and when that is quick enough for an event loop. What is not is asked of examiners, who
import this (`fleet.examiners`), so it knows nothing of the fleet that takes long to load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema
from referencing import Registry

from fleet import expansion

#: Steps of a schema at each value, times the characters of an answer, that are quick: tenths of a second if each were a value.
QUICK = 200_000
#: Shorter answers count as long as this.
FEWEST_CHARS = 127
#: Broken rules of which the one to tell of is chosen.
MOST_ERRORS = 1_000


class Rules:
    """One schema, as values are held to it."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        # By the rules that it was checked by: a $schema would have others followed from the first reference to the top on. And
        # what it refers to is in it, or nowhere.
        rules = {keyword: rule for keyword, rule in schema.items() if keyword != "$schema"}
        self._quick: dict[int, bool] = {}
        self._validator = jsonschema.Draft202012Validator(rules, registry=Registry())

    def problem(self, value: Any) -> str | None:
        """The first rule that `value` breaks, and where; None: it keeps them all."""
        try:
            error = jsonschema.exceptions.best_match(islice(self._validator.iter_errors(value), MOST_ERRORS))
        except RecursionError:
            return "the answer is nested too deep"
        except OverflowError:
            return "the answer has a number that is too big to be checked"
        if error is None:
            return None
        where = ".".join(str(part) for part in error.absolute_path) or "the answer"
        return f"{where} breaks the schema's rule {error.validator}: {_rule(error)}"

    def is_quick(self, chars: int) -> bool:
        """Whether an answer of so many characters can be held to it while others wait."""
        # Counted for few lengths: the next power of two stands for those below it.
        most = 1 << max(FEWEST_CHARS, chars - 1).bit_length()
        if most not in self._quick:
            steps = expansion.steps(self._validator.schema, most)
            self._quick[most] = steps is not None and steps * most <= QUICK
        return self._quick[most]


def rules(schema: Mapping[str, Any]) -> Rules:
    """Those of a schema, made ready once."""
    return _rules(json.dumps(schema))


def examined(value: Any, schema: Mapping[str, Any], _needs: Any) -> str | None:
    """What is broken, in the form of a check that an examiner calls (see `question`)."""
    return rules(schema).problem(value)


def question(value: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    """What an examiner is asked, to have a value held to a schema."""
    return {"target": f"{__name__}:{examined.__name__}", "output": value, "item": schema, "needs": {}}


@lru_cache(maxsize=64)
def _rules(schema: str) -> Rules:
    return Rules(json.loads(schema))


def _rule(error: jsonschema.ValidationError) -> str:
    text = json.dumps(error.validator_value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else text[:200] + "…"
