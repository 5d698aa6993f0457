"""The client against servers that refuse, break and babble: what is tried again, how often, and what is told in the end."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from fleet.errors import (
    ApiError,
    ApiUnreachableError,
    BadInputError,
    NotEndedError,
    StoreUnavailableError,
    TenantLimitError,
)
from tests.support.api import JOB
from tests.support.remote import FACES, Face, Reply, problem, scripted_api
from tests.support.valkey import free_port

ACCEPTED = Reply(202, b'{"id": "j1", "status": "planning"}')
EVENTS, LINES = "text/event-stream", "application/jsonl"


def view(status: str = "completed") -> Reply:
    counts = dict.fromkeys(("total", "waiting", "running", "done", "failed"), 0)
    job = {"id": "j1", "name": "x", "status": status, "simulated": True, "counts": counts, "cost_usd": 0.0}
    job |= dict.fromkeys(("budget_usd", "error", "result", "finished_at")) | {
        "created_at": 0.0,
        "of a later version": 1,
    }
    return Reply(200, json.dumps(job).encode())


def outcomes(*steps: str, cut: bool = False) -> Reply:
    # A line break to some, and none in JSON lines.
    body = "".join(
        json.dumps({"step": step, "status": "ok", "output": "\u2028"}, ensure_ascii=False) + "\n" for step in steps
    )
    return Reply(200, body.encode()[: -5 if cut else None], LINES, cut=cut)


def event(id_: str, kind: str, **data: str) -> bytes:
    return f"id: {id_}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Face:
    monkeypatch.setattr("fleet.remote.wire.PAUSES_S", (0.001,) * 5)
    return Face(request.param)


def against(face: Face, replies: Sequence[Reply], ask: Any, *, asked: int) -> Any:
    """What `ask(client, job)` comes to: its result, or the error; after exactly so many requests."""

    async def scenario() -> Any:
        async with scripted_api(replies) as api, face.client(api.url, "flk_secret") as client:
            try:
                found: Any = await ask(client, client.job("j1"))
            except Exception as error:
                found = error
            assert len(api.asked) == asked, api.asked
            assert "flk_secret" not in repr(found)
            return found, api.asked

    return asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_submit_is_tried_again_under_the_same_key(face: Face) -> None:
    away = problem(503, "The store does not answer; try again.", "Retry-After: 0")
    bad_gateway = Reply(502, b"<html>", "text/html")
    replies = [away, bad_gateway, Reply(cut=True), problem(429, "Later."), problem(408, "Too slow."), ACCEPTED]
    job, asked = against(face, replies, lambda client, _: face.do(lambda: client.submit(JOB)), asked=6)
    assert job.id == "j1"
    assert len({key for _, key, _ in asked}) == 1
    assert asked[0][1]
    job, asked = against(face, [away] * 6, lambda client, _: face.do(lambda: client.submit(JOB)), asked=6)
    assert (type(job), str(job)) == (StoreUnavailableError, "The store does not answer; try again.")


def test_what_would_be_done_twice_is_not_tried_again(face: Face) -> None:
    for reply, error in (
        (problem(503, "Away."), StoreUnavailableError),
        (problem(500, "A defect."), ApiError),
        (Reply(cut=True), ApiUnreachableError),
    ):
        found, _ = against(face, [reply], lambda _, job: face.do(job.cancel), asked=1)
        assert type(found) is error
    found, _ = against(face, [problem(429, "Later."), view("cancelled")], lambda _, job: face.do(job.cancel), asked=2)
    assert found.status == "cancelled"


def test_who_asks_for_more_patience_than_there_is_gets_no_second_request(face: Face) -> None:
    tomorrow = email.utils.formatdate(time.time() + 86_400, usegmt=True)
    for told in ("86400", tomorrow):
        reply = problem(429, "Tomorrow.", f"Retry-After: {told}")
        found, _ = against(face, [reply], lambda _, job: face.do(job.status), asked=1)
        assert (type(found), str(found)) == (TenantLimitError, "Tomorrow.")
        assert 86_000 < found.retry_after_s <= 86_400
    for told in ("soon", email.utils.formatdate(0, usegmt=True)):
        replies = [problem(503, "Away.", f"Retry-After: {told}"), view()]
        assert against(face, replies, lambda _, job: face.do(job.status), asked=2)[0].status == "completed"


def test_where_no_fleet_is_that_is_said(face: Face) -> None:
    page = Reply(200, b"<html>Welcome</html>", "text/html")
    for ask in (lambda job: face.do(job.status), lambda job: face.all(job.events), lambda job: face.do(job.cancel)):
        found, _ = against(face, [page], lambda _, job, ask=ask: ask(job), asked=1)
        assert type(found) is ApiError
        assert "FLEET_API_URL" in str(found)
    moved, _ = against(
        face, [Reply(301, headers=("Location: http://127.0.0.1:9/",))], lambda _, job: face.do(job.status), asked=1
    )
    assert (type(moved), moved.status) == (ApiError, 301), "the key goes nowhere else"

    async def nobody() -> None:
        async with face.client(f"http://127.0.0.1:{free_port()}") as client:
            await face.do(client.job("j1").cancel)

    with pytest.raises(ApiUnreachableError, match=r"127\.0\.0\.1"):
        asyncio.run(nobody())


def test_results_that_break_off_go_on_where_they_did(face: Face) -> None:
    replies = [view(), outcomes("a", "b", cut=True), Reply(200, b"", LINES, cut=True), outcomes("a", "b", "c")]
    found, _ = against(face, replies, lambda _, job: face.all(job.results), asked=4)
    assert [one.step for one in found] == ["a", "b", "c"]
    found, _ = against(
        face, [view(), *[Reply(200, b"", LINES, cut=True)] * 6], lambda _, job: face.all(job.results), asked=7
    )
    assert type(found) is ApiUnreachableError
    moving = [view("running"), outcomes("a", "b", cut=True)]
    found, _ = against(face, moving, lambda _, job: face.all(job.results), asked=2)
    assert type(found) is ApiUnreachableError, "of a job that goes on, they may come in another order"


def test_events_end_with_the_job_and_not_with_the_stream(face: Face) -> None:
    first = event("1-0", "accepted") + event("2-0", "status", status="running")
    replies = [
        Reply(200, first, EVENTS),  # whole, but the job goes on
        Reply(200, b": so far\n\n" + event("3-0", "status", status="paused")[:-9], EVENTS, cut=True),
        Reply(200, event("3-0", "status", status="paused").replace(b"\n", b"\r\n"), EVENTS),
        Reply(204),
    ]
    found, asked = against(face, replies, lambda _, job: face.all(job.events), asked=4)
    assert [one.id for one in found] == ["1-0", "2-0", "3-0"]
    assert [last for _, _, last in asked] == ["", "2-0", "2-0", "3-0"]
    ended = Reply(200, first + event("4-0", "status", status="failed") + event("5-0", "filed"), EVENTS)
    found, _ = against(face, [ended], lambda _, job: face.all(job.events), asked=1)
    assert [one.id for one in found] == ["1-0", "2-0", "4-0", "5-0"]
    found, _ = against(face, [Reply(200, b"", EVENTS)] * 6, lambda _, job: face.all(job.events), asked=6)
    assert type(found) is ApiUnreachableError


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", b""])
def test_waiting_has_an_end_although_the_server_is_silent(face: Face, begun: bytes) -> None:
    async def scenario() -> None:
        hung_up = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/events" in head:
                writer.write(begun)
                await reader.read()
                hung_up.set()
            else:
                writer.write(view("running").written())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with face.client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
            with pytest.raises(NotEndedError):
                await face.do(lambda: client.job("j1").wait(timeout_s=0.3))
            with pytest.raises(TimeoutError):
                await face.do(lambda: client.job("j1").wait(timeout_s=0))
            await asyncio.wait_for(hung_up.wait(), 30)
        server.close()

    asyncio.run(scenario())


def test_a_key_that_no_header_can_have_is_refused_before_it_is_sent(face: Face) -> None:
    submit = lambda client, _: face.do(lambda: client.submit(JOB, idempotency_key="a\r\nb"))  # noqa: E731
    found, _ = against(face, [], submit, asked=0)
    assert type(found) is BadInputError
    assert "printable" in str(found)


def test_what_is_on_this_machine_is_asked_without_a_proxy(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert against(face, [view()], lambda _, job: face.do(job.status), asked=1)[0].status == "completed"
