"""Whether an answer is one: whole, JSON where a schema asks for it, and valid against that schema. Pure functions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jsonschema

from fleet.conversation import Conversation
from fleet.flaws import Flaw
from fleet.providers.base import Completion

MAX_ANSWER_CHARS = 2_000_000
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.S)
_UNFINISHED: dict[str, tuple[str, Flaw]] = {
    "length": ("the answer was cut off at max_output_tokens", "truncated"),
    "refusal": ("the model refused to answer", "refusal"),
    "empty": ("the answer was empty", "empty"),
}


class Rejected(Exception):
    """An answer that cannot be accepted; the text is the reason, without the answer in it, and `flaw` what it comes to."""

    def __init__(self, reason: str, flaw: Flaw = "schema") -> None:
        super().__init__(reason)
        self.flaw: Flaw = flaw


def check(completion: Completion, schema: Mapping[str, Any] | None) -> Any:
    """The accepted output: the text, or the parsed JSON when there is a schema.

    Raises:
        Rejected: the answer is cut off, refused, empty, no JSON or against the schema.
    """
    if completion.finish != "stop":
        raise Rejected(*_UNFINISHED[completion.finish])
    if len(completion.text) > MAX_ANSWER_CHARS:
        raise Rejected(f"the answer is over {MAX_ANSWER_CHARS:,} characters")
    if schema is None:
        return completion.text
    return parse(completion.text, schema)


def check_reply(completion: Completion, conversation: Conversation) -> dict[str, Any]:
    """The accepted reply in a conversation: `{message: {role, content, refusal, tool_calls?}, finish_reason}`.

    Whoever leads a conversation is told of a refusal, or that the limit they gave was reached, and decides what comes next; what
    claims to be whole has to say something, in the form that was asked for.

    Raises:
        Rejected: it is empty, no JSON, against the schema, or calls something that is none of the tools.
    """
    said = completion.message or {}
    content, calls, refusal = said.get("content"), said.get("tool_calls") or (), said.get("refusal")
    if content is not None and len(content) > MAX_ANSWER_CHARS:
        raise Rejected(f"the answer is over {MAX_ANSWER_CHARS:,} characters")
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": refusal}
    if calls:
        message["tool_calls"] = [_called(call, conversation) for call in calls]
    elif completion.finish == "empty":
        raise Rejected(*_UNFINISHED["empty"])
    elif completion.finish == "stop" and conversation.schema is not None:
        parse(completion.text, conversation.schema)
        fenced = _FENCE.match(completion.text)
        message["content"] = fenced.group(1) if fenced else completion.text
    return {"message": message, "finish_reason": completion.reason or "stop"}


def _called(call: Any, conversation: Conversation) -> dict[str, Any]:
    try:
        id_, name, arguments = call["id"], call["function"]["name"], call["function"]["arguments"]
    except (KeyError, TypeError):
        raise Rejected("the answer calls a tool in a form that is none of the protocol's") from None
    if not all(isinstance(part, str) for part in (id_, name, arguments)):
        raise Rejected("the answer calls a tool in a form that is none of the protocol's")
    if name not in {tool.function.name for tool in conversation.tools or ()}:
        raise Rejected("the answer calls something that is none of the tools")
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def parse(text: str, schema: Mapping[str, Any]) -> Any:
    """`text` as JSON that is valid against `schema`; Rejected with the reason otherwise."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text, parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise Rejected(f"the answer is not JSON: {error.msg} at character {error.pos}", "invalid_json") from None
    except ValueError:
        raise Rejected("the answer is not JSON: it has a number that is none, or is too big", "invalid_json") from None
    except RecursionError:
        raise Rejected("the answer is not JSON: too deep", "invalid_json") from None
    try:
        problem = jsonschema.exceptions.best_match(_validator(json.dumps(schema)).iter_errors(value))
    except RecursionError:
        raise Rejected("the answer is nested too deep") from None
    except Exception as error:
        # The answer is paid for, and it is not its fault.
        why = f"the schema cannot be applied: {type(error).__name__.lstrip('_')}"
        raise Rejected(why, "check_broken") from None
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


@lru_cache(maxsize=64)
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(schema))
