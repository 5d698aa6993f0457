"""Whether an answer is one: whole, JSON where a schema asks for it, and valid against that schema.

It owns what is no answer, and why. An answer that takes long to be held to its schema is examined in a process beside the worker
(`fleet.examiners`); everything else is a pure function of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fleet import validity
from fleet.conversation import Conversation
from fleet.examiners import BrokenCheckError, Examiners
from fleet.expansion import DEEPEST
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


async def check(completion: Completion, schema: Mapping[str, Any] | None, examiners: Examiners) -> Any:
    """The accepted output: the text, or the parsed JSON when there is a schema.

    Raises:
        Rejected: the answer is cut off, refused, empty, no JSON or against the schema.
        BrokenCheckError: nobody knows whether it is against the schema.
    """
    text = whole(completion)
    return text if schema is None else await _held(text, schema, examiners)


def whole(completion: Completion) -> str:
    """The text of an answer; Rejected: it is cut off, refused, empty, or beyond all measure."""
    if completion.finish != "stop":
        raise Rejected(*_UNFINISHED[completion.finish])
    if len(completion.text) > MAX_ANSWER_CHARS:
        raise Rejected(f"the answer is over {MAX_ANSWER_CHARS:,} characters")
    return completion.text


def unfinished(completion: Completion) -> tuple[str, Flaw] | None:
    """Why a reply is no whole one although it says something: it is a refusal, or was cut off."""
    return _UNFINISHED[completion.finish] if completion.finish in ("length", "refusal") else None


async def check_reply(
    completion: Completion, conversation: Conversation, examiners: Examiners, *, as_given: bool
) -> dict[str, Any]:
    """The reply in a conversation: `{message: {role, content, refusal, tool_calls?}, finish_reason}`.

    `as_given`: whoever leads it is told of a refusal, or that the limit they gave was reached, and decides what comes next; else
    nobody is there to decide, and neither is an answer. What claims to be whole has to say something, in the form that was
    asked for.

    Raises:
        Rejected: it is empty, no JSON, against the schema, or calls something that is none of the tools; or `unfinished`.
        BrokenCheckError: nobody knows whether it is against the schema.
    """
    if not as_given and (why := unfinished(completion)) is not None:
        raise Rejected(*why)
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
        await _held(completion.text, conversation.schema, examiners)
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
    """`text` as JSON that is valid against `schema`, one of our own; Rejected with the reason otherwise."""
    value = _read(text)
    try:
        reason = validity.rules(schema).problem(value)
    except Exception as error:
        # The answer is paid for, and it is not its fault.
        raise Rejected(_not_applied(error), "check_broken") from None
    if reason is not None:
        raise Rejected(reason)
    return value


async def _held(text: str, schema: Mapping[str, Any], examiners: Examiners) -> Any:
    """`text` as JSON that is valid against `schema`, which may be anybody's. Raises Rejected, BrokenCheckError."""
    value = _read(text)
    try:
        rules = validity.rules(schema)
        if rules.is_quick(len(text)):
            reason = rules.problem(value)
        else:
            reason = await examiners.ask(validity.question(value, schema))
    except BrokenCheckError:
        raise
    except Exception as error:
        # Whatever it is: the answer was paid for, and its entry is still to be written.
        raise BrokenCheckError(_not_applied(error)) from error
    if reason is not None:
        raise Rejected(reason)
    return value


def _not_applied(error: Exception) -> str:
    return f"the schema cannot be applied: {type(error).__name__.lstrip('_')}"


def _read(text: str) -> Any:
    """`text` as JSON. Raises Rejected."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text, parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise Rejected(f"the answer is not JSON: {error.msg} at character {error.pos}", "invalid_json") from None
    except ValueError:
        raise Rejected("the answer is not JSON: it has a number that is none, or is too big", "invalid_json") from None
    except RecursionError:
        raise Rejected("the answer is not JSON: too deep", "invalid_json") from None
    # What has so few brackets is not that deep; others are gone through.
    if text.count("[") + text.count("{") > DEEPEST and _is_deep(value):
        raise Rejected(f"the answer is nested too deep: more than {DEEPEST} lists and objects are in each other")
    return value


def _is_deep(value: Any) -> bool:
    """Whether it is nested deeper than what is written and read again can be."""
    level = [value]
    for _ in range(DEEPEST):
        level = [below for one in level for below in _within(one) if isinstance(below, (list, dict))]
        if not level:
            return False
    return True


def _within(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _finite(text: str) -> float:
    """Python would read NaN, Infinity and 1e999, and write what no other reader of JSON takes."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
