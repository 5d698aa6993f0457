"""The two protocols, without a connection: bodies written, answers read."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from fleet.config import ProviderConfig
from fleet.prices import Usage
from fleet.providers.base import MAX_NAME, Image, ModelRequest
from fleet.providers.openai import OpenAIProvider
from fleet.providers.structured import is_strict
from fleet.providers.wires import ChatWire, FailedAnswerError, ResponsesWire, Wire

CLOSED = {
    "type": "object",
    "additionalProperties": False,
    "required": ["topic"],
    "properties": {"topic": {"enum": ["billing", "bug"]}},
}
REQUEST = ModelRequest(
    call_id="c",
    model="m",
    prompt="Look.",
    instructions="Be brief.",
    images=(Image("image/png", b"\x89PNG"),),
    schema=CLOSED,
    schema_name="topic",
    max_output_tokens=50,
    reasoning_effort="low",
)
PLAIN = ModelRequest(call_id="c", model="m", prompt="Hello")
URL = "data:image/png;base64,iVBORw=="


def test_the_body_of_a_response() -> None:
    assert ResponsesWire().body(REQUEST) == {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look."},
                    {"type": "input_image", "image_url": URL, "detail": "auto"},
                ],
            }
        ],
        "max_output_tokens": 50,
        "store": False,
        "text": {"format": {"type": "json_schema", "name": "topic", "schema": CLOSED, "strict": True}},
        "reasoning": {"effort": "low"},
    }
    assert ResponsesWire().body(PLAIN) == {"model": "m", "input": "Hello", "max_output_tokens": 4096, "store": False}


def test_the_body_of_a_chat_completion() -> None:
    assert ChatWire("max_tokens").body(REQUEST) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Look."}, {"type": "image_url", "image_url": {"url": URL}}],
            },
        ],
        "max_tokens": 50,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "topic", "schema": CLOSED, "strict": True},
        },
        "reasoning_effort": "low",
    }
    assert ChatWire("max_completion_tokens").body(PLAIN)["max_completion_tokens"] == 4096


def response(*content: dict[str, Any], **fields: Any) -> dict[str, Any]:
    output = [{"type": "reasoning", "summary": []}, {"type": "message", "content": list(content)}]
    return {"model": "m-1", "status": "completed", "output": output, **fields}


def completion(reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"model": "m-1", "choices": [{"message": message, "finish_reason": reason}]}


TEXT = {"type": "output_text", "text": "Hi"}


@pytest.mark.parametrize(
    ("answer", "text", "finish"),
    [
        (response(TEXT, TEXT), "HiHi", "stop"),
        (response({"type": "output_text", "text": " \n"}), " \n", "empty"),
        (response(), "", "empty"),
        (response({"type": "refusal", "refusal": "No."}), "No.", "refusal"),
        (response(TEXT, status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "Hi", "length"),
        (response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "", "length"),
        (response(TEXT, status="incomplete", incomplete_details={"reason": "content_filter"}), "Hi", "refusal"),
    ],
)
def test_how_a_response_ended(answer: dict[str, Any], text: str, finish: str) -> None:
    found = ResponsesWire().read(answer)
    assert (found.text, found.finish, found.usage, found.model) == (text, finish, None, "m-1")


@pytest.mark.parametrize(
    ("answer", "text", "finish"),
    [
        (completion(content="Hi"), "Hi", "stop"),
        (completion(content=None), "", "empty"),
        (completion(content="", refusal="No."), "No.", "refusal"),
        (completion("length", content="H"), "H", "length"),
        (completion("content_filter", content="H"), "H", "refusal"),
    ],
)
def test_how_a_chat_completion_ended(answer: dict[str, Any], text: str, finish: str) -> None:
    found = ChatWire("max_tokens").read(answer)
    assert (found.text, found.finish, found.usage, found.model) == (text, finish, None, "m-1")


def test_usage_is_read_from_both() -> None:
    usage = Usage(input_tokens=9, cached_tokens=4, output_tokens=5, reasoning_tokens=2)
    given = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    assert ResponsesWire().read(response(TEXT, usage=given)).usage == usage
    given = {
        "prompt_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens": 5,
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert ChatWire("max_tokens").read({**completion(content="Hi"), "usage": given}).usage == usage
    bare = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": None}
    found = ChatWire("max_tokens").read({**completion(content="Hi"), "usage": bare}).usage
    assert found == Usage(input_tokens=9, output_tokens=5)


def test_a_failed_response_is_no_answer() -> None:
    with pytest.raises(FailedAnswerError, match="server_error"):
        ResponsesWire().read({"status": "failed", "error": {"code": "server_error", "message": "x"}, "output": []})


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        ({**CLOSED, "required": []}, False),
        ({"type": "object", "required": ["topic"], "properties": CLOSED["properties"]}, False),
        ({"type": "array", "items": {"type": "string"}}, False),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, False),
        ({"type": "object", "properties": {"a": CLOSED}, "required": ["a"], "additionalProperties": False}, True),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "array", "items": {"type": "object"}}},
                "required": ["a"],
                "additionalProperties": False,
            },
            False,
        ),
        ({**CLOSED, "allOf": []}, False),
    ],
)
def test_strict_is_asked_for_where_the_schema_allows_it(schema: dict[str, Any], strict: bool) -> None:
    assert is_strict(schema) is strict


def test_what_was_written_into_a_cache_and_the_service_tier_are_read_from_both_wires() -> None:
    details = {"cached_tokens": 3, "cache_write_tokens": 4}
    response = {
        "model": "m",
        "output": [],
        "service_tier": "flex",
        "usage": {"input_tokens": 10, "input_tokens_details": details, "output_tokens": 2},
    }
    chat = {
        "model": "m",
        "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
        "service_tier": "flex",
        "usage": {"prompt_tokens": 10, "prompt_tokens_details": details, "completion_tokens": 2},
    }
    for found in (ResponsesWire().read(response), ChatWire("max_tokens").read(chat)):
        assert found.usage == Usage(input_tokens=10, cached_tokens=3, cache_write_tokens=4, output_tokens=2)
        assert found.service_tier == "flex"
    for odd in (None, 7, "", "a\nb", "x" * 41, ["flex"]):
        assert ChatWire("max_tokens").read(chat | {"service_tier": odd}).service_tier is None


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": -1, "output_tokens": 2},
        {"input_tokens": 5, "output_tokens": -2},
        {"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 6}},
        {"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 3}},
    ],
)
def test_usage_that_cannot_be_is_none(usage: dict[str, Any]) -> None:
    """It would be billed below nothing; it is estimated instead, and the entry says so."""
    assert ResponsesWire().read({"model": "m", "output": [], "usage": usage}).usage is None


@pytest.mark.parametrize("wire", [ResponsesWire(), ChatWire("max_tokens")])
def test_how_a_call_is_to_be_served_is_said_alike_on_both_wires(wire: Wire) -> None:
    plain = ModelRequest(call_id="c", model="m", prompt="p")
    assert not {"service_tier", "prompt_cache_key"} & wire.body(plain).keys()
    body = wire.body(replace(plain, service_tier="flex", cache_key="0f"))
    assert (body["service_tier"], body["prompt_cache_key"]) == ("flex", "0f")


@pytest.mark.parametrize(
    ("told", "url", "sent"),
    [
        (None, "https://api.openai.com/v1", True),
        (None, "http://127.0.0.1:1/v1", False),
        (True, "http://127.0.0.1:1/v1", True),
    ],
)
def test_only_who_knows_cache_keys_is_sent_one(told: bool | None, url: str, sent: bool) -> None:
    async def run() -> None:
        provider = OpenAIProvider(ProviderConfig(cache_key=told), url, "key")
        _, line = provider.batches.line(ModelRequest(call_id="c", model="m", prompt="p", cache_key="0f"))
        assert (b"prompt_cache_key" in line) is sent
        await provider.aclose()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("told", "url", "sent"),
    [
        (None, "https://api.openai.com/v1", True),
        (None, "http://127.0.0.1:1/v1", False),
        (True, "http://127.0.0.1:1/v1", True),
        (False, "https://api.openai.com/v1", False),
    ],
)
@pytest.mark.parametrize("wire", ["responses", "chat"])
def test_the_standard_is_asked_for_by_its_name_of_who_knows_that_and_flex_of_everybody(
    wire: Any, told: bool | None, url: str, sent: bool
) -> None:
    async def run() -> None:
        provider = OpenAIProvider(ProviderConfig(wire=wire, service_tier=told), url, "key")
        assert provider.says_default is sent
        for tier, said in (("default", "default" if sent else None), ("flex", "flex"), (None, None)):
            _, line = provider.batches.line(ModelRequest(call_id="c", model="m", prompt="p", service_tier=tier))
            assert json.loads(line)["body"].get("service_tier") == said
        await provider.aclose()

    asyncio.run(run())


def test_what_a_vendor_calls_its_model_is_kept_within_bounds() -> None:
    long = "m" * 100_000
    chat = {"model": long, "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
    part = {"type": "output_text", "text": "x"}
    response = {"model": long, "output": [{"type": "message", "content": [part]}]}
    assert ChatWire("max_tokens").read(chat).model == ResponsesWire().read(response).model == "m" * MAX_NAME
