"""Functions, as the vendor's own client offers them to the simulated provider: calls, streams, the whole loop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI, pydantic_function_tool
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from fleet.sim.settings import Faults, SimSettings
from tests.conformance.conftest import Sims
from tests.support.sim import MODELS, RunningSim


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str
    days: int


class FindOrder(BaseModel):
    """Looks an order up."""

    number: int


TOOLS = [pydantic_function_tool(GetWeather), pydantic_function_tool(FindOrder)]
WEATHER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
BOTH: list[ChatCompletionMessageParam] = [{"role": "user", "content": "The weather in Paris, and where is my order?"}]


@pytest.fixture
def client(sim: RunningSim) -> Iterator[OpenAI]:
    with OpenAI(base_url=sim.url, api_key="any", max_retries=0) as client:
        yield client


def test_the_whole_loop(client: OpenAI) -> None:
    messages = list(WEATHER)
    asked = client.chat.completions.create(model=MODELS[0], messages=messages, tools=TOOLS)
    choice = asked.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.id.startswith("call_")
    assert len(call.id) == len("call_") + 24
    assert call.function.name == "GetWeather"
    GetWeather.model_validate_json(call.function.arguments)

    # As the vendor's guide has it: the message goes back as it came.
    messages.append(choice.message)  # type: ignore[arg-type]
    messages.append({"role": "tool", "tool_call_id": call.id, "content": '{"celsius": 14}'})
    told = client.chat.completions.create(model=MODELS[0], messages=messages, tools=TOOLS)
    assert told.choices[0].finish_reason == "stop"
    assert '{"celsius": 14}' in (told.choices[0].message.content or "")
    assert told.usage is not None
    assert asked.usage is not None
    assert told.usage.prompt_tokens > asked.usage.prompt_tokens > 0


def test_calls_are_parsed_into_models(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODELS[0], messages=BOTH, tools=TOOLS)
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert [type(call.function.parsed_arguments) for call in calls] == [GetWeather, FindOrder]
    assert len({call.id for call in calls}) == 2


@pytest.mark.parametrize("messages", [WEATHER, BOTH], ids=["one", "two"])
def test_a_stream_has_the_calls_of_the_whole(client: OpenAI, messages: list[ChatCompletionMessageParam]) -> None:
    whole = client.chat.completions.create(model=MODELS[0], messages=messages, tools=TOOLS)
    chunks = list(
        client.chat.completions.create(
            model=MODELS[0], messages=messages, tools=TOOLS, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    built: dict[int, dict[str, Any]] = {}
    for delta in (chunk.choices[0].delta for chunk in chunks if chunk.choices):
        for piece in delta.tool_calls or ():
            assert piece.function is not None
            if piece.index not in built:
                built[piece.index] = {"id": piece.id, "name": piece.function.name, "arguments": ""}
            else:
                assert (piece.id, piece.function.name) == (None, None)
            built[piece.index]["arguments"] += piece.function.arguments or ""
    calls = whole.choices[0].message.tool_calls or []
    assert list(built) == list(range(len(calls)))
    for call, streamed in zip(calls, built.values(), strict=True):
        assert call.type == "function"
        assert (call.function.name, call.function.arguments) == (streamed["name"], streamed["arguments"])
        assert str(streamed["id"]).startswith("call_")
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

    with client.chat.completions.stream(model=MODELS[0], messages=messages, tools=TOOLS) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [event.arguments for event in done] == [streamed["arguments"] for streamed in built.values()]


def test_a_choice_is_kept(client: OpenAI) -> None:
    joke: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a joke."}]
    free = client.chat.completions.create(model=MODELS[0], messages=joke, tools=TOOLS)
    assert free.choices[0].finish_reason == "stop"
    named = client.chat.completions.create(
        model=MODELS[0],
        messages=joke,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "FindOrder"}},
    )
    (call,) = named.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "FindOrder"
    assert json.loads(call.function.arguments).keys() == {"number"}


def test_errors_are_the_vendors(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="must be a response to a preceeding message") as orphan:
        client.chat.completions.create(
            model=MODELS[0], messages=[*WEATHER, {"role": "tool", "tool_call_id": "call_1", "content": "x"}]
        )
    assert orphan.value.param == "messages.[1].role"
    with pytest.raises(openai.BadRequestError) as several:
        client.chat.completions.create(model=MODELS[0], messages=WEATHER, n=2)
    assert (several.value.code, several.value.param) == ("unsupported_parameter", "n")


def test_a_cut_call_is_told_as_too_long(sims: Sims) -> None:
    broken = sims(SimSettings(speed=100, faults=Faults(truncation=1.0)))
    with OpenAI(base_url=broken.url, api_key="any", max_retries=0) as client:
        answer = client.chat.completions.create(model=MODELS[0], messages=WEATHER, tools=TOOLS)
        assert answer.choices[0].finish_reason == "length"
        with pytest.raises(openai.LengthFinishReasonError):
            client.chat.completions.parse(model=MODELS[0], messages=WEATHER, tools=TOOLS)
