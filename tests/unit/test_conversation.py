"""Conversations: what of the vendor's form is passed on, what is refused, and how many tokens they may be."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from pydantic import ValidationError

from fleet import checks
from fleet.api.response_items import ResponseRequest, chat_of, conversation_of, output_of
from fleet.checks import Rejected, unfinished
from fleet.conversation import Conversation
from fleet.examiners import Examiners
from fleet.jobs import Step
from fleet.prices import Usage
from fleet.providers.base import Completion, ModelRequest
from fleet.providers.wires import ChatWire

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL: dict[str, Any] = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
LOOP: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "annotations": [], "audio": None},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
    ],
    "tools": [TOOL],
    "tool_choice": "auto",
    "temperature": 0.5,
    "stop": ["END"],
    "max_completion_tokens": 100,
}


def test_what_is_passed_on_is_what_was_sent_but_for_what_nobody_reads() -> None:
    conversation = Conversation.model_validate(LOOP)
    body = ChatWire("max_tokens").body(
        ModelRequest(call_id="c", model="m", prompt="", conversation=conversation, max_output_tokens=90)
    )
    sent = json.loads(json.dumps(LOOP))
    del sent["max_completion_tokens"]
    sent["messages"][2] = {"role": "assistant", "tool_calls": [CALL]}
    assert body == sent | {"model": "m", "max_tokens": 90}


def test_it_is_read_back_as_it_was_written_down() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    conversation = Conversation.model_validate(LOOP | {"response_format": form})
    step = Step(id="reply", conversation=conversation)
    for kept in (step.model_dump(mode="json", exclude_defaults=True), json.loads(step.model_dump_json())):
        assert Step.model_validate(kept) == step
    assert Conversation.model_validate(conversation.kept()) == conversation


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "assistant"}]},
        {"messages": [{"role": "tool", "tool_call_id": "call_2", "content": "x"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com"}}]}
            ]
        },
        {"tools": None, "tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"stop": ["a"] * 5},
        {"top_p": 1.5},
        {"n": 2},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "http://x/y"}}}},
    ],
)
def test_what_cannot_be_passed_on_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Conversation.model_validate(LOOP | wrong)


def test_tokens_are_bounded_by_the_bytes_of_all_that_is_read() -> None:
    conversation = Conversation.model_validate(LOOP)
    said, sent = sum(len(text.encode()) for text in conversation.texts()), len(json.dumps(conversation.kept()))
    assert said / 2 < sent / 2 * 0.9 < conversation.input_bound() <= sent
    assert 0 < conversation.input_estimate() <= conversation.input_bound()
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + (640).to_bytes(4) + (480).to_bytes(4)).decode()
    seen = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}
    picture = Conversation.model_validate({"messages": [{"role": "user", "content": [seen]}]})
    assert picture.input_estimate() == 20 * 15 + 4
    assert picture.input_bound("gpt-4o-mini") - picture.input_bound("o4-mini") == 2_833 + 4 * 5_667 - 738
    odd = {"type": "image_url", "image_url": {"url": "data:image/png;base64,????"}}
    assert Conversation.model_validate({"messages": [{"role": "user", "content": [odd]}]}).input_estimate() > 1_000


def _completion(message: dict[str, Any], finish: Any = "stop", reason: str = "stop") -> Completion:
    text = message.get("content") or message.get("refusal") or ""
    return Completion(text, finish, Usage(), True, "m", None, message=message, reason=reason)


def check_reply(completion: Completion, conversation: Conversation, *, as_given: bool = True) -> dict[str, Any]:
    async def checked() -> dict[str, Any]:
        examiners = Examiners()
        try:
            return await checks.check_reply(completion, conversation, examiners, as_given=as_given)
        finally:
            examiners.close()

    return asyncio.run(checked())


def test_a_reply_is_passed_on_and_a_call_of_no_tool_is_not() -> None:
    conversation = Conversation.model_validate(LOOP)
    said = check_reply(_completion({"content": None, "tool_calls": [CALL]}, "empty", "tool_calls"), conversation)
    assert said["message"] == {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]}
    cut = check_reply(_completion({"content": "half of i"}, "length", "length"), conversation)
    assert cut["finish_reason"] == "length"
    refused = check_reply(_completion({"content": None, "refusal": "No."}, "refusal"), conversation)
    assert refused["message"]["refusal"] == "No."
    for completion, flaw in (
        (_completion({"content": "half of i"}, "length", "length"), "truncated"),
        (_completion({"content": None, "refusal": "No."}, "refusal"), "refusal"),
    ):
        with pytest.raises(Rejected) as rejected:  # nobody is there to decide what comes next
            check_reply(completion, conversation, as_given=False)
        assert unfinished(completion) == (str(rejected.value), flaw) == (str(rejected.value), rejected.value.flaw)
    for finish in ("stop", "empty"):
        assert unfinished(_completion({"content": "So."}, finish)) is None
    for message in (
        {"content": ""},
        {"content": None, "tool_calls": [CALL | {"function": {"name": "rm", "arguments": "{}"}}]},
        {"content": None, "tool_calls": [{"id": 1}]},
        {"content": None, "tool_calls": ["weather"]},
    ):
        with pytest.raises(Rejected):
            check_reply(_completion(message, "empty"), conversation)


def test_a_whole_reply_has_the_form_that_was_asked_for() -> None:
    schema = {"type": "object", "required": ["topic"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    conversation = Conversation.model_validate({"messages": LOOP["messages"][:2], "response_format": form})
    fenced = check_reply(_completion({"content": '```json\n{"topic": 1}\n```'}), conversation)
    assert fenced["message"]["content"] == '{"topic": 1}'
    for text in ("{}", "topic", "[1]"):
        with pytest.raises(Rejected):
            check_reply(_completion({"content": text}), conversation)
    assert check_reply(_completion({"content": '{"top'}, "length", "length"), conversation)
    form["json_schema"] = {
        "name": "x",
        "schema": schema | {"properties": {"topic": {"pattern": "^b"}}, "unevaluatedProperties": False},
    }
    slow = Conversation.model_validate({"messages": LOOP["messages"][:2], "response_format": form})
    assert check_reply(_completion({"content": '{"topic": "bug"}'}), slow)["message"]["content"] == '{"topic": "bug"}'
    with pytest.raises(Rejected, match="topic breaks the schema's rule pattern"):
        check_reply(_completion({"content": '{"topic": "idea"}'}), slow)


def test_the_items_of_a_response_are_messages() -> None:
    asked = ResponseRequest.model_validate(
        {
            "model": "nano",
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}", "id": "fc_1"},
                {"type": "function_call", "call_id": "call_2", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "call_1", "output": "Rain."},
                {
                    "type": "function_call_output",
                    "call_id": "call_2",
                    "output": [{"type": "input_text", "text": "Sun."}],
                },
                {"role": "assistant", "content": [{"type": "output_text", "text": "Both.", "annotations": []}]},
            ],
            "tools": [{"type": "function", "name": "weather", "parameters": {"type": "object"}}],
            "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
            "reasoning": {"effort": "low"},
        }
    )
    kept = conversation_of(chat_of(asked)).kept()
    assert [message["role"] for message in kept["messages"]] == [
        *("system", "user", "assistant", "tool", "tool", "assistant")
    ]
    assert [call["id"] for call in kept["messages"][2]["tool_calls"]] == ["call_1", "call_2"]
    assert kept["response_format"]["json_schema"] == {"name": "x", "schema": {"type": "object"}}
    assert kept["reasoning_effort"] == "low"
    items = output_of("j1", {"message": {"content": None, "refusal": None, "tool_calls": [CALL]}, "finish_reason": "x"})
    assert [(item["type"], item["call_id"], item["name"]) for item in items] == [("function_call", "call_1", "weather")]
