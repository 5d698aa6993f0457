"""The endpoint beside a worker's work: what it answers, also when the store does not, and that it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.exceptions import ConnectionError as RedisConnectionError

from fleet import metrics_endpoint
from fleet.admissible import AdmissibleWork
from fleet.config import FleetConfig
from fleet.metrics_endpoint import MetricsEndpoint
from queues.limits import Limiter, Standing
from queues.link import Link
from queues.survey import Survey, Surveyor, TierSurvey
from queues.tiers import Allowance
from tests.support.valkey import free_port
from tests.support.worker import eventually

CONFIG = FleetConfig.model_validate(
    {
        "models": {"m": {"context_tokens": 1_000}},
        "tiers": {tier: {"model": "m"} for tier in ("nano", "mini", "flagship")},
    }
)
IDLE = Survey({"nano": TierSurvey(0, 0, 0, 0)}, 0, 0, 0.0, 0, {})


class Open(Limiter):
    """Of accounts that nobody uses; it asks nobody."""

    def __init__(self) -> None:
        super().__init__(Link.from_url("redis://127.0.0.1:1"), "test")

    async def look(self, account: str, allowance: Allowance) -> Standing:
        return Standing(None, None, None, requests=0, tokens=0, calls=0, next_s=0, paused_s=0, outage_s=None)


class Answers(Surveyor):
    """A surveyor whose store does as it is told; counts how many ask it at the same time."""

    def __init__(self, answer: Callable[[], Awaitable[Survey]]) -> None:
        super().__init__(Link.from_url("redis://127.0.0.1:1"), "test", ["nano"])
        self._answer = answer
        self.asking = self.most = 0

    async def survey(self, job: str = "") -> Survey:
        self.asking += 1
        self.most = max(self.most, self.asking)
        try:
            return await self._answer()
        finally:
            self.asking -= 1


def ask(answers: Answers, paths: list[str], **headers: str) -> list[tuple[int, str, str]]:
    """(status, content type, text) of requests made at the same time; the endpoint has ended when this returns."""

    async def scenario() -> list[tuple[int, str, str]]:
        port = free_port()
        serving = asyncio.create_task(
            MetricsEndpoint(answers, AdmissibleWork(answers, Open(), CONFIG), "127.0.0.1", port).serve()
        )
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


def test_scrapes_take_turns_and_each_gets_the_metrics() -> None:
    answers = Answers(idle)
    for status, content_type, text in ask(answers, ["/metrics"] * 10):
        assert (status, content_type) == (200, "text/plain")
        names = {family.name for family in text_string_to_metric_families(text)}
        assert names > {"tierfleet_workers", "tierfleet_admissible_subtasks"}
    assert answers.most == 1


def test_a_scraper_that_asks_for_openmetrics_gets_it() -> None:
    ((status, content_type, text),) = ask(
        Answers(idle), ["/metrics"], Accept="application/openmetrics-text;version=1.0.0"
    )
    assert (status, content_type) == (200, "application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_nothing_else_is_served() -> None:
    assert [status for status, _, _ in ask(Answers(idle), ["/", "/jobs"])] == [404, 404]


def test_a_store_that_is_away_costs_the_scrape() -> None:
    async def away() -> Survey:
        raise RedisConnectionError("redis://:secret@host is away")

    ((status, _, text),) = ask(Answers(away), ["/metrics"])
    assert (status, text) == (503, "The store does not answer (ConnectionError).\n")


def test_a_store_that_hangs_costs_each_scrape_its_patience_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang() -> Survey:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(metrics_endpoint, "PATIENCE_S", 0.05)
    answers = Answers(hang)
    assert [status for status, _, _ in ask(answers, ["/metrics"] * 3)] == [503] * 3
    assert answers.asking == 0
