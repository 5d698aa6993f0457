"""How the simulated vendor reads a conversation of the chat wire, and what it takes for none."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.sim import chat, conversation
from fleet.sim.asked import ApiError, Result

USER = {"role": "user", "content": "What is the weather in Paris and Lima?"}
TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]


def call(ident: str, name: str = "get_weather", arguments: str = "{}") -> dict[str, Any]:
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*idents: str) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [call(ident) for ident in idents]}


def result(ident: str, text: Any = "rain") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": ident, "content": text}


def test_what_developers_say_is_apart_from_what_the_others_say() -> None:
    said = conversation.read(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": [{"type": "text", "text": "Hi."}, {"type": "refusal", "refusal": "No."}]},
            {"role": "assistant", "content": None, "refusal": "Never."},
            {"role": "user", "content": "Bye."},
        ]
    )
    assert said.instructions == "Be brief.\nBe kind."
    assert said.prompt == "Hello.\nHi.\nNo.\nNever.\nBye."
    assert said.question == "Bye."


def test_results_belong_to_their_calls_in_any_order() -> None:
    said = conversation.read(
        [USER, calling("a", "b"), result("b", "sun"), result("a", [{"type": "text", "text": "rain"}])]
    )
    assert said.results == (Result("get_weather", "sun"), Result("get_weather", "rain"))
    assert said.question == ""
    assert said.prompt.endswith("get_weather({})\nget_weather({})\nsun\nrain")


def test_once_somebody_has_spoken_results_are_history() -> None:
    said = conversation.read([USER, calling("a"), result("a"), {"role": "assistant", "content": "Rain."}, USER])
    assert said.results == ()
    assert said.question == USER["content"]


@pytest.mark.parametrize(
    ("messages", "message", "param"),
    [
        (None, "Missing required parameter: 'messages'.", "messages"),
        ([], "Invalid 'messages': empty array.", "messages"),
        ("Hello.", "Invalid type for 'messages': expected an array", "messages"),
        ([{"content": "x"}], "Missing required parameter: 'messages[0].role'.", "messages[0].role"),
        ([{"role": "model", "content": "x"}], "Invalid value: 'model'. Supported values are:", "messages[0].role"),
        ([{"role": "function", "content": "x"}], "Messages with role 'function' are not simulated", "messages[0].role"),
        ([{"role": "user", "content": None}], "expected a string, got null", "messages.[0].content"),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}],
            "Invalid value: 'input_text'. Supported values are: 'image_url', 'refusal', 'text'.",
            "messages[0].content",
        ),
        (
            [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}],
            "Image URLs are only allowed for messages with role 'user'",
            "messages[0]",
        ),
        ([USER, result("a")], "must be a response to a preceeding message with 'tool_calls'", "messages.[1].role"),
        (
            [USER, calling("a"), result("a"), USER, result("a")],
            "must be a response to a preceeding message with 'tool_calls'",
            "messages.[4].role",
        ),
        ([USER, calling("a"), result("b")], "'tool_call_id' of 'b' not found", "messages.[2].tool_call_id"),
        (
            [USER, calling("a"), result("a"), result("a")],
            "'tool_call_id' of 'a' not found",
            "messages.[3].tool_call_id",
        ),
        ([USER, calling("a", "b"), result("a"), USER], "did not have response messages: b", "messages.[3].role"),
        ([USER, calling("a", "b")], "did not have response messages: a, b", "messages.[2].role"),
        (
            [USER, calling("a"), {"role": "tool", "content": "rain"}],
            "Missing required parameter: 'messages[2].tool_call_id'.",
            "messages[2].tool_call_id",
        ),
        ([USER, calling()], "Invalid 'messages[1].tool_calls': empty array.", "messages[1].tool_calls"),
        (
            [USER, {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f"}}]}],
            "Missing required parameter: 'messages[1].tool_calls[0].id'.",
            "messages[1].tool_calls[0].id",
        ),
    ],
)
def test_what_is_no_conversation_is_refused_in_the_vendors_words(messages: Any, message: str, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat.read({"model": "m", "messages": messages, "tools": TOOLS})
    assert refused.value.status == 400
    assert message in str(refused.value)
    assert refused.value.body["error"]["param"] == param
