"""Whether an answer is one: whole, JSON where a schema asks for it, and valid against that schema. Pure functions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jsonschema

from fleet.providers.base import Completion

MAX_ANSWER_CHARS = 2_000_000
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.S)
_UNFINISHED = {
    "length": "the answer was cut off at max_output_tokens",
    "refusal": "the model refused to answer",
    "empty": "the answer was empty",
}


class Rejected(Exception):
    """An answer that cannot be accepted; the text is the reason, without the answer in it."""


def check(completion: Completion, schema: Mapping[str, Any] | None) -> Any:
    """The accepted output: the text, or the parsed JSON when there is a schema.

    Raises:
        Rejected: the answer is cut off, refused, empty, no JSON or against the schema.
    """
    if completion.finish != "stop":
        raise Rejected(_UNFINISHED[completion.finish])
    if len(completion.text) > MAX_ANSWER_CHARS:
        raise Rejected(f"the answer is over {MAX_ANSWER_CHARS:,} characters")
    if schema is None:
        return completion.text
    return parse(completion.text, schema)


def parse(text: str, schema: Mapping[str, Any]) -> Any:
    """`text` as JSON that is valid against `schema`; Rejected with the reason otherwise."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text, parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise Rejected(f"the answer is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:
        raise Rejected("the answer is not JSON: it has a number that is none, or is too big") from None
    except RecursionError:
        raise Rejected("the answer is not JSON: too deep") from None
    try:
        problem = jsonschema.exceptions.best_match(_validator(json.dumps(schema)).iter_errors(value))
    except RecursionError:
        raise Rejected("the answer is nested too deep") from None
    if problem is not None:
        where = ".".join(str(part) for part in problem.absolute_path) or "the answer"
        raise Rejected(f"{where} breaks the schema's rule {problem.validator}: {_rule(problem)}")
    return value


def _finite(text: str) -> float:
    """Python would read NaN, Infinity and 1e999, and write what no other reader of JSON takes."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _rule(problem: jsonschema.ValidationError) -> str:
    text = json.dumps(problem.validator_value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else text[:200] + "…"


@lru_cache(maxsize=256)
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(schema))
