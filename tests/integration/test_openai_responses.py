"""OpenAI's responses over real HTTP, by the official client: waited for, streamed, in the background, one after another."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.integration.test_openai_chat import client
from tests.support.api import Api, on_api
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually


def test_a_response_can_be_looked_at_again_by_its_tenant(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            asked: dict[str, Any] = {"model": "mini", "instructions": "Be brief.", "metadata": {"ticket": "7"}}
            made = await ai.responses.create(input="Write about fleets.", **asked)
            assert (made.status, made.instructions, made.metadata) == ("completed", "Be brief.", {"ticket": "7"})
            assert made.output_text
            assert made.usage is not None
            assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens > 0
            again = await ai.responses.retrieve(made.id)
            assert again.model_dump() == made.model_dump()
            unstored = await ai.responses.create(input="Write.", store=False, **asked)
            for id_ in (unstored.id, "resp_acme.j1", "resp_j1", "resp_", "msg_1"):
                with pytest.raises(openai.NotFoundError):
                    await ai.responses.retrieve(id_)
        async with client(api, await api.key("other", "admin")) as other:
            for ask in (other.responses.retrieve, other.responses.cancel):
                with pytest.raises(openai.NotFoundError):
                    await ask(made.id)

    on_api(scenario, valkey, tmp_path, sim, working=True)


def test_a_stream_has_the_vendors_events(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            stream = await ai.responses.create(model="nano", input="Write about ships.", stream=True)
            events = [event async for event in stream]
            assert [event.type for event in events[:4]] == [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added",
            ]
            assert [event.sequence_number for event in events] == list(range(len(events)))
            assert events[-1].type == "response.completed"
            said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
            assert said == events[-1].response.output_text != ""

    on_api(scenario, valkey, tmp_path, sim, working=True)


def test_in_the_background_it_is_there_at_once_and_can_be_cancelled(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            first = await ai.responses.create(model="nano", input="Write about ships.", background=True)
            second = await ai.responses.create(model="nano", input="Write about boats.", background=True)
            assert (first.status, first.output) == ("in_progress", [])
            cancelled = await ai.responses.cancel(second.id)
            assert cancelled.status == "cancelled"
            work = asyncio.create_task(api.fleet.work())

            async def ended() -> bool:
                return (await ai.responses.retrieve(first.id)).status != "in_progress"

            await eventually(ended, "the response")
            found = await ai.responses.retrieve(first.id)
            assert (found.status, found.output_text != "") == ("completed", True)
            assert (await ai.responses.cancel(first.id)).status == "completed", "it has ended, and stays as it is"
            assert (await ai.responses.retrieve(second.id)).status == "cancelled"
            waited_for = await ai.responses.create(model="nano", input="Write.")
            with pytest.raises(openai.BadRequestError):
                await ai.responses.cancel(waited_for.id)
            work.cancel()

    on_api(scenario, valkey, tmp_path, sim)


def test_one_response_follows_another(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            first = await ai.responses.create(model="nano", instructions="Be brief.", input="Write about ships.")
            second = await ai.responses.create(model="nano", input="And boats?", previous_response_id=first.id)
            assert second.previous_response_id == first.id
            messages = api.fleet.provider.asked[-1].conversation
            assert messages is not None
            assert [(one["role"], one["content"]) for one in messages.kept()["messages"]] == [
                ("user", "Write about ships."),
                ("assistant", first.output_text),
                ("user", "And boats?"),
            ]
        async with client(api, await api.key("other")) as other:
            with pytest.raises(openai.BadRequestError) as refused:
                await other.responses.create(model="nano", input="x", previous_response_id=first.id)
            assert refused.value.code == "previous_response_not_found"

    on_api(scenario, valkey, tmp_path, sim, working=True)


class Topic(BaseModel):
    topic: str


def test_structured_answers_are_parsed(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            parsed = await ai.responses.parse(model="mini", input="Topic?", text_format=Topic)
            assert isinstance(parsed.output_parsed, Topic)
            given: Any = {"format": {"type": "json_object"}}
            free = await ai.responses.create(model="mini", input="Topic, as JSON?", text=given)
            assert isinstance(json.loads(free.output_text), dict)

    on_api(scenario, valkey, tmp_path, sim, working=True)


REFUSED: list[tuple[str, dict[str, Any], str | None]] = [
    ("an unknown parameter", {"extra_body": {"inputs": "x"}}, "inputs"),
    ("a conversation of the vendor's", {"conversation": "conv_1"}, "conversation"),
    ("no input", {"input": []}, "input"),
    (
        "a file",
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
        "input[0].content[0]",
    ),
    ("an item of the vendor's", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
    ("a tool of the vendor's", {"tools": [{"type": "web_search"}]}, "tools[0]"),
    ("what is in the background and not kept", {"background": True, "store": False}, "store"),
    ("what is in the background and streamed", {"background": True, "stream": True}, "stream"),
    ("an answer too short", {"max_output_tokens": 1}, "max_output_tokens"),
]


def test_what_cannot_be_asked_is_refused(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            for what, asked, param in REFUSED:
                with pytest.raises(openai.BadRequestError) as refused:
                    await ai.responses.create(**({"model": "nano", "input": "x"} | asked))
                assert (refused.value.param or "").startswith(param or ""), (what, refused.value.param)

    on_api(scenario, valkey, tmp_path, sim)
