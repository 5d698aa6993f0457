"""What every provider with batches keeps, over each wire, against the simulated provider as a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from fleet.config import ProviderConfig
from fleet.conversation import Conversation
from fleet.errors import ProviderError
from fleet.providers.base import BatchProvider, BatchStanding, Completion, ModelRequest
from fleet.providers.openai import OpenAIProvider
from tests.support.bench import GOOD
from tests.support.lanes import PLAIN, LanesSim
from tests.support.valkey import free_port
from tests.support.worker import eventually

PROMPT = "Summarise: The pump in hall 3 leaks. It was repaired in May."


@pytest.fixture(params=["responses", "chat"])
def wire(request: pytest.FixtureRequest) -> Any:
    return request.param


def on(url: str, wire: Any, scenario: Callable[[BatchProvider], Awaitable[None]]) -> None:
    async def run() -> None:
        provider = OpenAIProvider(ProviderConfig(wire=wire), url, "sk-key", name="Vendor")
        try:
            await scenario(provider.batches)
        finally:
            await provider.aclose()

    asyncio.run(run())


def asked(call_id: str, **fields: Any) -> ModelRequest:
    given: dict[str, Any] = {"call_id": call_id, "model": GOOD, "prompt": PROMPT, "max_output_tokens": 300}
    return ModelRequest(**given | fields)


async def begun(batches: BatchProvider, mark: str, *requests: ModelRequest) -> tuple[BatchStanding, str]:
    lines = [batches.line(request) for request in requests]
    (route,) = {route for route, _ in lines}
    file = await batches.upload(b"\n".join(line for _, line in lines))
    return await batches.begin(file, route, mark), route


async def ended(batches: BatchProvider, handle: str) -> BatchStanding:
    async def look() -> BatchStanding | None:
        standing = await batches.look(handle)
        return standing if standing.ended else None

    found = await eventually(look, "the batch to end")
    assert found is not None
    return found


def test_lines_are_answered_as_calls_are(vendor: LanesSim, wire: Any) -> None:
    async def scenario(batches: BatchProvider) -> None:
        mark = f"mark-{wire}"
        bad = asked(f"{wire}-bad", max_output_tokens=-1)
        standing, route = await begun(batches, mark, asked(f"{wire}-1"), asked(f"{wire}-2"), bad)
        assert not standing.ended
        standing = await ended(batches, standing.handle)
        answers = await batches.answers(standing, route)
        assert answers.keys() == {f"{wire}-1", f"{wire}-2", f"{wire}-bad"}
        for number in (1, 2):
            answer = answers[f"{wire}-{number}"]
            assert isinstance(answer, Completion)
            assert "pump" in answer.text
            charge = vendor.sim.charge_of(f"{wire}-{number}")
            assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.finish) == (
                charge["input_tokens"],
                charge["output_tokens"],
                "stop",
            )
            assert answer.request_id == charge["request_id"]
        refused = answers[f"{wire}-bad"]
        assert isinstance(refused, ProviderError)
        assert (refused.kind, refused.maybe_billed) == ("bad_request", False)
        assert len(standing.files) == 3
        await batches.forget(standing)
        await batches.forget(standing)  # what is not there any more is no error
        with pytest.raises(ProviderError) as gone:
            await batches.answers(standing, route)
        assert gone.value.kind == "not_found"

    on(vendor.sim.url, wire, scenario)


def test_a_conversation_is_a_line_of_the_chat_wire(vendor: LanesSim) -> None:
    async def scenario(batches: BatchProvider) -> None:
        said = Conversation.of({"messages": [{"role": "user", "content": PROMPT}]})
        standing, route = await begun(batches, "talk", asked("talk", conversation=said, prompt=""))
        assert route == "/v1/chat/completions"
        answer = (await batches.answers(await ended(batches, standing.handle), route))["talk"]
        assert isinstance(answer, Completion)
        assert "pump" in answer.text

    on(vendor.sim.url, "responses", scenario)


def test_a_batch_is_found_by_its_mark_the_oldest_first(vendor: LanesSim, wire: Any) -> None:
    async def scenario(batches: BatchProvider) -> None:
        since, mark = time.time() - 60, f"find-{wire}"
        assert await batches.find(mark, since) is None
        first, _ = await begun(batches, mark, asked(f"{mark}-1"))
        await begun(batches, f"{mark}.2", asked(f"{mark}-2"))
        again, _ = await begun(batches, mark, asked(f"{mark}-3"))
        assert again.handle != first.handle
        found = await batches.find(mark, since)
        assert found is not None
        assert found.handle == first.handle
        assert await batches.find(mark, time.time() + 60) is None

    on(vendor.sim.url, wire, scenario)


def test_a_batch_that_is_cancelled_ends(vendor: LanesSim, wire: Any) -> None:
    async def scenario(batches: BatchProvider) -> None:
        requests = [asked(f"cut-{wire}-{number}") for number in range(300)]
        standing, route = await begun(batches, f"cut-{wire}", *requests)
        await batches.cancel(standing.handle)
        standing = await ended(batches, standing.handle)
        answers = await batches.answers(standing, route)
        run = {call_id for call_id, answer in answers.items() if isinstance(answer, Completion)}
        assert len(run) < 300
        assert standing.cancelled
        assert run == {c["call_id"] for c in vendor.sim.charges() if str(c["call_id"]).startswith(f"cut-{wire}-")}
        assert all(
            (answer.kind, answer.maybe_billed) == ("cancelled", False)
            for answer in answers.values()
            if isinstance(answer, ProviderError)
        )

    on(vendor.sim.url, wire, scenario)


def test_a_batch_that_is_no_good_ends_without_answers(vendor: LanesSim, wire: Any) -> None:
    async def scenario(batches: BatchProvider) -> None:
        standing, route = await begun(batches, "plain", asked("plain", model=PLAIN))
        standing = await ended(batches, standing.handle)
        assert await batches.answers(standing, route) == {}
        assert not standing.cancelled

    on(vendor.sim.url, wire, scenario)


def test_what_is_refused_or_not_known_says_so(vendor: LanesSim, wire: Any) -> None:
    async def scenario(batches: BatchProvider) -> None:
        for asking in (
            batches.look("batch_0"),
            batches.cancel("batch_0"),
            batches.begin("file-0", "/v1/responses", "m"),
        ):
            with pytest.raises(ProviderError) as refused:
                await asking
            assert (refused.value.kind, refused.value.retryable) == ("not_found", False)
        with vendor.faults(error_5xx=1), pytest.raises(ProviderError) as broken:
            await batches.look("batch_0")
        assert broken.value.retryable
        with vendor.faults(reset=1), pytest.raises(ProviderError) as cut:
            await batches.upload(b"{}\n")
        assert (cut.value.kind, cut.value.retryable) == ("connection", True)

    on(vendor.sim.url, wire, scenario)


@pytest.mark.parametrize(
    "files",
    [
        b'{"custom_id": "a", "response": {"status_co',  # cut in a line
        b"[]\n",
        b"",  # two are said to be in it
    ],
)
def test_a_file_of_answers_that_is_cut_short_is_no_news_of_what_was_not_run(files: bytes) -> None:
    """What is missing in it would be taken for not billed."""

    async def run() -> None:
        async def look(_: web.Request) -> web.Response:
            counts = {"total": 2, "completed": 2, "failed": 0}
            said = {"id": "batch_1", "status": "completed", "output_file_id": "file-1", "request_counts": counts}
            return web.json_response(said)

        async def content(_: web.Request) -> web.Response:
            return web.Response(body=files)

        app = web.Application()
        app.router.add_get("/v1/batches/batch_1", look)
        app.router.add_get("/v1/files/file-1/content", content)
        runner = web.AppRunner(app)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        provider = OpenAIProvider(ProviderConfig(wire="chat"), f"http://127.0.0.1:{port}/v1", "sk-key")
        try:
            standing = await provider.batches.look("batch_1")
            with pytest.raises(ProviderError) as caught:
                await provider.batches.answers(standing, "/v1/chat/completions")
            assert caught.value.kind == "malformed"
        finally:
            await provider.aclose()
            await runner.cleanup()

    asyncio.run(run())
