"""What had to be put right is counted by the script that does it: each raises exactly its own counter, by exactly one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from fleet.jobs import JobSpec
from queues.store import Store
from queues.survey import Righted, Survey, Surveyor
from tests.support.api import Api, on_api
from tests.support.bench import DEAR, GOOD, Bench, config, on_bench
from tests.support.sim import RunningSim
from tests.support.stores import NAMESPACE, claimed, new, open_store
from tests.support.valkey import Valkey

TIERS = ("nano", "mini")
STEP = {"id": "write", "tier": "nano", "prompt": "Write it.", "max_output_tokens": 100}


def counted(valkey: Valkey, scenario: Callable[[Store], Awaitable[None]]) -> dict[str, int]:
    """What a scenario made the store count on the tier nano."""

    async def run() -> Survey:
        async with open_store(valkey) as store:
            await scenario(store)
            return await Surveyor(store.link, NAMESPACE, TIERS).survey()

    righted = asyncio.run(run()).righted
    assert {tier for tier, _ in righted} <= {"nano"}
    return {what: number for (_, what), number in righted.items()}


async def run_out(store: Store, id_: str) -> None:
    """The time for which a subtask is watched is over."""
    await store.link.execute("ZADD", f"{NAMESPACE}:watch", "XX", 0, id_)


async def send_again(store: Store) -> None:
    """What the dispatcher does: release, send, say so; twice, as after a lost reply."""
    (released,) = await store.release("nano", 10)
    for _ in range(2):
        await store.sent([released.id])


def test_work_that_goes_well_counts_nothing(valkey: Valkey) -> None:
    async def scenario(store: Store) -> None:
        await store.add([new("j/gate", members=1), new("j/a", gate="j/gate", gate_index=0)])
        await send_again(store)
        claim = await claimed(store, "j/a")
        assert await store.renew([claim]) == []
        assert await store.hand_on(claim, "nano", "")
        await send_again(store)
        assert await store.finish(await claimed(store, "j/a"), "ok", "")
        assert await store.finish(await claimed(store, "j/gate"), "ok", "")
        assert await store.reconcile() == []

    assert counted(valkey, scenario) == {}


def test_an_expired_claim_counts_with_the_death_of_its_worker_and_the_message_sent_for_it(valkey: Valkey) -> None:
    async def scenario(store: Store) -> None:
        await store.add([new("j/a")])
        await send_again(store)
        await claimed(store, "j/a")
        await run_out(store, "j/a")
        assert len(await store.reconcile()) == 1
        await send_again(store)

    assert counted(valkey, scenario) == {Righted.CLAIM_EXPIRED: 1, Righted.KILL: 1, Righted.RESENT: 1}


def test_a_lost_message_counts(valkey: Valkey) -> None:
    async def scenario(store: Store) -> None:
        await store.add([new("j/a")])
        await send_again(store)
        await run_out(store, "j/a")
        assert len(await store.reconcile()) == 1
        await send_again(store)

    assert counted(valkey, scenario) == {Righted.MESSAGE_LOST: 1, Righted.RESENT: 1}


def test_a_lost_message_that_comes_after_all_is_not_sent_again(valkey: Valkey) -> None:
    async def scenario(store: Store) -> None:
        await store.add([new("j/a")])
        await send_again(store)
        await run_out(store, "j/a")
        assert len(await store.reconcile()) == 1
        claim = await claimed(store, "j/a")
        assert await store.hand_on(claim, "nano", "")
        await send_again(store)

    assert counted(valkey, scenario) == {Righted.MESSAGE_LOST: 1}


def test_a_lost_chord_counts_as_a_gate_and_the_message_in_its_place_as_any_other(valkey: Valkey) -> None:
    async def scenario(store: Store) -> None:
        await store.add([new("j/gate", members=1), new("j/a", gate="j/gate", gate_index=0)])
        await send_again(store)
        await store.finish(await claimed(store, "j/a"), "ok", "")
        await run_out(store, "j/gate")
        survey = await Surveyor(store.link, NAMESPACE, TIERS).survey()
        assert (survey.watched, survey.overdue, survey.gates_overdue) == (1, 1, 1)
        assert survey.oldest_gate_s == survey.oldest_overdue_s > 0
        assert len(await store.reconcile()) == 1
        await send_again(store)
        await run_out(store, "j/gate")
        assert len(await store.reconcile()) == 1

    assert counted(valkey, scenario) == {Righted.GATE_SWEPT: 1, Righted.RESENT: 1, Righted.MESSAGE_LOST: 1}


def test_a_claim_taken_over_counts_with_the_death_of_its_worker(valkey: Valkey) -> None:
    async def scenario(store: Store) -> None:
        await store.add([new("j/a")])
        await claimed(store, "j/a")
        await run_out(store, "j/a")
        await claimed(store, "j/a")

    assert counted(valkey, scenario) == {Righted.TAKEN_OVER: 1, Righted.KILL: 1}


def test_a_quarantined_subtask_counts_once(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        store = fleet.runtime.store
        step = {"id": "write", "tier": "nano", "prompt": "Write it.", "max_output_tokens": 100}
        job_id = await fleet.submit(steps=[step, {**step, "id": "other"}])
        await fleet.run_until(job_id, "fleet.run_subtask.v1")
        for _ in range(3):
            await fleet.release()
            await claimed(store, f"{job_id}/write")
            await store.link.execute("ZADD", "fleet:watch", 0, f"{job_id}/write")
            await store.reconcile()
        await fleet.run(job_id)
        righted = (await Surveyor(store.link, "fleet", list(fleet.runtime.tiers)).survey()).righted
        assert righted["nano", Righted.QUARANTINED] == 1
        assert righted["nano", Righted.KILL] == righted["nano", Righted.CLAIM_EXPIRED] == 3

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_survey_counts_what_stands_where_and_leaves_it_there(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey, capacity=2) as store:
            surveyor = Surveyor(store.link, NAMESPACE, TIERS)
            await store.open_job("k", tenant="other", share=1)
            await store.add([new(f"j/{i}") for i in range(5)] + [new("k/0"), new("k/m", tier="mini")])
            await store.register("nano", "late", 30, 1)
            await asyncio.sleep(0.01)  # a registration is over when the server's clock says so
            assert len(await store.release("nano", 3)) == 3
            first, second = await surveyor.survey(), await surveyor.survey()
            assert first == second
            nano, mini = (first.tiers[tier] for tier in TIERS)
            assert (nano.ready, nano.out, nano.workers, nano.capacity) == (3, 3, 1, 2)
            assert (mini.ready, mini.out, mini.workers, mini.capacity) == (1, 0, 1, 2)
            assert (first.watched, first.overdue, first.oldest_overdue_s) == (3, 0, 0)
            assert not first.counts
            for job in "jk":
                assert (await surveyor.survey(job)).counts == await store.counts(job) != {}
            await store.stop("j", "paused", TIERS)
            assert (await surveyor.survey()).tiers["nano"].ready < 3, "what is paused is not waiting for workers"

    asyncio.run(scenario())


def test_a_survey_of_very_many_jobs_looks_at_a_bounded_number_of_them(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            for i in range(30):
                await store.open_job(f"j{i}", tenant=f"t{i % 3}", share=1)
            await store.add([new(f"j{i}/{part}") for i in range(30) for part in range(2)])
            reply = await store.link.call("survey", [NAMESPACE], [12, 500, "", "nano"])
            ready, *_, affordable = reply[7]
            assert ready == affordable == 24 + 18, "twelve jobs of two subtasks each, and one of every other"

    asyncio.run(scenario())


def test_a_wait_counts_from_when_nothing_was_left_to_wait_for(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/a"), new("j/b", needs=("j/a",))])
            for id_ in ("j/a", "j/b"):
                await store.link.execute("HSET", f"{NAMESPACE}:s:{id_}", "ready_at", 0)  # as if it were decades ago
            first = await claimed(store, "j/a")
            assert first.waited_ms is not None
            assert first.waited_ms > 1e12
            assert await store.hand_on(first, "nano", "")
            second = await claimed(store, "j/a")
            assert second.waited_ms in range(30_000), "it was given back just now"
            await store.finish(second, "ok", "")
            assert (await claimed(store, "j/b")).waited_ms in range(30_000), "its need has ended just now"

    asyncio.run(scenario())


def test_one_whose_message_was_lost_has_been_waiting_all_the_while(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/a")])
            await store.link.execute("HSET", f"{NAMESPACE}:s:j/a", "ready_at", 0)
            await send_again(store)
            await run_out(store, "j/a")
            assert len(await store.reconcile()) == 1
            claim = await claimed(store, "j/a")
            assert claim.waited_ms is not None
            assert claim.waited_ms > 1e12

    asyncio.run(scenario())


def test_a_subtask_of_an_earlier_version_says_nothing_of_its_wait(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/a")])
            await store.link.execute("HDEL", f"{NAMESPACE}:s:j/a", "ready_at")
            assert (await claimed(store, "j/a")).waited_ms is None

    asyncio.run(scenario())


def test_the_money_of_the_open_jobs_is_added_up_and_that_of_ended_ones_is_not(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        store, surveyor = fleet.runtime.store, fleet.runtime.surveyor
        ended = await fleet.run(await fleet.submit(steps=[STEP], budget_usd=1))
        assert ended.status.final
        await store.link.execute("ZADD", "fleet:open:default", 1, ended.id)  # an earlier version leaves it there
        jobs = [await fleet.submit(steps=[STEP], budget_usd=dollars) for dollars in (2, 3)]
        free = await fleet.submit(steps=[STEP])
        before = await surveyor.open_jobs(["default"])
        assert (before.open, before.paused, before.halted, before.nearly_used_up) == (3, 0, 0, 0)
        assert (before.caps, before.used, before.held) == (5_000_000_000, 0, 0)
        assert before.used_by["default"] == (used := (await fleet.money(ended.id))[0], used)
        await store.link.execute("HSET", f"fleet:q:{jobs[0]}", "used", 1_800_000_000, "held", 100_000_000)
        tiers = list(fleet.runtime.tiers)
        await store.stop(jobs[1], "paused", tiers)
        await store.stop(free, "paused", tiers, why="the key was refused")
        after = await surveyor.open_jobs(["default", "nobody"])
        assert (after.open, after.paused, after.halted, after.nearly_used_up) == (3, 2, 1, 1)
        assert (after.caps, after.used, after.held) == (5_000_000_000, 1_800_000_000, 100_000_000)
        assert after.used_by["nobody"] == (0, 0)
        await store.stop(free, "paused", tiers, why="a cap", short=1)
        capped = await surveyor.open_jobs([])
        assert (capped.halted, capped.at_cap) == (1, 0), "who was paused already stays so"

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_the_lookout_sees_accounts_and_tenants_with_and_without_a_limit(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        runtime = fleet.runtime
        await runtime.limiter.pause(f"openai/{GOOD}", 60)
        await runtime.limiter.shut(f"openai/{DEAR}", 60)
        day = int(await runtime.store.now()) // 86_400
        for tenant in ("frugal", "lavish"):
            await runtime.link.execute("HSET", f"fleet:day:used:{tenant}", day, 950_000_000)
        for tenant in ("default", "frugal", "not-configured"):
            await fleet.client.submit(JobSpec.model_validate({"name": "test", "steps": [STEP]}), tenant=tenant)
        seen = [
            sample
            for collector in await runtime.lookout.look()
            for metric in collector.collect()
            for sample in metric.samples
        ]
        shown = {(s.name, *s.labels.values()): s.value for s in seen}
        assert shown["tierfleet_account_paused_seconds", GOOD] > 50
        assert shown["tierfleet_account_outage", DEAR] == 1
        assert shown["tierfleet_account_outage", GOOD] == 0
        assert shown["tierfleet_open_jobs",] == 3
        assert shown["tierfleet_nearly_spent_tenants",] == 1, "of the two with a limit one is near it"

    tenants = {"frugal": {"usd_per_day": "1"}, "lavish": {"usd_per_day": "100"}}
    on_bench(scenario, valkey, tmp_path, config(tenants=tenants), sim=sim.url)


def test_the_api_shows_the_fleet_and_itself_to_an_admin(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key("default", "admin")
        assert (await api.ask("GET", "/v1/jobs/canary", key))[0] == 404
        status, text, headers = await api.ask("GET", "/metrics", key)
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        for shown in (
            'tierfleet_workers{tier="nano"} 1.0',
            "tierfleet_open_jobs 0.0",
            'tierfleet_http_requests_total{status="4xx"} 1.0',
            'tierfleet_http_answer_seconds_count{route="/v1/jobs/{job_id}"} 1.0',
            "process_resident_memory_bytes ",
        ):
            assert f"\n{shown}" in text
        assert "canary" not in text
        odd = {"Accept": "application/openmetrics-text;version=x"}
        assert (await api.ask("GET", "/metrics", key, headers=odd))[1].endswith("# EOF\n")

    on_api(scenario, valkey, tmp_path, sim)
