"""Which functions the simulated model calls, with what, and what it says of their results."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleet.sim import chat, functions
from fleet.sim.asked import ApiError, Asked
from fleet.sim.produce import Fault, Produced, input_tokens, produce
from fleet.sim.settings import CHEAPEST
from fleet.tokens import estimate_tokens

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get current temperature for a given location.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["location", "unit"],
        "additionalProperties": False,
    },
    "strict": True,
}
ORDER: dict[str, Any] = {
    "name": "findOrder",
    "description": "Look an order up.",
    "parameters": {
        "type": "object",
        "properties": {"number": {"type": "integer", "minimum": 3}},
        "required": ["number"],
    },
}
PING: dict[str, Any] = {"name": "ping"}


def tools(*given: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": function} for function in given]


ALL = tools(WEATHER, ORDER, PING)
RESULTS: list[dict[str, Any]] = [
    {
        "role": "assistant",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "ping", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "pong in 3 ms"},
]


def asked(said: str, *more: dict[str, Any], **fields: Any) -> Asked:
    return chat.read({"model": "m", "messages": [{"role": "user", "content": said}, *more], **fields})


def made(wanted: Asked, *, fault: Fault | None = None, limit: int = 2000) -> Produced:
    return produce(
        wanted,
        manner=CHEAPEST.model_copy(update={"invalid_output": 0.0}),
        rework=0,
        fault=fault,
        dice=random.Random(1),
        tokens_in=input_tokens(wanted),
        tokens_cached=0,
        max_output_tokens=limit,
    )


@pytest.mark.parametrize(
    ("said", "choice", "parallel", "called"),
    [
        ("What is the weather in Paris?", None, None, ["get_weather"]),
        ("Tell me what was given, and when.", "auto", None, []),
        ("Where is my order, and is the weather fine?", "auto", None, ["get_weather", "findOrder"]),
        ("Order up! And the weather, the temperature, the location?", "auto", False, ["get_weather"]),
        ("Look my order up, whatever the weather.", "auto", False, ["findOrder"]),
        ("Is my ORDER there?", "auto", False, ["findOrder"]),
        ("What is the weather in Paris?", "none", None, []),
        ("Tell me a joke.", "required", None, ["get_weather"]),
        ("Where is my order?", "required", None, ["findOrder"]),
        ("Tell me a joke.", {"type": "function", "function": {"name": "ping"}}, None, ["ping"]),
        (
            "Where is my order, and is the weather fine?",
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools({"name": "findOrder"})}},
            None,
            ["findOrder"],
        ),
        (
            "Tell me a joke.",
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": tools({"name": "ping"})}},
            None,
            ["ping"],
        ),
    ],
)
def test_a_function_is_called_when_it_must_be_or_is_spoken_of(
    said: str, choice: Any, parallel: bool | None, called: list[str]
) -> None:
    answer = made(asked(said, tools=ALL, tool_choice=choice, parallel_tool_calls=parallel))
    assert [call.name for call in answer.calls] == called
    assert answer.finish == ("tool_calls" if called else "stop")
    assert bool(answer.text) == (not called)


def test_arguments_keep_the_functions_schema() -> None:
    weather, order = made(asked("My order, and the weather?", tools=ALL)).calls
    Draft202012Validator(WEATHER["parameters"]).validate(json.loads(weather.arguments))
    Draft202012Validator(ORDER["parameters"]).validate(json.loads(order.arguments))
    (ping,) = made(asked("Ping it.", tools=ALL)).calls
    assert ping.arguments == "{}"


def test_results_are_told_and_not_asked_for_again() -> None:
    answer = made(asked("Ping it.", *RESULTS, tools=ALL))
    assert (answer.calls, answer.finish) == ((), "stop")
    assert answer.text == "ping says: pong in 3 ms"


def test_a_function_that_must_be_called_is_called_after_its_result_too() -> None:
    assert made(asked("Ping it.", *RESULTS, tools=ALL, tool_choice="required")).finish == "tool_calls"


def test_functions_calls_and_results_are_billed() -> None:
    bare = input_tokens(asked("Ping it."))
    offered = input_tokens(asked("Ping it.", tools=ALL))
    assert offered == bare + estimate_tokens(json.dumps(ALL))
    told = input_tokens(asked("Ping it.", *RESULTS, tools=ALL))
    assert told == offered - bare + estimate_tokens("Ping it.\nping({})\npong in 3 ms")
    answer = made(asked("What is the weather?", tools=ALL))
    assert answer.usage.output_tokens == functions.tokens_of(answer.calls) > 0


def test_calls_are_cut_like_text() -> None:
    whole = made(asked("My order, and the weather?", tools=ALL))
    halved = made(asked("My order, and the weather?", tools=ALL), fault="truncation")
    assert halved.finish == "length"
    assert halved.calls[0] == whole.calls[0]
    assert whole.calls[1].arguments.startswith(halved.calls[1].arguments)
    assert len(halved.calls[1].arguments) < len(whole.calls[1].arguments)
    for limit in (1, 2, 5, 12):
        short = made(asked("My order, and the weather?", tools=ALL), limit=limit)
        assert short.finish == "length"
        assert short.usage.output_tokens <= limit
    one = made(asked("My order, and the weather?", tools=ALL), limit=functions.tokens_of(whole.calls[:1]))
    assert one.calls == whole.calls[:1]
    assert made(asked("What is the weather?", tools=ALL), fault="refusal").calls == ()


def test_a_stop_sequence_ends_the_answer_before_it() -> None:
    said = "The pump in hall 3 leaks. It was repaired in May. Parts are on order."
    whole = made(asked(said))
    cut = made(asked(said, stop=["May", " It"]))
    assert cut.text == whole.text[: whole.text.index(" It")]
    assert cut.finish == "stop"
    assert cut.usage.output_tokens < whole.usage.output_tokens
    assert made(asked(said, stop="nowhere")).text == whole.text


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"tools": []}, "empty_array", "tools"),
        ({"tools": tools(PING) * 129}, "array_above_max_length", "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "invalid_value", "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].function"),
        ({"tools": tools(PING, {})}, "missing_required_parameter", "tools[1].function.name"),
        ({"tools": tools({"name": "a b"})}, "invalid_value", "tools[0].function.name"),
        (
            {"tools": tools({"name": "a", "parameters": {"type": "string"}})},
            "invalid_function_parameters",
            "tools[0].function.parameters",
        ),
        ({"tools": tools({**ORDER, "strict": True})}, "invalid_function_parameters", "tools[0].function.parameters"),
        ({"tool_choice": "auto"}, None, "tool_choice"),
        ({"parallel_tool_calls": True}, None, "parallel_tool_calls"),
        ({"tools": ALL, "tool_choice": "sometimes"}, "invalid_value", "tool_choice"),
        ({"tools": ALL, "tool_choice": {"type": "function", "function": {"name": "x"}}}, None, "tool_choice"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "array_above_max_length", "stop"),
        ({"stop": [1]}, "invalid_type", "stop"),
        ({"stream_options": {"include_usage": True}}, None, "stream_options"),
    ],
)
def test_what_is_no_offer_is_refused(fields: dict[str, Any], code: str | None, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        asked("x", **fields)
    error = refused.value.body["error"]
    assert (refused.value.status, error["code"], error["param"]) == (400, code, param)
