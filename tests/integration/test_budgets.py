"""Budgets of jobs, tenants and the fleet with real calls: what is made to fit where one is short, what pauses, how it goes on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from fleet import fitting
from fleet.caps import Caps, caps_of
from fleet.config import FleetConfig
from fleet.fitting import CUT
from fleet.jobs import JobStatus
from fleet.relief import Relief
from queues.quotas import Quotas
from queues.shared import Cap, ends_at, number_at, words
from queues.subtasks import Charge, Intent, Refused
from tests.integration.test_openai_chat import SAY, client
from tests.support.api import JOB, Api, on_api
from tests.support.bench import Bench, books, config, on_bench
from tests.support.sim import RunningSim
from tests.support.stores import open_store
from tests.support.valkey import Valkey

WRITE = {
    "id": "write",
    "each": "items",
    "tier": "nano",
    "kind": "writing",
    "prompt": "{{ item }}",
    "max_output_tokens": 400,
}
ITEMS = [f"Write about ticket {i} of the team." for i in range(30)]
#: About what a call may cost at most: 400 tokens of output at a dollar a million, and its input.
WORST = 0.0004
LONG = " ".join(f"Sentence {i} tells of invoices and crashes and how they came about in the team." for i in range(4))


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "LOOK_S", 0.01)


async def shared(fleet: Bench) -> dict[tuple[str, str], tuple[int, int]]:
    """(Used, held) by whom and period."""
    return {(one.whom, one.per): (one.used, one.held) for one in await fleet.runtime.quotas.shared("default")}


@pytest.mark.parametrize(
    ("capped", "named"),
    [
        ({"tenants": {"default": {"usd_per_day": 0.0006}}}, "that default has for this day (usd_per_day)"),
        ({"tenants": {"default": {"usd_per_month": 0.0006}}}, "that default has for this month (usd_per_month)"),
        ({"budgets": {"usd_per_day": 0.0006}}, "The fleet's budget for this day (budgets.usd_per_day) is used up"),
        (
            {"budgets": {"usd_per_month": 0.0006}},
            "The fleet's budget for this month (budgets.usd_per_month) is used up",
        ),
    ],
)
def test_at_a_cap_of_a_day_or_month_a_job_pauses_and_goes_on_when_more_is_allowed(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, capped: dict[str, Any], named: str
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=2 * ITEMS, steps=[WRITE])
        job = await fleet.run(job_id)
        assert job.status is JobStatus.PAUSED
        assert named in str(job.error)
        assert "goes on by itself" in str(job.error)
        (cap,) = caps_of(fleet.runtime.config, "default")
        used, held = await fleet.money(job_id)
        assert (used, held) == (books(await fleet.ledger(job_id), sim.charges(), job_id), 0)
        assert 0 < used <= cap.most
        assert set((await shared(fleet)).values()) == {(used, 0)}, "all levels count all that was spent"
        asked = len(fleet.provider.asked)
        await _relief(fleet, fleet.runtime.config).look()
        assert (await fleet.run(job_id)).status is JobStatus.PAUSED, "nothing has changed"
        assert len(fleet.provider.asked) == asked
        await fleet.runtime.link.execute("DEL", f"fleet:caps:{cap.whom}")  # half a minute later
        await _relief(fleet, config()).look()
        assert (await fleet.runtime.jobs.load(job_id)).status is not JobStatus.PAUSED

    on_bench(scenario, valkey, tmp_path, config(**capped), sim=sim.url)


def _relief(fleet: Bench, configured: FleetConfig) -> Relief:
    return Relief(fleet.runtime.quotas, Caps(configured), list(fleet.runtime.tiers))


def test_a_job_that_somebody_paused_is_not_relieved(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=ITEMS, steps=[WRITE], budget_usd="0.000001")
        assert (await fleet.run(job_id)).status is JobStatus.PAUSED
        await fleet.runtime.store.stop(job_id, "paused", list(fleet.runtime.tiers))
        assert await fleet.runtime.quotas.set_cap(job_id, 10**9) is None
        await _relief(fleet, config()).look()
        assert (await fleet.runtime.jobs.load(job_id)).status is JobStatus.PAUSED
        assert await fleet.runtime.quotas.short(10) == []

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


@pytest.mark.parametrize(("most", "budget"), [(400, WORST * 0.8), (4_000, WORST)])
def test_a_budget_below_a_single_worst_case_is_used_all_the_same(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, most: int, budget: float
) -> None:
    async def scenario(fleet: Bench) -> None:
        step = WRITE | {"max_output_tokens": most}
        job = await fleet.run(await fleet.submit(items=ITEMS * 3, steps=[step], budget_usd=budget))
        cost = books(await fleet.ledger(job.id), sim.charges(), job.id)
        assert max(request.max_output_tokens for request in fleet.provider.asked) < most
        assert 0.5 * budget * 1e9 < cost <= budget * 1e9
        assert await fleet.money(job.id) == (cost, 0)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_an_answer_that_a_short_budget_cuts_off_is_asked_for_again_with_all_its_output(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        learnt = await fleet.run(await fleet.submit(items=ITEMS, steps=[WRITE], budget_usd=1))
        assert learnt.status is JobStatus.COMPLETED
        # One call fits with all of its output, and others beside it with what they were seen to write.
        items, budget = [*ITEMS[:3], LONG], 1.8 * WORST
        job = await fleet.run(await fleet.submit(items=items, steps=[WRITE], budget_usd=budget))
        assert (job.status, job.error) == (JobStatus.COMPLETED, None)
        entries = [entry for entry in await fleet.ledger(job.id) if str(entry.subtask).endswith("/3")]
        assert [(entry.status, entry.reason) for entry in entries] == [("rejected", CUT), ("ok", None)]
        assert entries[0].usage.output_tokens < entries[1].usage.output_tokens
        cost = books(await fleet.ledger(job.id), sim.charges(), job.id)
        assert await fleet.money(job.id) == (cost, 0)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_whoever_waits_for_an_answer_is_told_until_when_there_is_no_money(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        async with client(api, await api.key("acme")) as ai:
            with pytest.raises(openai.RateLimitError) as refused:
                await ai.chat.completions.create(model="nano", messages=SAY)
        assert refused.value.code == "insufficient_quota"
        assert "budget of $0.000001 that acme has for this month" in refused.value.message
        headers = refused.value.response.headers
        assert headers["x-should-retry"] == "false"
        left = ends_at("month", number_at("month", time.time())) - time.time()
        assert abs(int(headers["retry-after"]) - left) < 60
        assert await api.fleet.runtime.quotas.short(10) == [], "a single call is refused, and not paused"

    on_api(scenario, valkey, tmp_path, sim, working=True, tenants={"acme": {"usd_per_month": 0.000001}})


def test_what_a_tenant_or_the_fleet_has_spent_lets_nothing_new_in(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        key, runtime = await api.key("acme"), api.fleet.runtime
        job_id = (await api.ask("POST", "/v1/jobs", key, json=JOB))[1]["id"]
        await api.fleet.run(job_id)
        number = number_at("month", time.time())
        for whom in ("acme", "*"):
            await runtime.link.execute("HINCRBY", f"fleet:month:used:{whom}", number, 10**9)
            status, problem, headers = await api.ask("POST", "/v1/jobs", key, json=JOB)
            assert (status, int(headers["Retry-After"]) > 0) == (429, True)
            who = "Acme has spent" if whom == "acme" else "The fleet has spent"
            assert problem["detail"].startswith(who)
            status, problem, _ = await api.ask("POST", f"/v1/jobs/{job_id}/retry", key)
            assert (status, "nothing runs again" in problem["detail"]) == (429, True)
            await runtime.link.execute("HINCRBY", f"fleet:month:used:{whom}", number, -(10**9))
        assert (await api.ask("POST", "/v1/jobs", key, json=JOB))[0] == 202

    limits: dict[str, Any] = {"tenants": {"acme": {"usd_per_month": 1}}, "budgets": {"usd_per_month": 1}}
    on_api(scenario, valkey, tmp_path, sim, **limits)


def test_of_two_configurations_the_smaller_cap_holds_for_both(valkey: Valkey) -> None:
    large, small = (words([Cap("acme", "day", most), Cap("*", "month", 1_000)]) for most in (100, 50))

    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="acme", share=1)

            async def held(name: str, amount: int, caps: str) -> Refused | None:
                return await store.intend(Intent("j", f"j/{name}", name, amount, "", caps=caps))

            assert await held("a", 40, large) is None
            short = await held("b", 11, small)
            assert short is not None
            assert (short.cap, short.used, short.others, short.whom, short.per) == (50, 0, 40, "acme", "day")
            short = await held("b", 11, large)
            assert short is not None
            assert short.cap == 50, "another process has said less just now"
            short = await held("b", 11, "")
            assert short is not None
            assert short.cap == 50, "and it binds who has none"
            assert await held("b", 10, small) is None
            await store.link.execute("DEL", "test:caps:acme")  # nobody has said it for half a minute
            assert await held("c", 50, large) is None
            assert (await Quotas(store.link, store.namespace).shared("acme"))[0].held == 100

    asyncio.run(scenario())


def test_what_an_earlier_version_settled_is_freed(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            quotas = Quotas(store.link, store.namespace)
            caps = words([Cap("*", "day", 100)])
            for name in "abc":
                assert await store.intend(Intent("j", f"j/{name}", f"call-{name}", 30, "", caps=caps)) is None
            for name in "ab":  # all that it knows of a hold
                await store.link.execute("HDEL", f"{store.namespace}:qh:j", f"j/{name}")
                await store.link.execute("HDEL", f"{store.namespace}:i:j", f"j/{name}")
            assert await store.intend(Intent("j", "j/a", "call-a2", 40, "", caps=caps)) is None, "the next call sees it"
            assert [one.held for one in (await quotas.shared("acme"))[2:]] == [100, 100]
            assert await quotas.free_lost() == ("0", 1)
            assert [one.held for one in (await quotas.shared("acme"))[2:]] == [70, 70]
            await store.settle([Charge("r", "call-c", "", "j", "j/c", 5), Charge("r", "call-a2", "", "j", "j/a", 5)])
            assert [(one.used, one.held) for one in (await quotas.shared("acme"))[2:]] == [(10, 0), (10, 0)]

    asyncio.run(scenario())


def test_what_nobody_settled_before_its_job_was_dropped_counts_at_its_worst(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            quotas = Quotas(store.link, store.namespace)
            caps = words([Cap("acme", "day", 100)])
            for job in ("gone", "here"):
                await store.open_job(job, tenant="acme", share=1)
                assert await store.intend(Intent(job, f"{job}/a", f"call-{job}", 30, "", caps=caps)) is None
            for kind in ("j", "q", "qh", "i"):
                await store.link.execute("DEL", f"{store.namespace}:{kind}:gone")
            assert await quotas.free_lost() == ("0", 1)
            assert await quotas.free_lost() == ("0", 0), "once"
            assert [(one.used, one.held) for one in await quotas.shared("acme")] == [(30, 30)] * 4
            short = await store.intend(Intent("here", "here/b", "call-b", 41, "", caps=caps))
            assert short is not None
            assert (short.cap, short.used, short.others) == (100, 30, 30)

    asyncio.run(scenario())
