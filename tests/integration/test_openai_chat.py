"""OpenAI's chat completions over real HTTP, by the official client: each call a subtask, whatever becomes of workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from fleet.runtime import NAMESPACE
from tests.support.api import Api, on_api
from tests.support.bench import BREAKS
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

SAY: list[Any] = [{"role": "user", "content": "Write about lighthouses."}]
TOPIC: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["topic"],
    "properties": {"topic": {"type": "string", "enum": ["billing", "bug"]}},
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "topic", "strict": True, "schema": TOPIC}}


@asynccontextmanager
async def client(api: Api, key: str | None = None) -> AsyncIterator[AsyncOpenAI]:
    """The official client; it tries once only."""
    async with AsyncOpenAI(
        api_key=key or await api.key("acme"), base_url=f"{api.url}/v1", max_retries=0, timeout=60
    ) as made:
        yield made


def test_an_answer_comes_with_what_it_took(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            raw = await ai.chat.completions.with_raw_response.create(model="nano", messages=SAY, max_tokens=50)
            answer = raw.parse()
            job_id = raw.headers["x-fleet-job"]
            assert answer.id == f"chatcmpl-{job_id}"
            assert job_id.startswith("acme.j")
            assert (answer.object, answer.choices[0].finish_reason) == ("chat.completion", "stop")
            assert answer.choices[0].message.content
            assert answer.usage is not None
            assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
            assert raw.headers["x-fleet-tier"] == "nano"
            assert raw.headers["x-request-id"].startswith("req_")
            key = await api.key("acme")
            _, job, _ = await api.ask("GET", f"/v1/jobs/{job_id}", key)
            assert (job["status"], job["counts"]["done"]) == ("completed", 1)
            assert job["cost_usd"] == pytest.approx(float(raw.headers["x-fleet-cost-usd"])) != 0
            _, lines, _ = await api.ask("GET", f"/v1/jobs/{job_id}/results", key)
            assert json.loads(lines)["output"]["message"]["content"] == answer.choices[0].message.content
            _, page, _ = await api.ask("GET", "/v1/jobs", key)
            assert page["jobs"] == [], "what was asked for and answered is in no list of jobs"
            charge = [one for one in sim.charges() if one["call_id"].startswith(f"{job_id}/")]
            assert [one["cost_nano_usd"] for one in charge] == [round(job["cost_usd"] * 1e9)]

    on_api(scenario, valkey, tmp_path, sim, working=True)


def test_what_is_kept_of_an_answer_goes_by_itself(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            await ai.chat.completions.create(model="nano", messages=SAY)
        execute = api.fleet.runtime.link.execute
        names = [name for name in await execute("KEYS", "*") if b".j" in name]
        lasting = {name for name in names if await execute("TTL", name) == -1}
        assert len(names) > 5
        assert not lasting
        assert not list((tmp_path / "blobs").rglob("*"))

    on_api(scenario, valkey, tmp_path, sim, working=True)


def test_a_stream_is_the_answer_in_pieces(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            stream = await ai.chat.completions.create(
                model="mini", messages=SAY, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert len(chunks) >= 4
            job_id = chunks[0].id.removeprefix("chatcmpl-")
            outcome = await api.fleet.runtime.store.results([f"{job_id}/reply"])
            assert outcome[0] is not None
            assert json.loads(outcome[0].output or "")["output"]["message"]["content"] == text
            assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.total_tokens > 0
            assert chunks[-1].choices == []

    on_api(scenario, valkey, tmp_path, sim, working=True)


def test_a_structured_answer_fits_its_schema_or_a_higher_tier_gives_one(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            asked: dict[str, Any] = {"messages": SAY, "response_format": FORM, "metadata": {"kind": "classify"}}
            raw = await ai.chat.completions.with_raw_response.create(model="auto", **asked)
            content = raw.parse().choices[0].message.content
            assert json.loads(content or "")["topic"] in ("billing", "bug")
            assert (raw.headers["x-fleet-tier"], raw.headers["x-fleet-attempts"]) == ("mini", "2")
            with pytest.raises(openai.InternalServerError) as refused:
                await ai.chat.completions.create(model="nano", **asked)
            assert refused.value.status_code == 502
            assert refused.value.code == "no_answer", "a tier that was named answers itself, or nobody does"

    on_api(scenario, valkey, tmp_path, sim, working=True, nano=BREAKS)


REFUSED: list[tuple[str, dict[str, Any], int, str | None, str | None]] = [
    ("an unknown model", {"model": "gpt-9"}, 404, "model", "model_not_found"),
    ("an unknown parameter", {"extra_body": {"messags": []}}, 400, "messags", "unknown_parameter"),
    ("one that a fleet has not", {"logit_bias": {"1": 2}}, 400, "logit_bias", "unsupported_parameter"),
    ("more answers than one", {"n": 2}, 400, "n", "invalid_value"),
    ("no message", {"messages": []}, 400, "messages", "invalid_value"),
    ("a number out of range", {"temperature": 3}, 400, "temperature", "invalid_value"),
    ("a message of nobody", {"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0]", "invalid_value"),
    ("a message without content", {"messages": [{"role": "user"}]}, 400, "messages[0].content", None),
    (
        "an address to fetch",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}],
                }
            ]
        },
        400,
        "messages[0].content[0].image_url.url",
        "invalid_image_url",
    ),
    (
        "a schema that is none",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "odd"}}}},
        400,
        "response_format.json_schema.schema",
        "invalid_value",
    ),
    (
        "an answer to no call",
        {"messages": [{"role": "tool", "tool_call_id": "call_1", "content": "x"}]},
        400,
        None,
        "invalid_value",
    ),
]


def test_what_cannot_be_asked_is_refused_in_the_vendors_words(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            before = await _names(api)
            for what, asked, status, param, code in REFUSED:
                with pytest.raises(openai.APIStatusError) as refused:
                    await ai.chat.completions.create(**({"model": "nano", "messages": SAY} | asked))
                error = refused.value
                assert (error.status_code, error.param) == (status, param), what
                assert error.type == "invalid_request_error", what
                assert code in (None, error.code), what
            assert await _names(api) == before
        async with client(api, "flk_nobody") as ai:
            with pytest.raises(openai.AuthenticationError) as refused:
                await ai.chat.completions.create(model="nano", messages=SAY)
            assert refused.value.code == "invalid_api_key"
        async with client(api, await api.key("acme", "read")) as ai:
            with pytest.raises(openai.PermissionDeniedError):
                await ai.chat.completions.create(model="nano", messages=SAY)
            assert [model.id async for model in ai.models.list()][:4] == ["nano", "mini", "flagship", "auto"]
            assert (await ai.models.retrieve("auto")).id == "auto"
            with pytest.raises(openai.NotFoundError):
                await ai.models.retrieve("gpt-9")

    on_api(scenario, valkey, tmp_path, sim)


def test_who_leaves_pays_for_nothing(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    before = len(sim.charges())

    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            asking = asyncio.create_task(ai.chat.completions.create(model="nano", messages=SAY))
            await eventually(lambda: _answers(api, b":job:acme.j"), "the job")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        (name,) = [name for name in await _names(api) if b":job:acme.j" in name]

        async def cancelled() -> bool:
            return bool(await api.fleet.runtime.link.execute("HGET", name, "status") == b"cancelled")

        await eventually(cancelled, "the job to be cancelled")
        assert len(sim.charges()) == before

    on_api(scenario, valkey, tmp_path, sim)


def test_the_same_idempotency_key_is_one_answer(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    before = len(sim.charges())

    async def scenario(api: Api) -> None:
        async with client(api) as ai:

            async def ask(text: str = "x") -> str:
                messages: list[Any] = [{"role": "user", "content": text}]
                headers = {"Idempotency-Key": "once"}
                answer = await ai.chat.completions.create(model="nano", messages=messages, extra_headers=headers)
                return answer.id

            ids = await asyncio.gather(*(ask() for _ in range(8)))
            assert len({*ids, await ask()}) == 1
            assert len(sim.charges()) == before + 1
            with pytest.raises(openai.ConflictError):
                await ask("another")

    on_api(scenario, valkey, tmp_path, sim, working=True)


def test_a_cap_on_an_answer_holds(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    before = len(sim.charges())

    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            for cap, status in (("0.000000001", 429), ("nonsense", 400), ("-1", 400), ("NaN", 400)):
                with pytest.raises(openai.APIStatusError) as refused:
                    await ai.chat.completions.create(
                        model="nano", messages=SAY, extra_headers={"x-fleet-budget-usd": cap}
                    )
                assert refused.value.status_code == status, cap
            assert len(sim.charges()) == before
            await ai.chat.completions.create(model="nano", messages=SAY, extra_headers={"x-fleet-budget-usd": "1"})

    on_api(scenario, valkey, tmp_path, sim, working=True)


def test_news_that_is_lost_is_looked_for(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async def lose() -> None:
            while True:
                for name in await _names(api):
                    if b":told:" in name:
                        await api.fleet.runtime.link.execute("DEL", name)
                await asyncio.sleep(0)

        losing = asyncio.create_task(lose())
        async with client(api) as ai:
            answers = await asyncio.gather(*(ai.chat.completions.create(model="nano", messages=SAY) for _ in range(5)))
            assert all(answer.choices[0].message.content for answer in answers)
        losing.cancel()

    on_api(scenario, valkey, tmp_path, sim, working=True)


async def _names(api: Api) -> set[bytes]:
    return {
        name
        for name in await api.fleet.runtime.link.execute("KEYS", f"{NAMESPACE}:*")
        if not name.startswith((b"fleet:w:", b"fleet:beat", b"fleet:key", b"fleet:wake", b"fleet:audit"))
    }


async def _answers(api: Api, part: bytes) -> bool:
    return any(part in name for name in await _names(api))
