"""Functions that a caller offers the simulated model: reading the offer, and the calls that the model answers with.

Chance has no part in it: a function is called when it must be, or when a word of its name or description is in what the
user said last. Arguments keep the function's schema. It knows no wire but the chat wire's `tools`, `tool_choice` and
`parallel_tool_calls`; what it refuses, it refuses in the vendor's words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fleet.sim.answers import answer
from fleet.sim.asked import ApiError, Asked, Function, Offer, Result, why_invalid, words_of
from fleet.sim.phrases import clipped
from fleet.tokens import estimate_tokens

MAX_FUNCTIONS = 128
MAX_RESULT_CHARS = 500

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[a-z]{4,}")
_SAY_NOTHING = words_of(
    "about also does each from function give given have into more some such that their them then there they this tool "
    "used uses using what when where which with will would your"
)


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call that the model asks for; `arguments` is JSON, unless it was cut."""

    name: str
    arguments: str


def read(body: Mapping[str, Any]) -> Offer:
    """What a request offers.

    Raises:
        ApiError: 400, a tool that is no function of a valid schema, or a choice of one that is not offered.
    """
    given, choice = body.get("tools"), body.get("tool_choice")
    if given is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if body.get(name) not in (None, "none"):
                said = f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified."
                raise ApiError(400, said, param=name)
        return Offer()
    if not isinstance(given, list):
        raise ApiError(400, "Invalid type for 'tools': expected an array.", code="invalid_type", param="tools")
    if not given:
        raise ApiError(
            400,
            "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            code="empty_array",
            param="tools",
        )
    if len(given) > MAX_FUNCTIONS:
        raise ApiError(
            400,
            f"Invalid 'tools': array too long. Expected an array with maximum length {MAX_FUNCTIONS}, but got an array "
            f"with length {len(given)} instead.",
            code="array_above_max_length",
            param="tools",
        )
    offered = tuple(_function(tool, f"tools[{number}]") for number, tool in enumerate(given))
    functions, required = _chosen(offered, choice)
    return Offer(functions, required, body.get("parallel_tool_calls") is not False)


def calls(asked: Asked, room: int) -> tuple[FunctionCall, ...]:
    """The calls the model answers with, in the order of the offer; none, and it answers in text.

    `room`: tokens of its answer, as a bound for each call's arguments.
    """
    offer = asked.offer
    if not offer.functions:
        return ()
    said = _words(asked.question)
    meant = [(len(said & _words(f"{each.name} {each.description}")), each) for each in offer.functions]
    called = [each for shared, each in meant if shared]
    if not called and offer.required:
        called = [offer.functions[0]]
    if not offer.parallel and called:
        called = [max(meant, key=lambda pair: pair[0])[1]]
    about = asked.question or asked.prompt
    return tuple(FunctionCall(each.name, answer("", about, each.schema, "", room)) for each in called)


def tokens_of(given: Iterable[FunctionCall]) -> int:
    """Tokens of calls, as they are billed."""
    return sum(estimate_tokens(call.name) + estimate_tokens(call.arguments) for call in given)


def halved(given: Sequence[FunctionCall]) -> tuple[FunctionCall, ...]:
    """Calls that break off in the middle of the last one's arguments; without any of those, before it."""
    if not given or not given[-1].arguments:
        return tuple(given[:-1])
    last = given[-1]
    return (*given[:-1], replace(last, arguments=last.arguments[: len(last.arguments) // 2]))


def report(results: Iterable[Result]) -> str:
    """What the model says once it has the results of its calls."""
    return " ".join(
        f"{result.function} says: {clipped(' '.join(result.text.split()), MAX_RESULT_CHARS)}" for result in results
    )


def _function(tool: Any, where: str) -> Function:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind != "function":
        raise ApiError(400, f"Tools of type '{kind}' are not simulated.", code="invalid_value", param=f"{where}.type")
    given = tool.get("function")
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str):
        missing = f"{where}.function" + ("" if given is None else ".name")
        raise ApiError(
            400, f"Missing required parameter: '{missing}'.", code="missing_required_parameter", param=missing
        )
    if not _NAME.fullmatch(name):
        raise ApiError(
            400,
            f"Invalid '{where}.function.name': string does not match pattern. Expected a string that matches the pattern "
            "'^[a-zA-Z0-9_-]+$'.",
            code="invalid_value",
            param=f"{where}.function.name",
        )
    schema = given.get("parameters")
    if schema is None:
        schema = {"type": "object", "properties": {}}
    wrong = ""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        wrong = "schema must be a JSON Schema of 'type: \"object\"'."
    else:
        wrong = why_invalid(schema, strict=bool(given.get("strict")))
    if wrong:
        raise ApiError(
            400,
            f"Invalid schema for function '{name}': {wrong}",
            code="invalid_function_parameters",
            param=f"{where}.function.parameters",
        )
    # A model makes no arguments up that it was not told of.
    return Function(name, str(given.get("description") or ""), {"additionalProperties": False, **schema})


def _chosen(offered: tuple[Function, ...], choice: Any) -> tuple[tuple[Function, ...], bool]:
    """The functions that may be called, and whether one must be."""
    if choice in (None, "auto", "none", "required"):
        return (() if choice == "none" else offered), choice == "required"
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind == "function":
        return _named(offered, [choice]), True
    if kind == "allowed_tools":
        allowed = choice["allowed_tools"]
        return _named(offered, allowed["tools"]), allowed["mode"] == "required"
    raise ApiError(
        400,
        f"Invalid value: '{kind}'. Supported values are: 'none', 'auto', and 'required'.",
        code="invalid_value",
        param="tool_choice",
    )


def _named(offered: tuple[Function, ...], named: Iterable[Mapping[str, Any]]) -> tuple[Function, ...]:
    by_name = {function.name: function for function in offered}
    found = []
    for each in named:
        name = each["function"]["name"]
        if name not in by_name:
            said = (
                f"Invalid value for 'tool_choice': no function named '{name}' was specified in the 'tools' parameter."
            )
            raise ApiError(400, said, param="tool_choice")
        found.append(by_name[name])
    return tuple(found)


def _words(text: str) -> frozenset[str]:
    """The words of a text that can tell one function from another."""
    return frozenset(_WORD.findall(_HUMP.sub(" ", text).lower())) - _SAY_NOTHING
