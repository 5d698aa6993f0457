"""Reading the messages of the chat wire: who says what, and which result answers which call of a function.

It refuses what the vendor refuses, in the vendor's words (as its clients' users quote them), and knows no parameter of a
request but `messages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet.sim.asked import ApiError, Parts, Result, text_and_images, words_of

PARTS = Parts(text=words_of("text"), image="image_url")
ROLES = ("system", "assistant", "user", "function", "tool", "developer")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said so far."""

    #: By developers.
    instructions: str
    #: By everybody else, calls of functions and their results among it, as it is billed.
    prompt: str
    image_tokens: int
    #: By the user at last, where nobody has answered it yet.
    question: str
    #: By the functions that were called last, where nobody has spoken since.
    results: tuple[Result, ...]


def read(messages: Any) -> Conversation:
    """The `messages` of a request.

    Raises:
        ApiError: 400, they are no conversation: a role that there is not, a call without its result or the reverse.
    """
    if messages is None:
        raise _missing("messages")
    if not isinstance(messages, list):
        said = "Invalid type for 'messages': expected an array of objects."
        raise ApiError(400, said, code="invalid_type", param="messages")
    if not messages:
        raise _empty("messages")
    instructions: list[str] = []
    prompt: list[str] = []
    images = 0
    question = ""
    results: list[Result] = []
    calls = _Calls()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role = _role(message, where)
        text, pictures = _content(message, role, number)
        images += pictures
        if role == "tool":
            results.append(Result(calls.answered(message, number), text))
        else:
            calls.close(number)
            results.clear()
        if role in ("system", "developer"):
            instructions.append(text)
            continue
        prompt.append(text)
        question = text if role == "user" else ""
        if role == "assistant" and message.get("tool_calls") is not None:
            prompt += calls.open(message["tool_calls"], f"{where}.tool_calls")
    calls.close(len(messages))
    return Conversation("\n".join(instructions), "\n".join(prompt), images, question, tuple(results))


class _Calls:
    """The calls of the last message that made some, and which of them have no result yet."""

    def __init__(self) -> None:
        self._functions: dict[str, str] = {}
        self._waiting: list[str] = []

    def open(self, given: Any, where: str) -> list[str]:
        """Takes an assistant's calls; their text, as it is billed."""
        if not isinstance(given, list) or not given:
            raise _empty(where)
        texts = []
        for number, call in enumerate(given):
            at = f"{where}[{number}]"
            if call.get("type") != "function":
                raise ApiError(
                    400,
                    f"Calls of type '{call.get('type')}' are not simulated.",
                    code="invalid_value",
                    param=f"{at}.type",
                )
            ident = _given(call, "id", at)
            function = call.get("function") or {}
            name = _given(function, "name", f"{at}.function")
            arguments = _given(function, "arguments", f"{at}.function")
            self._functions[ident] = name
            self._waiting.append(ident)
            texts.append(f"{name}({arguments})")
        return texts

    def answered(self, message: Mapping[str, Any], number: int) -> str:
        """The name of the function whose result a message is."""
        ident = _given(message, "tool_call_id", f"messages[{number}]")
        if not self._functions:
            raise ApiError(
                400,
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
                param=f"messages.[{number}].role",
            )
        if ident not in self._waiting:
            raise ApiError(
                400,
                f"Invalid parameter: 'tool_call_id' of '{ident}' not found in 'tool_calls' of previous message.",
                param=f"messages.[{number}].tool_call_id",
            )
        self._waiting.remove(ident)
        return self._functions[ident]

    def close(self, number: int) -> None:
        """No more results come: message `number` is none."""
        if self._waiting:
            raise ApiError(
                400,
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                "'tool_call_id'. The following tool_call_ids did not have response messages: "
                + ", ".join(self._waiting),
                param=f"messages.[{number}].role",
            )
        self._functions.clear()


def _role(message: Any, where: str) -> str:
    if not isinstance(message, dict):
        raise ApiError(400, f"Invalid type for '{where}': expected an object.", code="invalid_type", param=where)
    role = _given(message, "role", where)
    if role not in ROLES:
        known = ", ".join(f"'{name}'" for name in ROLES[:-1])
        raise ApiError(
            400,
            f"Invalid value: '{role}'. Supported values are: {known}, and '{ROLES[-1]}'.",
            code="invalid_value",
            param=f"{where}.role",
        )
    if role == "function":
        raise ApiError(
            400, "Messages with role 'function' are not simulated.", code="invalid_value", param=f"{where}.role"
        )
    return role


def _content(message: Mapping[str, Any], role: str, number: int) -> tuple[str, int]:
    """A message's text and the tokens of its pictures."""
    where = f"messages[{number}]"
    content, refusal = message.get("content"), message.get("refusal") if role == "assistant" else None
    if content is None and refusal is None and not (role == "assistant" and message.get("tool_calls") is not None):
        raise ApiError(
            400, "Invalid value for 'content': expected a string, got null.", param=f"messages.[{number}].content"
        )
    text, pictures = text_and_images(content, f"{where}.content", PARTS)
    if pictures and role != "user":
        raise ApiError(
            400,
            f"Invalid '{where}'. Image URLs are only allowed for messages with role 'user', but this message with role "
            f"'{role}' contains an image URL.",
            code="invalid_value",
            param=where,
        )
    return "\n".join(filter(None, (text, refusal))), pictures


def _given(within: Mapping[str, Any], name: str, where: str) -> str:
    """A text that has to be there."""
    value = within.get(name)
    if not isinstance(value, str):
        raise _missing(f"{where}.{name}")
    return value


def _missing(name: str) -> ApiError:
    return ApiError(400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)


def _empty(name: str) -> ApiError:
    said = f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array instead."
    return ApiError(400, said, code="empty_array", param=name)
