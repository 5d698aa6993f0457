"""Admissible work over HTTP, as KEDA asks for it, on a real store: limits, pauses, outages, budgets, and a store that is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleet.admissible import AdmissibleWork
from fleet.choices import account_of
from fleet.config import FleetConfig
from fleet.lookout import Lookout
from fleet.metrics_endpoint import MetricsEndpoint
from queues.limits import Limiter
from queues.link import Link
from queues.quotas import Quotas
from queues.store import Store
from queues.subtasks import Intent
from queues.survey import MOST_LANES, Surveyor
from queues.tiers import Allowance
from tests.support.bench import Bench, config, on_bench
from tests.support.sim import RunningSim
from tests.support.stores import NAMESPACE, claimed, new, open_store
from tests.support.valkey import Valkey, free_port
from tests.support.worker import eventually

TIERS = ("nano", "mini", "flagship", "coordinator")
MODELS = ("small", "middle", "large")
ACCOUNT = "openai/small"


def configured(**limits: object) -> FleetConfig:
    """Nano alone on the model `small`, which has these limits; no budget of calls is known yet."""
    price = {"price": {"input": 1, "output": 1}, "context_tokens": 10_000}
    models = {name: price | {"limits": limits if name == "small" else {}} for name in MODELS}
    tiers = {tier: {"model": model, "timeout_s": 60} for tier, model in zip(TIERS[:3], MODELS, strict=True)}
    return FleetConfig.model_validate({"models": models, "tiers": tiers})


class Asked:
    """A coordinator's endpoint over a store, as KEDA sees it."""

    def __init__(self, store: Store, session: aiohttp.ClientSession) -> None:
        self.store = store
        self.limiter = Limiter(store.link, NAMESPACE)
        self._session = session

    async def admissible(self, tier: str = "nano") -> int:
        async with self._session.get(f"/admissible/{tier}") as answer:
            assert answer.status == 200, await answer.text()
            found = await answer.json()
            assert found == {"tier": tier, "admissible": found["admissible"]}
            return int(found["admissible"])

    async def get(self, path: str) -> tuple[int, str]:
        async with self._session.get(path) as answer:
            return answer.status, await answer.text()

    async def took(self, seconds: float, allowance: Allowance, *, calls: int = 1, tokens: int = 100) -> None:
        """Calls of nano that took so long have ended."""
        for number in range(calls):
            permit = await self.limiter.acquire(
                *(ACCOUNT, allowance), tokens=tokens, permit_id=f"t{number}", lease_s=60, patience_s=60, lane="nano"
            )
            began = replace(permit, given_s=time.monotonic() - seconds)
            await self.limiter.settle(began, tokens)


@asynccontextmanager
async def serving(link: Link, fleet_config: FleetConfig) -> AsyncIterator[aiohttp.ClientSession]:
    port = free_port()
    surveyor, limiter = Surveyor(link, NAMESPACE, TIERS), Limiter(link, NAMESPACE)
    work, lookout = AdmissibleWork(surveyor, limiter, fleet_config), Lookout(fleet_config, surveyor, limiter)
    server = asyncio.create_task(MetricsEndpoint("127.0.0.1", port, [], lookout.look, work.routes()).serve())

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await eventually(listens, "the endpoint")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session
    finally:
        server.cancel()
        await asyncio.wait({server})


def asked(valkey: Valkey, scenario: Callable[[Asked], Awaitable[None]], **limits: object) -> None:
    async def run() -> None:
        async with open_store(valkey) as store, serving(store.link, configured(**limits)) as session:
            await store.open_job("j", tenant="t", share=1)
            await scenario(Asked(store, session))

    asyncio.run(run())


async def backlog(store: Store, number: int, job: str = "j", tier: str = "nano") -> None:
    await store.add([new(f"{job}/{tier}{n}", tier=tier) for n in range(number)])


def test_without_limits_all_that_is_ready_and_out_is_admissible(valkey: Valkey) -> None:
    async def scenario(fleet: Asked) -> None:
        assert await fleet.admissible() == 0
        await backlog(fleet.store, 1_500)
        assert await fleet.admissible() == 1_500
        released = await fleet.store.release("nano", 100)
        await claimed(fleet.store, released[0].id)
        assert await fleet.admissible() == 1_500
        assert await fleet.admissible("mini") == 0
        await backlog(fleet.store, 3, tier="coordinator")
        assert await fleet.admissible("coordinator") == 3

    asked(valkey, scenario)


def test_a_backlog_behind_a_rate_limit_counts_as_far_as_the_limit_lets_it_run(valkey: Valkey) -> None:
    async def scenario(fleet: Asked) -> None:
        await backlog(fleet.store, 5_000)
        assert await fleet.admissible() == 10, "ten a second, and a sixtieth of the timeout each: nothing is known yet"
        await fleet.took(8.0, Allowance(requests_per_minute=600))
        assert await fleet.admissible() == pytest.approx(80, abs=1), (
            "ten a second for the eight seconds that a call took"
        )

    asked(valkey, scenario, requests_per_minute=600)


def test_a_limit_on_tokens_counts_by_what_calls_took(valkey: Valkey) -> None:
    async def scenario(fleet: Asked) -> None:
        await backlog(fleet.store, 5_000)
        assert await fleet.admissible() == 10, "nobody knows how many tokens they take"
        await fleet.took(4.0, Allowance(tokens_per_minute=60_000), tokens=100)
        assert await fleet.admissible() == pytest.approx(40, abs=1), (
            "a thousand tokens a second are ten calls of a hundred"
        )

    asked(valkey, scenario, tokens_per_minute=60_000)


def test_a_paused_job_has_no_admissible_work_until_it_is_resumed(valkey: Valkey) -> None:
    async def scenario(fleet: Asked) -> None:
        await backlog(fleet.store, 50)
        await fleet.store.stop("j", "paused", TIERS)
        assert await fleet.admissible() == 0
        await fleet.store.resume("j", TIERS)
        assert await fleet.admissible() == 50

    asked(valkey, scenario)


def test_a_budget_lets_run_what_is_left_of_it_and_one_that_finds_it_spent(valkey: Valkey) -> None:
    async def scenario(fleet: Asked) -> None:
        store = fleet.store
        await Quotas(store.link, store.namespace).set_cap("j", 100)
        await backlog(store, 50)
        assert await fleet.admissible() == 50, "what a call holds is not known yet"
        (released,) = await store.release("nano", 1)
        claim = await claimed(store, released.id)
        assert await store.intend(Intent("j", claim.id, "c1", 20, "", claim.id, claim.fence)) is None
        assert await fleet.admissible() == 1 + 4, "one runs, and eighty hold four more"
        await Quotas(store.link, store.namespace).set_cap("j", 20)
        assert await fleet.admissible() == 1 + 1, "nothing is left; somebody has to find that"
        await store.open_job("other", tenant="t", share=1)
        await backlog(store, 7, "other")
        assert await fleet.admissible() == 1 + 1 + 7, "the budget of one job holds back no other's"

    asked(valkey, scenario)


def test_behind_a_pause_of_the_account_there_is_what_runs_and_one_to_try(valkey: Valkey) -> None:
    async def scenario(fleet: Asked) -> None:
        await backlog(fleet.store, 50)
        for released in await fleet.store.release("nano", 3):
            await claimed(fleet.store, released.id)
            await fleet.limiter.acquire(ACCOUNT, Allowance(), tokens=1, permit_id=released.id, lease_s=60, patience_s=1)
        await fleet.limiter.pause(ACCOUNT, 2)
        assert await fleet.admissible() == 50, "it is over before a worker has started"
        await fleet.limiter.pause(ACCOUNT, 600)
        assert await fleet.admissible() == 3 + 1

    asked(valkey, scenario)


def test_in_an_outage_there_is_one_to_try(valkey: Valkey) -> None:
    async def scenario(fleet: Asked) -> None:
        await backlog(fleet.store, 50)
        await fleet.limiter.shut(ACCOUNT, 600)
        assert await fleet.admissible() == 1

    asked(valkey, scenario)


def test_every_job_counts_however_many_there_are(valkey: Valkey) -> None:
    jobs = MOST_LANES + 50

    async def scenario(fleet: Asked) -> None:
        for number in range(jobs):
            await fleet.store.open_job(f"j{number}", tenant=f"t{number % 3}", share=1)
        await fleet.store.add([new(f"j{number}/a") for number in range(jobs)])
        assert await fleet.admissible() == jobs

    asked(valkey, scenario)


def test_how_long_calls_took_is_remembered_by_what_they_were_for(valkey: Valkey) -> None:
    async def scenario(fleet: Asked) -> None:
        free = Allowance()
        await fleet.took(2.0, free, calls=3, tokens=200)
        await fleet.took(8.0, free, tokens=400)
        permit = await fleet.limiter.acquire(ACCOUNT, free, tokens=1, permit_id="x", lease_s=60, patience_s=1)
        await fleet.limiter.settle(permit, 1)  # as the workers of an earlier version
        await fleet.limiter.pause(ACCOUNT, 0.001)
        seen = (await fleet.limiter.look(ACCOUNT, free)).took
        assert seen.keys() == {"nano"}
        assert seen["nano"].seconds == pytest.approx(3.5, abs=0.2)
        assert seen["nano"].tokens == 250
        refused = await fleet.limiter.acquire(
            ACCOUNT, free, tokens=1, permit_id="y", lease_s=60, patience_s=1, lane="nano"
        )
        await fleet.limiter.settle(replace(refused, given_s=time.monotonic() - 500), 0, "refused")
        assert (await fleet.limiter.look(ACCOUNT, free)).took == seen, "it was not let in"

    asked(valkey, scenario)


def test_the_calls_of_a_job_say_how_long_they_took(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        step = {"id": "write", "tier": "nano", "prompt": "Write it.", "max_output_tokens": 100}
        await fleet.run(await fleet.submit(steps=[step]))
        name, model = fleet.runtime.config.model_of("nano")
        took = (await fleet.runtime.limiter.look(account_of(name, model), Allowance())).took
        assert took.keys() == {"nano"}
        assert 0 < took["nano"].seconds < 60
        assert took["nano"].tokens > 0
        assert await fleet.runtime.admissible.look() == dict.fromkeys(fleet.runtime.tiers, 0)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_the_metric_says_the_same_and_so_does_another_coordinator(valkey: Valkey) -> None:
    async def scenario(fleet: Asked) -> None:
        await backlog(fleet.store, 40)
        await backlog(fleet.store, 9, tier="mini")
        _, text = await fleet.get("/metrics")
        families = {family.name: family for family in text_string_to_metric_families(text)}
        shown = {one.labels["tier"]: one.value for one in families["tierfleet_admissible_subtasks"].samples}
        assert shown == {"nano": 40, "mini": 9, "flagship": 0, "coordinator": 0}
        async with serving(fleet.store.link, configured()) as other, other.get("/admissible/nano") as answer:
            assert (await answer.json())["admissible"] == 40

    asked(valkey, scenario)


def test_an_unknown_tier_is_not_found(valkey: Valkey) -> None:
    async def scenario(fleet: Asked) -> None:
        status, text = await fleet.get("/admissible/%3Cb%3Enono")
        assert status == 404
        assert text == f"There is no such tier; there are: {', '.join(TIERS)}.\n"

    asked(valkey, scenario)


def test_a_store_that_does_not_answer_gives_no_number() -> None:
    async def scenario() -> tuple[int, str]:
        link = Link.from_url(f"redis://:secret@127.0.0.1:{free_port()}")
        try:
            async with serving(link, configured()) as session, session.get("/admissible/nano") as answer:
                return answer.status, await answer.text()
        finally:
            await link.aclose()

    status, text = asyncio.run(scenario())
    assert status == 503
    assert text.startswith("The store does not answer (")
    assert "secret" not in text
