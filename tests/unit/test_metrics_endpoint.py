"""The endpoint beside a process's work: what it answers, also when the store does not, and that it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from redis.exceptions import ConnectionError as RedisConnectionError

from fleet import metrics_endpoint
from fleet.metrics import Metrics
from fleet.metrics_endpoint import MetricsEndpoint
from queues.survey import Survey, TierSurvey
from tests.support.valkey import free_port
from tests.support.worker import eventually

IDLE = Survey({"nano": TierSurvey(0, 0, 0, 0)}, 0, 0, 0.0, 0, {})


class Looks:
    """Looks at a store that does as it is told; counts how many look at the same time."""

    def __init__(self, answer: Callable[[], Awaitable[Survey]]) -> None:
        self._answer = answer
        self.looking = self.most = 0

    async def look(self) -> list[Collector]:
        self.looking += 1
        self.most = max(self.most, self.looking)
        try:
            return [Metrics(await self._answer())]
        finally:
            self.looking -= 1


async def hello(_: web.Request) -> web.Response:
    return web.json_response({"hello": "there"})


def ask(looks: Looks | None, paths: list[str], **headers: str) -> list[tuple[int, str, str]]:
    """(status, content type, text) of requests made at the same time; the endpoint has ended when this returns."""

    async def scenario() -> list[tuple[int, str, str]]:
        port, registry = free_port(), CollectorRegistry()
        Gauge("own", "Of the process.", registry=registry)
        routes = [web.get("/hello", hello)]
        endpoint = MetricsEndpoint("127.0.0.1", port, [registry], None if looks is None else looks.look, routes)
        serving = asyncio.create_task(endpoint.serve())
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as session:

            async def get(path: str) -> tuple[int, str, str]:
                async with session.get(path) as response:
                    return response.status, response.content_type, await response.text()

            await eventually(lambda: _open(port), "the endpoint")
            got = await asyncio.gather(*(get(path) for path in paths))
            # The session still holds its connections: they do not keep the endpoint from ending.
            serving.cancel()
            await asyncio.wait_for(asyncio.wait({serving}), 5)
        assert serving.cancelled()
        assert not await _open(port)
        return got

    return asyncio.run(scenario())


async def _open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def idle() -> Survey:
    await asyncio.sleep(0)
    return IDLE


def shown(text: str) -> dict[str, float]:
    """Name -> value, of what has no label."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: sample.value for sample in found if not sample.labels}


def test_scrapes_take_turns_and_each_gets_the_metrics() -> None:
    looks = Looks(idle)
    for status, content_type, text in ask(looks, ["/metrics"] * 10):
        assert (status, content_type) == (200, "text/plain")
        assert {family.name for family in text_string_to_metric_families(text)} > {"tierfleet_workers", "own"}
        assert shown(text)["tierfleet_store_up"] == 1
    assert looks.most == 1


def test_a_process_without_a_look_at_the_fleet_shows_its_own() -> None:
    ((status, _, text),) = ask(None, ["/metrics"])
    assert status == 200
    assert {name for name in shown(text) if not name.startswith("process_")} == {"own"}
    assert shown(text)["process_resident_memory_bytes"] > 0


def test_a_scraper_that_asks_for_openmetrics_gets_it() -> None:
    ((status, content_type, text),) = ask(
        Looks(idle), ["/metrics"], Accept="application/openmetrics-text;version=1.0.0"
    )
    assert (status, content_type) == (200, "application/openmetrics-text")
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text;version=x;escaping=y", "text/plain;version=1.2.x", ",;=" * 900]
)
def test_no_accept_header_is_too_odd(accept: str) -> None:
    ((status, _, text),) = ask(Looks(idle), ["/metrics"], Accept=accept)
    assert status == 200
    assert "tierfleet_workers" in text


def test_nothing_is_served_but_what_was_handed_over() -> None:
    assert [status for status, _, _ in ask(Looks(idle), ["/", "/jobs", "/hello"])] == [404, 404, 200]


def test_a_store_that_is_away_is_told_of_and_says_nothing_else() -> None:
    async def away() -> Survey:
        raise RedisConnectionError("redis://:secret@host is away")

    ((status, _, text),) = ask(Looks(away), ["/metrics"])
    assert (status, shown(text)["tierfleet_store_up"], shown(text)["own"]) == (200, 0, 0)
    assert "tierfleet_workers" not in text
    assert "secret" not in text


def test_a_store_that_hangs_costs_each_scrape_its_patience_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang() -> Survey:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(metrics_endpoint, "PATIENCE_S", 0.05)
    looks = Looks(hang)
    for status, _, text in ask(looks, ["/metrics"] * 3):
        assert (status, shown(text)["tierfleet_store_up"]) == (200, 0)
    assert looks.looking == 0
