"""Batches over real HTTP: the official client's tour, files that are wrong, cancelled and late ones, two processes at once."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch
from openai.types.chat import ChatCompletion

from fleet import batches
from fleet.audit import Audit
from fleet.batches import Batches
from fleet.control import Control
from fleet.errors import StoreUnavailableError
from fleet.janitor import Janitor
from fleet.runtime import NAMESPACE
from fleet.store import PLAN_TASK
from tests.support.api import Api, on_api, on_disk, requests, stored
from tests.support.bench import BREAKS
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

ENDPOINT = "/v1/chat/completions"
SCHEMA = {"type": "object", "required": ["topic"], "properties": {"topic": {"enum": ["bug", "other"]}}}


async def _client(api: Api, tenant: str = "acme") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{api.url}/v1", api_key=await api.key(tenant), max_retries=0)


async def _created(client: AsyncOpenAI, data: bytes, **more: Any) -> Batch:
    file = await client.files.create(file=("requests.jsonl", data), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **more
    )


def _job_of(batch: Batch, tenant: str = "acme") -> str:
    return f"{tenant}.j{batch.id.removeprefix('batch_')}"


async def _lines(client: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(line) for line in (await client.files.content(file_id)).text.splitlines()]


async def _one_of(api: Api, job_id: str) -> None:
    """Plan a job and have one of its subtasks done; the others are released, and wait."""
    plan = await api.fleet.run_until(job_id, PLAN_TASK)
    await api.fleet.perform(plan, "coordinator")
    (first, tier), *_ = await api.fleet.release()
    await api.fleet.perform(first, tier)


async def _wound_up(api: Api, job_id: str) -> None:
    assert await Janitor(api.fleet.context).wind_up(job_id)


def test_the_official_client_takes_its_tour(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            batch = await _created(client, requests(3), metadata={"night": "1"})
            assert (batch.status, batch.model, batch.metadata) == ("in_progress", "nano", {"night": "1"})
            assert batch.expires_at == batch.created_at + 24 * 3600
            assert batch.request_counts is not None
            assert batch.request_counts.to_dict() == {"total": 3, "completed": 0, "failed": 0}
            assert (await client.batches.retrieve(batch.id)).status == "in_progress"
            await client.files.delete(batch.input_file_id)
            await api.fleet.run(_job_of(batch))
            done = await client.batches.retrieve(batch.id)
            assert (done.status, done.error_file_id) == ("completed", None)
            assert done.request_counts is not None
            assert done.request_counts.to_dict() == {"total": 3, "completed": 3, "failed": 0}
            answers = await _lines(client, done.output_file_id)
            assert [line["custom_id"] for line in answers] == ["r0", "r1", "r2"]
            for line in answers:
                assert (line["error"], line["response"]["status_code"]) == (None, 200)
                completion = ChatCompletion.model_validate(line["response"]["body"], strict=True)
                assert completion.choices[0].message.content
                assert completion.usage is not None
                assert completion.usage.completion_tokens > 0
            assert len({line["id"] for line in answers}) == 3
            output = await client.files.retrieve(str(done.output_file_id))
            assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
            assert (await client.batches.retrieve(batch.id)).to_dict() == done.to_dict()
            with pytest.raises(openai.BadRequestError, match="completed"):
                await client.batches.cancel(batch.id)
            others = [await _created(client, requests(1)) for _ in range(3)]
            listed = [one.id async for one in client.batches.list(limit=2)]
            assert listed == [one.id for one in reversed([batch, *others])]

    on_api(scenario, valkey, tmp_path, sim)


def test_what_failed_is_in_the_file_of_errors(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            form = {"type": "json_schema", "json_schema": {"name": "topic", "schema": SCHEMA}}
            expires: Any = {"anchor": "created_at", "seconds": 7_200}
            batch = await _created(client, requests(2, response_format=form), output_expires_after=expires)
            await api.fleet.run(_job_of(batch))
            done = await client.batches.retrieve(batch.id)
            assert (done.status, done.output_file_id) == ("completed", None)
            assert done.request_counts is not None
            assert done.request_counts.to_dict() == {"total": 2, "completed": 0, "failed": 2}
            failed = await _lines(client, done.error_file_id)
            assert [line["custom_id"] for line in failed] == ["r0", "r1"]
            assert {(line["response"], line["error"]["code"]) for line in failed} == {(None, "request_failed")}
            file = await client.files.retrieve(str(done.error_file_id))
            assert file.expires_at == file.created_at + 7_200

    on_api(scenario, valkey, tmp_path, sim, nano=BREAKS, mini=BREAKS, flagship=BREAKS)


def test_a_file_that_is_wrong_makes_a_batch_that_failed_and_no_job(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            batch = await _created(client, requests(2) + b"{\n" + requests(1, model="gpt-4"))
            assert (batch.status, batch.output_file_id) == ("failed", None)
            assert batch.failed_at is not None
            assert batch.errors is not None
            assert [(one.line, one.code) for one in batch.errors.data or []] == [
                (3, "invalid_json_line"),
                (4, "duplicate_custom_id"),
                (4, "model_not_found"),
            ]
            assert (await client.batches.retrieve(batch.id)).to_dict() == batch.to_dict()
            assert not [name for name in await stored(api) if b":job:" in name]
            assert [name.split("/")[0] for name in on_disk(tmp_path)] == ["files"]

    on_api(scenario, valkey, tmp_path, sim)


def test_a_request_that_cannot_be_asked_fails_alone(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            wrong = requests(1, messages=[]).replace(b"r0", b"wrong")
            batch = await _created(client, requests(1) + wrong)
            await api.fleet.run(_job_of(batch))
            done = await client.batches.retrieve(batch.id)
            assert done.request_counts is not None
            assert (done.status, done.request_counts.to_dict()) == (
                "completed",
                {"total": 2, "completed": 1, "failed": 1},
            )
            assert [line["custom_id"] for line in await _lines(client, done.output_file_id)] == ["r0"]
            (failed,) = await _lines(client, done.error_file_id)
            assert (failed["custom_id"], "messages" in failed["error"]["message"]) == ("wrong", True)

    on_api(scenario, valkey, tmp_path, sim)


def test_a_tenant_at_its_limit_has_no_batch_of_it(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            first = await _created(client, requests(1))
            with pytest.raises(openai.RateLimitError) as refused:
                await _created(client, requests(1))
            assert refused.value.response.headers["Retry-After"]
            assert [batch.id for batch in (await client.batches.list()).data] == [first.id]
        assert len([name for name in on_disk(tmp_path) if name.endswith("items.jsonl")]) == 1

    on_api(scenario, valkey, tmp_path, sim, tenants={"acme": {"open_jobs": 1}})


def test_what_was_done_to_files_and_batches_is_noted(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            batch = await _created(client, requests(1))
            await client.batches.cancel(batch.id)
            await client.files.delete(batch.input_file_id)
        notes = await Audit(api.fleet.runtime.link, NAMESPACE).latest("acme", 10)
        assert [(note.action, note.target.rpartition("/")[2], note.outcome) for note in reversed(notes)] == [
            ("POST /v1/files", batch.input_file_id, "200"),
            ("POST /v1/batches", batch.id, "200"),
            ("POST /v1/batches/{batch_id}/cancel", batch.id, "200"),
            ("DELETE /v1/files/{file_id}", batch.input_file_id, "200"),
        ]

    on_api(scenario, valkey, tmp_path, sim)


GOOD: dict[str, Any] = {"endpoint": ENDPOINT, "completion_window": "24h"}
REFUSED: list[tuple[str, dict[str, Any], str | None]] = [
    ("no file of theirs", {"input_file_id": "file-" + "0" * 27}, "input_file_id"),
    ("no id", {"input_file_id": "../../etc/passwd"}, "input_file_id"),
    ("no file", {"input_file_id": None}, "input_file_id"),
    ("a file for something else", {}, None),
    ("another endpoint", {"endpoint": "/v1/embeddings"}, None),
    ("another window", {"completion_window": "1h"}, "completion_window"),
    ("what nobody knows", {"speed": "fast"}, "speed"),
    ("many words about it", {"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ("a long word about it", {"metadata": {"a": "x" * 513}}, "metadata.a"),
    ("a short life", {"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
]


@pytest.mark.parametrize(("change", "param"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_a_batch_is_refused_and_leaves_nothing(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, change: dict[str, Any], param: str | None
) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        file = await api.upload(key, requests(1), "a.jsonl", "user_data" if change == {} else "batch")
        before, disk = await stored(api), on_disk(tmp_path)
        body = {"input_file_id": file} | GOOD | change
        status, refused, _ = await api.ask("POST", "/v1/batches", key, json=body)
        assert (status, refused["error"]["type"]) == (400, "invalid_request_error")
        assert refused["error"]["param"] == param
        assert (await stored(api), on_disk(tmp_path)) == (before, disk)

    on_api(scenario, valkey, tmp_path, sim)


def test_a_cancelled_batch_has_what_was_done(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            batch = await _created(client, requests(3))
            await _one_of(api, _job_of(batch))
            cancelling = await client.batches.cancel(batch.id)
            assert cancelling.status == "cancelling"
            assert cancelling.cancelling_at is not None
            assert (await client.batches.retrieve(batch.id)).status == "cancelling"
            await _wound_up(api, _job_of(batch))
            ended = await client.batches.retrieve(batch.id)
            assert ended.status == "cancelled"
            assert ended.cancelled_at is not None
            assert ended.request_counts is not None
            assert ended.request_counts.to_dict() == {"total": 3, "completed": 1, "failed": 2}
            done, undone = [await _lines(client, id_) for id_ in (ended.output_file_id, ended.error_file_id)]
            assert {line["error"]["code"] for line in undone} == {"batch_cancelled"}
            assert sorted(line["custom_id"] for line in done + undone) == ["r0", "r1", "r2"]

    on_api(scenario, valkey, tmp_path, sim)


def test_a_batch_that_is_cancelled_before_it_began(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            batch = await _created(client, requests(2))
            await client.batches.cancel(batch.id)
            await _wound_up(api, _job_of(batch))
            ended = await client.batches.retrieve(batch.id)
            assert (ended.status, ended.output_file_id) == ("cancelled", None)
            assert [line["custom_id"] for line in await _lines(client, ended.error_file_id)] == ["r0", "r1"]

    on_api(scenario, valkey, tmp_path, sim)


def test_a_batch_whose_time_is_over_ends_with_what_was_done(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            batch = await _created(client, requests(3))
            await _one_of(api, _job_of(batch))
            now = time.time()
            monkeypatch.setattr(time, "time", lambda: now + 24 * 3600)
            late = await client.batches.retrieve(batch.id)
            assert late.status == "finalizing"
            await _wound_up(api, _job_of(batch))
            ended = await client.batches.retrieve(batch.id)
            assert ended.status == "expired"
            assert ended.expired_at is not None
            done, undone = [await _lines(client, id_) for id_ in (ended.output_file_id, ended.error_file_id)]
            assert (len(done), {line["error"]["code"] for line in undone}) == (1, {"batch_expired"})

    on_api(scenario, valkey, tmp_path, sim)


def test_a_batch_that_was_done_in_time_is_completed_however_late_one_looks(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            batch = await _created(client, requests(1))
            await api.fleet.run(_job_of(batch))
            now = time.time()
            monkeypatch.setattr(time, "time", lambda: now + 24 * 3600)
            assert (await client.batches.retrieve(batch.id)).status == "completed"

    on_api(scenario, valkey, tmp_path, sim)


def test_processes_that_look_at_once_write_one_set_of_files(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            batch = await _created(client, requests(20))
            await api.fleet.run(_job_of(batch))
            fleet = api.fleet
            processes = [Batches(fleet.client, Control(fleet.runtime)) for _ in range(5)]
            seen = await asyncio.gather(*(one.look("acme", batch.id) for one in processes for _ in range(3)))
            assert {one.status for one in seen} == {"completed", "finalizing"}, "one look of a process writes"
            ended = {one.model_dump_json() for one in seen if one.status == "completed"}
            assert len(ended) == 1
            outputs = [file.id async for file in client.files.list(purpose="batch_output")]
            assert outputs == [json.loads(ended.pop())["output_file_id"]]
            assert len(await _lines(client, outputs[0])) == 20
            assert len([name for name in on_disk(tmp_path) if name.startswith("files/")]) == 2, (
                "what was asked and answered"
            )

    on_api(scenario, valkey, tmp_path, sim)


def test_the_same_key_gives_the_same_batch(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:
            file = await client.files.create(file=("a.jsonl", requests(1)), purpose="batch")
            once = {"Idempotency-Key": "night"}
            made = [
                await client.batches.create(
                    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", extra_headers=once
                )
                for _ in range(2)
            ]
            assert made[0].id == made[1].id
            assert [one.id async for one in client.batches.list()] == [made[0].id]

    on_api(scenario, valkey, tmp_path, sim)


def test_a_batch_that_is_cut_off_as_it_is_made_is_found_and_fails(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(api: Api) -> None:
        async with await _client(api) as client:

            async def away(*_: Any, **__: Any) -> str:
                raise StoreUnavailableError("The store went away.")

            with monkeypatch.context() as broken:
                broken.setattr(type(api.fleet.client), "submit", away)
                with pytest.raises(openai.InternalServerError) as failed:
                    await _created(client, requests(1))
                assert failed.value.response.headers["Retry-After"]
            (batch,) = (await client.batches.list()).data
            assert batch.status == "validating"
            monkeypatch.setattr(batches, "INTERRUPTED_S", 0)
            ended = await client.batches.retrieve(batch.id)
            assert ended.errors is not None
            assert (ended.status, [one.code for one in ended.errors.data or []]) == ("failed", ["interrupted"])

    on_api(scenario, valkey, tmp_path, sim)
