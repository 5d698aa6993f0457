"""The stops of the tour at chat completions: answers, streams, pictures, structured answers, functions, errors."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.tours.target import FACTS, PICTURE, Target, refused, schema_of

ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": FACTS}]
WEATHER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]


class Leak(BaseModel):
    place: str
    repaired: bool


class GetWeather(BaseModel):
    """The weather of a city now."""

    city: str


class FindOrder(BaseModel):
    """Looks an order up by its number."""

    number: int


TOOLS = [pydantic_function_tool(GetWeather), pydantic_function_tool(FindOrder)]


def models(to: Target) -> None:
    listed = [model.id for model in to.client.models.list()]
    assert to.model in listed, listed
    found = to.client.models.retrieve(to.model)
    assert (found.id, found.object) == (to.model, "model"), found


def chat(to: Target) -> None:
    answer = to.client.chat.completions.create(model=to.model, messages=ASKED, temperature=0, max_completion_tokens=500)
    assert answer.object == "chat.completion", answer
    assert answer.id.startswith("chatcmpl-"), answer.id
    assert answer.created > 0, answer
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.role) == ("stop", "assistant"), choice
    assert "pump" in (choice.message.content or "").lower(), choice
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0, answer.usage
    assert answer.usage.completion_tokens > 0, answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage


def headers(to: Target) -> None:
    raw = to.client.chat.completions.with_raw_response.create(model=to.model, messages=ASKED)
    assert raw.status_code == 200
    assert raw.headers["x-request-id"], raw.headers
    assert raw.headers["content-type"].startswith("application/json"), raw.headers
    # What the server made of the request's own id is what the client shows of an answer.
    assert raw.parse()._request_id == raw.headers["x-request-id"]


def fleet_headers(to: Target) -> None:
    raw = to.client.chat.completions.with_raw_response.create(model=to.model, messages=ASKED)
    assert raw.headers["x-fleet-job"], raw.headers
    assert raw.headers["x-fleet-tier"] in ("nano", "mini", "flagship"), raw.headers
    assert float(raw.headers["x-fleet-cost-usd"]) > 0, raw.headers


def stream(to: Target) -> None:
    chunks = list(
        to.client.chat.completions.create(
            model=to.model, messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1, chunks
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}, chunks
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert choices[0].delta.role == "assistant", choices[0]
    assert "pump" in "".join(choice.delta.content or "" for choice in choices).lower(), choices
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"], choices
    assert not chunks[-1].choices, chunks[-1]
    assert chunks[-1].usage is not None, chunks[-1]
    assert chunks[-1].usage.completion_tokens > 0, chunks[-1]

    plain = list(to.client.chat.completions.create(model=to.model, messages=ASKED, stream=True))
    assert all(chunk.usage is None for chunk in plain), plain
    assert plain[-1].choices[0].finish_reason == "stop", plain[-1]

    with to.client.chat.completions.stream(model=to.model, messages=ASKED) as events:
        told = "".join(event.delta for event in events if event.type == "content.delta")
        final = events.get_final_completion()
    assert told == final.choices[0].message.content, (told, final)


def turns(to: Target) -> None:
    first = to.client.chat.completions.create(model=to.model, messages=ASKED)
    assert first.usage is not None
    talk: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You are a careful engineer."},
        *ASKED,
        {"role": "assistant", "content": [{"type": "text", "text": first.choices[0].message.content or ""}]},
        {"role": "user", "content": [{"type": "text", "text": "When was the pump repaired?"}]},
    ]
    second = to.client.chat.completions.create(model=to.model, messages=talk)
    assert second.choices[0].message.content, second
    assert second.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens, (first.usage, second.usage)


def picture(to: Target) -> None:
    def asked(*parts: Any) -> int:
        content = [{"type": "text", "text": "What colour is this picture?"}, *parts]
        answer = to.client.chat.completions.create(model=to.model, messages=[{"role": "user", "content": content}])
        assert answer.choices[0].message.content, answer
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    assert asked({"type": "image_url", "image_url": {"url": PICTURE}}) > asked()


def json_schema(to: Target) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "leak", "strict": True, "schema": schema_of(Leak)}}
    answer = to.client.chat.completions.create(model=to.model, messages=ASKED, response_format=form)
    Leak.model_validate_json(answer.choices[0].message.content or "")


def parse(to: Target) -> None:
    answer = to.client.chat.completions.parse(model=to.model, messages=ASKED, response_format=Leak)
    assert isinstance(answer.choices[0].message.parsed, Leak), answer


def tools(to: Target) -> None:
    messages = list(WEATHER)
    asked = to.client.chat.completions.parse(model=to.model, messages=messages, tools=TOOLS)
    assert asked.choices[0].finish_reason == "tool_calls", asked
    message = asked.choices[0].message
    assert message.tool_calls, message
    call = message.tool_calls[0]
    assert call.id.startswith("call_"), call
    assert isinstance(call.function.parsed_arguments, GetWeather), call
    messages.append(message)  # type: ignore[arg-type]  # as the vendor's guide has it
    for each in message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": each.id, "content": '{"celsius": 14, "sky": "overcast"}'})
    told = to.client.chat.completions.create(model=to.model, messages=messages, tools=TOOLS)
    assert told.choices[0].finish_reason == "stop", told
    assert "14" in (told.choices[0].message.content or ""), told


def tool_choice(to: Target) -> None:
    def called(choice: Any) -> list[str]:
        answer = to.client.chat.completions.create(
            model=to.model, messages=WEATHER, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False
        )
        calls = answer.choices[0].message.tool_calls or []
        assert bool(calls) != bool(answer.choices[0].message.content), answer
        return [call.function.name for call in calls if call.type == "function"]

    assert called("none") == []
    assert len(called("required")) == 1
    assert called({"type": "function", "function": {"name": "FindOrder"}}) == ["FindOrder"]


def tool_stream(to: Target) -> None:
    chunks = to.client.chat.completions.create(model=to.model, messages=WEATHER, tools=TOOLS, stream=True)
    ident, name, arguments, reasons = "", "", "", []
    for choice in (chunk.choices[0] for chunk in chunks if chunk.choices):
        for call in choice.delta.tool_calls or ():
            if call.index == 0 and call.function is not None:
                ident += call.id or ""
                name += call.function.name or ""
                arguments += call.function.arguments or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
    assert ident.startswith("call_"), ident
    assert name == "GetWeather", name
    GetWeather.model_validate_json(arguments)
    assert reasons == ["tool_calls"], reasons

    with to.client.chat.completions.stream(model=to.model, messages=WEATHER, tools=TOOLS) as events:
        final = events.get_final_completion()
    assert final.choices[0].message.tool_calls, final
    assert isinstance(final.choices[0].message.tool_calls[0].function.parsed_arguments, GetWeather), final


def asynchronous(to: Target) -> None:
    async def both() -> None:
        async with AsyncOpenAI(base_url=to.client.base_url, api_key=to.client.api_key, max_retries=0) as client:
            whole, chunks = await asyncio.gather(
                client.chat.completions.create(model=to.model, messages=ASKED),
                client.chat.completions.create(model=to.model, messages=ASKED, stream=True),
            )
            assert whole.choices[0].message.content, whole
            pieces = [chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices]
            assert "".join(pieces), pieces

    asyncio.run(both())


def errors(to: Target) -> None:
    completions = to.client.chat.completions
    missing = refused(openai.NotFoundError, lambda: completions.create(model="gpt-0", messages=ASKED))
    assert (missing.code, missing.type) == ("model_not_found", "invalid_request_error"), missing.body
    nowhere = refused(openai.NotFoundError, lambda: to.client.models.retrieve("gpt-0"))
    assert nowhere.code == "model_not_found", nowhere.body
    unknown = refused(
        openai.BadRequestError,
        lambda: completions.create(model=to.model, messages=ASKED, extra_body={"tempature": 1}),
    )
    assert (unknown.code, unknown.param) == ("unknown_parameter", "tempature"), unknown.body
    wrong: Any = "Hello."
    mistyped = refused(openai.BadRequestError, lambda: completions.create(model=to.model, messages=wrong))
    assert (mistyped.code, mistyped.param) == ("invalid_type", "messages"), mistyped.body
    bare = {"model": to.model}
    without = refused(openai.BadRequestError, lambda: to.client.post("/chat/completions", cast_to=object, body=bare))
    assert (without.code, without.param) == ("missing_required_parameter", "messages"), without.body
    lost: Any = [*ASKED, {"role": "tool", "tool_call_id": "call_0", "content": "x"}]
    orphan = refused(openai.BadRequestError, lambda: completions.create(model=to.model, messages=lost))
    assert orphan.type == "invalid_request_error", orphan.body


def bad_key(to: Target) -> None:
    with OpenAI(base_url=to.client.base_url, api_key="sk-nobody", max_retries=0) as stranger:
        unknown = refused(
            openai.AuthenticationError, lambda: stranger.chat.completions.create(model=to.model, messages=ASKED)
        )
        assert unknown.code == "invalid_api_key", unknown.body
        listed = refused(openai.AuthenticationError, stranger.models.list)
        assert listed.code == "invalid_api_key", listed.body


def idempotency(to: Target) -> None:
    def asked(key: str, text: str) -> str:
        return to.client.chat.completions.create(
            model=to.model, messages=[{"role": "user", "content": text}], extra_headers={"Idempotency-Key": key}
        ).id

    key = uuid.uuid4().hex
    first = asked(key, FACTS)
    assert asked(key, FACTS) == first
    assert asked(uuid.uuid4().hex, FACTS) != first
    refused(openai.ConflictError, lambda: asked(key, "Something else."))


STOPS = {
    "models": models,
    "chat": chat,
    "headers": headers,
    "fleet-headers": fleet_headers,
    "stream": stream,
    "turns": turns,
    "picture": picture,
    "json-schema": json_schema,
    "parse": parse,
    "tools": tools,
    "tool-choice": tool_choice,
    "tool-stream": tool_stream,
    "async": asynchronous,
    "errors": errors,
    "bad-key": bad_key,
    "idempotency": idempotency,
}
