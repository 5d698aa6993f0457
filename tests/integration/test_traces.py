"""What is recorded of a job: its calls by the conventions, its checks, what was handed on; with content only where asked for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet import traces
from fleet.otlp import Exporter
from fleet.traces import Span, flat, root_of
from tests.support.api import JOB, Api, on_api
from tests.support.bench import BREAKS, GOOD, Bench, config, on_bench
from tests.support.collector import check_tree, collecting
from tests.support.scripted import Reply, scripted
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

CONTENT = "what-the-customer-wrote"
SCHEMA = {"type": "object", "required": ["topic"], "properties": {"topic": {"enum": ["bug", "other"]}}}
STEP: dict[str, Any] = {"id": "topic", "each": "items", "tier": "nano", "prompt": "Topic? {{ item }}", "output": SCHEMA}
STEP |= {"instructions": f"{CONTENT} in the instructions"}


@contextlib.contextmanager
def recorded(*, content: bool = False) -> Iterator[list[Span]]:
    """All spans that are recorded meanwhile."""
    found: list[Span] = []
    traces.record_with(lambda tree: found.extend(flat(tree)), content=content)
    try:
        yield found
    finally:
        traces.record_with(None)


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def test_calls_follow_the_conventions_and_a_rejected_answer_is_a_failed_check(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        with recorded() as spans:
            job_id = await fleet.submit(steps=[STEP], items=[CONTENT])
            await fleet.run(job_id)
        assert {span.trace for span in spans} == {root_of(job_id)[0]}
        first, second = named(spans, "subtask")
        assert (first.attributes["tierfleet.tier"], first.attributes["tierfleet.status"]) == ("nano", "handed on")
        assert (second.attributes["tierfleet.tier"], second.attributes["tierfleet.status"]) == ("mini", "ok")
        assert [span.error for span in (first, second)] == [None, None]
        assert [span.error for span in named(spans, "check")] == ["Rejected", None]
        (call,) = named(spans, f"chat {GOOD}")
        assert (call.kind, call.parent, call.error) == ("client", second.id, None)
        (entry,) = [entry for entry in await fleet.ledger(job_id) if entry.model == GOOD]
        assert {name: call.attributes[name] for name in call.attributes if name.startswith("gen_ai")} == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": GOOD,
            "gen_ai.request.max_tokens": 2_000,
            "gen_ai.output.type": "json",
            "gen_ai.response.model": entry.answered_model,
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.input_tokens": entry.usage.input_tokens,
            "gen_ai.usage.output_tokens": entry.usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": entry.usage.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": entry.usage.reasoning_tokens,
        }
        assert call.attributes["tierfleet.call"] == entry.call_id
        assert call.attributes["server.address"] == "127.0.0.1"
        assert CONTENT not in str(spans)
        assert {span.name for span in spans} >= {"submit", "plan", "shard", "end"}

    on_bench(scenario, valkey, tmp_path, config(nano=BREAKS), sim=sim.url)


def test_prompts_and_outputs_are_told_where_they_were_asked_for(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scripted({"topic": "bug"}) as script:

            async def told(fleet: Bench) -> None:
                with recorded(content=True) as spans:
                    await fleet.run(await fleet.submit(steps=[STEP], items=[CONTENT]))
                (call,) = named(spans, f"chat {GOOD}")
                assert call.attributes["gen_ai.input.messages"] == (
                    f'[{{"role": "user", "parts": [{{"type": "text", "content": "Topic? {CONTENT}"}}]}}]'
                )
                assert CONTENT in str(call.attributes["gen_ai.system_instructions"])
                assert '"finish_reason": "stop"' in str(call.attributes["gen_ai.output.messages"])

            await asyncio.to_thread(on_bench, told, valkey, tmp_path, config(), openai_base_url=script.url)

    asyncio.run(scenario())


def test_a_call_without_an_answer_has_the_kind_of_its_error(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scripted(Reply(CONTENT, status=400)) as script:

            async def told(fleet: Bench) -> None:
                with recorded() as spans:
                    await fleet.run(await fleet.submit(steps=[STEP], items=[CONTENT]))
                (call,) = named(spans, f"chat {GOOD}")
                assert call.error == "bad_request"
                (subtask,) = named(spans, "subtask")
                assert (subtask.error, subtask.attributes["tierfleet.status"]) == ("failed", "failed")
                assert CONTENT not in str(spans)

            await asyncio.to_thread(on_bench, told, valkey, tmp_path, config(), openai_base_url=script.url)

    asyncio.run(scenario())


def test_the_request_that_submits_is_the_root_of_its_job_and_others_are_not(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        caller = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        with recorded() as spans:
            once = caller | {"Idempotency-Key": "one"}
            _, job, _ = await api.ask("POST", "/v1/jobs", json=JOB, headers=once)
            await api.ask("POST", "/v1/jobs", json=JOB, headers=once)
            await api.ask("GET", f"/v1/jobs/{job['id']}", headers=caller)
            await api.ask("POST", f"/v1/jobs/{job['id']}/cancel")
            await api.ask("POST", f"/v1/jobs/{CONTENT}/cancel")
            await api.ask("GET", f"/{CONTENT}")
            await api.ask("GET", "/healthz")

            async def all_ended() -> bool:
                return len(spans) == 6

            await eventually(all_ended, "the spans of six requests")
        root, again, looked, cancelled, *lost = spans
        assert ((root.trace, root.id), root.parent) == (root_of(job["id"]), None)
        assert root.link == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
        assert (root.name, root.kind) == ("POST /v1/jobs", "server")
        assert root.attributes["http.response.status_code"] == 202
        assert again.trace == 0x0AF7651916CD43DD8448EB211C80319C, "it began nothing"
        assert (looked.trace, looked.name) == (again.trace, "GET /v1/jobs/{job_id}")
        assert ((cancelled.trace, cancelled.parent), cancelled.id) != (root_of(job["id"]), root.id)
        assert (cancelled.trace, cancelled.parent) == (root.trace, root.id)
        assert root.trace not in {span.trace for span in lost}
        assert [span.error for span in spans] == [None] * 6
        assert CONTENT not in str(spans)

    on_api(scenario, valkey, tmp_path, sim)


def test_an_answer_that_is_waited_for_is_one_tree(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        with recorded() as spans:
            asked = {"model": "nano", "messages": [{"role": "user", "content": CONTENT}]}
            status, _, headers = await api.ask("POST", "/v1/chat/completions", json=asked)
            assert status == 200

            async def all_ended() -> bool:
                return {span.name for span in spans} >= {"POST /v1/chat/completions", "subtask"}

            await eventually(all_ended, "the spans")
        trace, root = root_of(headers["x-fleet-job"])
        assert {span.trace for span in spans} == {trace}
        assert [span.name for span in spans if span.parent is None] == ["POST /v1/chat/completions"]
        assert named(spans, "subtask")[0].parent == root
        assert CONTENT not in str(spans)

    on_api(scenario, valkey, tmp_path, sim, working=True)


def test_spans_reach_a_collector_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        with exporting(collector.url, monkeypatch):
            traces.accepted("j1", 1)
            with traces.claimed("subtask", "j1/a/0", "nano") as span:
                with contextlib.suppress(ValueError), traces.inside("check"):
                    raise ValueError(CONTENT)
                span.note(tokens=5, reported=True)
        root = check_tree(collector.of(root_of("j1")[0]))
        assert (root.name, root.service) == ("submit", "tierfleet-test")
        assert {span.name: span.failed for span in collector.spans} == {
            "submit": False,
            "subtask": False,
            "check": True,
        }
        (subtask,) = [span for span in collector.spans if span.name == "subtask"]
        assert subtask.attributes["tierfleet.tokens"] == 5
        assert subtask.attributes["tierfleet.reported"] is True
        assert CONTENT not in str(collector.spans)


def test_a_sampler_keeps_or_drops_whole_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    with collecting() as collector:
        for process in ("one", "other"):
            with exporting(collector.url, monkeypatch):
                for i in range(40):
                    with traces.claimed("subtask", f"j{i}/{process}", "nano"), traces.inside("check"):
                        pass
        assert {len(collector.of(root_of(f"j{i}")[0])) for i in range(40)} == {0, 4}


def test_a_collector_that_never_answers_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with exporting(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch):
            for i in range(5_000):  # more than the queue holds
                with traces.claimed("subtask", f"j1/a/{i}", "nano"):
                    pass
        # It is still waiting for an answer, in a thread that dies with the process.
        waiting = [thread for thread in threading.enumerate() if thread.name.startswith("OtelBatch")]
        assert [thread.daemon for thread in waiting if thread.is_alive()][-1:] == [True]


@contextlib.contextmanager
def exporting(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is recorded meanwhile is sent there, also what was left at the end."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    exporter = Exporter("tierfleet-test")
    traces.record_with(exporter.record)
    try:
        yield
    finally:
        traces.record_with(None)
        exporter.close()
