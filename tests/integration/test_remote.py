"""The client of the HTTP API: one suite over both of its faces, against a real API, store and simulated provider."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel

from fleet.errors import (
    BadInputError,
    JobNotFoundError,
    KeyReusedError,
    MapError,
    NotAllowedError,
    NotEndedError,
)
from fleet.jobs import JobStatus
from fleet.providers.structured import is_strict
from fleet.receipt import Receipt
from fleet.views import JobView
from tests.support.api import JOB, Api, on_api
from tests.support.bench import BREAKS
from tests.support.proxy import Proxy
from tests.support.remote import FACES, Face
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)


class Ticket(BaseModel):
    topic: Literal["billing", "bug", "other"]
    urgent: bool = False
    words: list[str]


def test_a_job_from_submit_to_receipt(valkey: Valkey, tmp_path: Path, sim: RunningSim, face: Face) -> None:
    async def scenario(api: Api) -> None:
        async with face.client(api.url, await api.key("acme")) as client:
            job = await face.do(lambda: client.submit(JOB))
            assert job.id.startswith("acme.j")
            waiting = asyncio.create_task(face.do(job.wait))
            listening = asyncio.create_task(face.all(job.events))
            assert (await api.fleet.run(job.id)).status is JobStatus.COMPLETED
            view = await waiting
            assert isinstance(view, JobView)
            assert (view.id, view.status, view.counts.done) == (job.id, "completed", 2)
            events = await listening
            assert [(one.kind, one.status) for one in events] == [
                ("accepted", None),
                ("planned", None),
                ("status", "running"),
                ("filed", None),
                ("status", "completed"),
            ]
            assert await face.all(lambda: job.events(events[1].id)) == events[2:]
            assert await face.all(lambda: job.events(events[-1].id)) == []
            outcomes = await face.all(job.results)
            assert [(one.item, one.status) for one in outcomes] == [("a", "ok"), ("b", "ok")]
            receipt = await face.receipt(job)
            assert isinstance(receipt, Receipt)
            assert (receipt.job_id, receipt.accepted) == (job.id, 2)
            assert [one.id for one in await face.all(client.jobs)] == [job.id]
            assert (await face.do(client.job(job.id).status)).status == "completed"

    on_api(scenario, valkey, tmp_path, sim)


def test_a_yaml_file_brings_its_items_along(valkey: Valkey, tmp_path: Path, sim: RunningSim, face: Face) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tickets.jsonl").write_text('{"text": "one"}\nno json\n{"text": "two"}\n')
    spec = tmp_path / "in" / "job.yaml"
    step = {"id": "topic", "each": "items", "tier": "nano", "prompt": "Topic of {{ item.text }}?"}
    spec.write_text(
        json.dumps({"name": "yaml", "items": {"path": "tickets.jsonl"}, "steps": [step], "budget_usd": 1.5})
    )

    async def scenario(api: Api) -> None:
        async with face.client(api.url) as client:
            for given in (spec, str(spec)):
                job = await face.do(functools.partial(client.submit, given))
                await api.fleet.run(job.id)
                view = await face.do(job.wait)
                assert (view.name, view.counts.done, view.budget_usd) == ("yaml", 2, 1.5)
            assert [prompt for prompt in api.fleet.provider.prompts("topic") if "two" in prompt]
            folder = {"files": {"root": str(tmp_path / "in"), "include": ["*.yaml"]}}
            job = await face.do(lambda: client.submit(JOB | {"items": folder}))
            await api.fleet.run(job.id)
            assert [one.item["path"] for one in await face.all(job.results)] == ["job.yaml"]

    on_api(scenario, valkey, tmp_path, sim)


def test_a_job_is_paused_resumed_cancelled_and_retried(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, face: Face
) -> None:
    async def scenario(api: Api) -> None:
        async with face.client(api.url) as client:
            job = await face.do(lambda: client.submit(JOB))
            assert (await face.do(job.pause)).status == "paused"
            assert (await face.do(job.wait)).status == "paused", "it stands still"
            resumed = await face.do(lambda: job.resume(budget_usd=0.5))
            assert (resumed.status, await api.fleet.money(job.id)) == ("planning", (0, 0))
            assert (await api.fleet.runtime.store.quota(job.id))[0] == 500_000_000
            with pytest.raises(NotEndedError, match="goes on"):
                await face.do(lambda: job.wait(timeout_s=0.2))
            waiting = asyncio.create_task(face.do(job.wait))
            assert (await face.do(job.cancel)).status == "cancelled"
            assert (await waiting).status == "cancelled", "who waits through pauses learns of the end"
            for act in (job.cancel, job.pause, job.resume, job.retry):
                with pytest.raises(BadInputError, match=job.id):
                    await face.do(act)

    on_api(scenario, valkey, tmp_path, sim)


def test_what_failed_is_asked_for_again(valkey: Valkey, tmp_path: Path, sim: RunningSim, face: Face) -> None:
    async def scenario(api: Api) -> None:
        async with face.client(api.url) as client:
            step = JOB["steps"][0] | {"max_tier": "nano", "output": {"type": "object", "required": ["x"]}}
            job = await face.do(lambda: client.submit(JOB | {"steps": [step]}))
            await api.fleet.run(job.id)
            assert (await face.do(job.wait)).counts.failed == 2
            assert await face.do(lambda: job.retry(budget_usd="2")) == 2
            await api.fleet.run(job.id)
            assert [one.status for one in await face.all(job.results)] == ["failed", "failed"]

    on_api(scenario, valkey, tmp_path, sim, nano=BREAKS)


def test_what_the_api_refuses_is_the_error_it_stands_for(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, face: Face
) -> None:
    async def scenario(api: Api) -> None:
        acme, other, reads = await api.key("acme"), await api.key("other"), await api.key("acme", "read")
        async with face.client(api.url, acme) as client:
            job = await face.do(lambda: client.submit(JOB, idempotency_key="once"))
            again = await face.do(lambda: client.submit(JOB, idempotency_key="once"))
            assert again.id == job.id
            with pytest.raises(KeyReusedError, match="Idempotency-Key"):
                await face.do(lambda: client.submit(JOB | {"name": "another"}, idempotency_key="once"))
            with pytest.raises(JobNotFoundError, match="j404"):
                await face.do(client.job("j404").status)
            with pytest.raises(JobNotFoundError):
                await face.all(client.job("j404").events)
            with pytest.raises(BadInputError, match=r'steps\.write\.tier is "nanno"'):
                await face.do(lambda: client.submit(JOB | {"steps": [JOB["steps"][0] | {"tier": "nanno"}]}))
            with pytest.raises(BadInputError, match=r"body\.budget_usd: .*greater than 0"):
                await face.do(lambda: client.submit(JOB | {"budget_usd": -1}))
            for after in ("x", "1-2\r\nX-Odd: 1"):
                with pytest.raises(BadInputError, match="no event"):
                    await face.all(functools.partial(job.events, after))
        async with face.client(api.url, other) as client:
            for ask in (client.job(job.id).status, client.job(job.id).cancel):
                with pytest.raises(JobNotFoundError):
                    await face.do(ask)
            assert await face.all(client.jobs) == []
        async with face.client(api.url, reads) as client:
            with pytest.raises(NotAllowedError, match="submit") as refused:
                await face.do(lambda: client.submit(JOB))
            assert refused.value.status == 403
        wrong = "flk_" + "x" * 43
        async with face.client(api.url, wrong) as client:
            with pytest.raises(NotAllowedError) as refused:
                await face.do(client.job(job.id).status)
            assert refused.value.status == 401
            assert wrong not in f"{refused.value!r} {client!r} {client.job(job.id)!r} {client.__dict__}"

    on_api(scenario, valkey, tmp_path, sim)


def test_all_jobs_are_listed_whatever_the_pages(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.remote.client.PAGE", 2)

    async def scenario(api: Api) -> None:
        async with face.client(api.url) as client:
            ids = [(await face.do(lambda: client.submit(JOB))).id for _ in range(5)]
            assert [one.id for one in await face.all(client.jobs)] == ids[::-1]

    on_api(scenario, valkey, tmp_path, sim)


@contextlib.asynccontextmanager
async def between(api: Api) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the API, and its address."""
    proxy = Proxy(urlsplit(api.url).port or 0)
    port = await proxy.start()
    try:
        yield proxy, f"http://127.0.0.1:{port}"
    finally:
        await proxy.aclose()


def test_events_go_on_where_the_connection_broke(valkey: Valkey, tmp_path: Path, sim: RunningSim, face: Face) -> None:
    async def scenario(api: Api) -> None:
        async with between(api) as (proxy, url), face.client(url) as client:
            job = await face.do(lambda: client.submit(JOB))
            seen: list[Any] = []
            cuts = 0
            async for event in face.each(job.events):
                seen.append(event)
                cuts += bool(proxy.cut())  # two events may have come at once
                if len(seen) == 1:
                    await face.do(job.pause)
                elif event.status == "paused":
                    await face.do(job.resume)
                elif event.kind == "resumed":
                    await api.fleet.run(job.id)
            assert [one.kind for one in seen] == [
                "accepted",
                "status",
                "resumed",
                "planned",
                "status",
                "filed",
                "status",
            ]
            assert seen == await face.all(job.events), "each once, in order"
            assert cuts >= 3

    on_api(scenario, valkey, tmp_path, sim)


def test_a_submit_whose_answer_was_lost_makes_one_job(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, face: Face
) -> None:
    async def scenario(api: Api) -> None:
        async with between(api) as (proxy, url), face.client(url) as client:
            stalled = asyncio.create_task(proxy.stall("down", 60))
            submitting = asyncio.create_task(face.do(lambda: client.submit(JOB)))

            async def accepted() -> list[tuple[str, float]]:
                return await api.fleet.client.latest(10)

            ((job_id, _),) = await eventually(accepted, "the job to be accepted")
            assert not submitting.done()
            assert proxy.cut() == 1
            stalled.cancel()
            assert (await submitting).id == job_id
            assert [id_ for id_, _ in await accepted()] == [job_id]

    on_api(scenario, valkey, tmp_path, sim)


async def working(api: Api) -> None:
    """Run the one job that somebody submits."""

    async def accepted() -> list[tuple[str, float]]:
        return await api.fleet.client.latest(1)

    ((job_id, _),) = await eventually(accepted, "a job")
    await api.fleet.run(job_id)


def test_map_gives_models_in_the_order_of_the_items(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, face: Face
) -> None:
    items = [{"number": number, "text": f"ticket {number}"} for number in range(12)]

    async def scenario(api: Api) -> None:
        async with face.client(api.url) as client:
            ask = lambda: client.map(items, "Topic of {{ item.text }}?", schema=Ticket, tier="nano")  # noqa: E731
            tickets, _ = await asyncio.gather(face.do(ask), working(api))
            assert [type(one) for one in tickets] == [Ticket] * len(items)
            assert all(is_strict(request.schema or {}) for request in api.fleet.provider.asked)
            (view,) = await face.all(client.jobs)
            outcomes = await face.all(client.job(view.id).results)
            assert [one.item for one in outcomes] == [{"number": number} for number in range(len(items))]
            assert [one.output for one in outcomes] == [one.model_dump() for one in tickets]
            assert await face.do(lambda: client.map([], "{{ item }}", schema=Ticket)) == []
            with pytest.raises(BadInputError, match="item"):
                await face.do(lambda: client.map(items, "Topic of this ticket?", schema=Ticket))
            assert len(await face.all(client.jobs)) == 1

    on_api(scenario, valkey, tmp_path, sim)


def test_map_says_which_items_failed_and_loses_none(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, face: Face
) -> None:
    async def scenario(api: Api) -> None:
        async with face.client(api.url) as client:
            ask = lambda: client.map(["a", "b", "c", "d"], "{{ item }}?", schema=Ticket, tier="nano")  # noqa: E731
            asking = asyncio.create_task(face.do(ask))
            await working(api)
            with pytest.raises(MapError, match="4 of 4 items") as raised:
                await asking
            failed = raised.value
            assert failed.results == [None] * 4
            assert [failure.index for failure in failed.failures] == [0, 1, 2, 3]
            assert failed.job_id in str(failed)
            assert await face.do(client.job(failed.job_id).retry) == 4

    on_api(scenario, valkey, tmp_path, sim, nano=BREAKS, mini=BREAKS, flagship=BREAKS)
