"""Routing over the real store and a provider on a correctness table: what is learned, by whom, and what it changes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.config import FleetConfig
from fleet.jobs import JobStatus, Step
from fleet.ledger import Compared, LedgerEntry
from fleet.routes import Route, Routes, arms_of
from fleet.routing import START
from fleet.sim.settings import SimSettings
from fleet.sim.table import KindTable, Table
from fleet.trust import MANY
from queues.lessons import Lessons
from queues.store import Store
from queues.subtasks import Charge, Released
from tests.support.bench import BREAKS, DEAR, GOOD, Bench, books, config, on_bench
from tests.support.sim import RunningSim, running_sim
from tests.support.stores import open_store
from tests.support.valkey import Valkey

ANSWER = {
    "type": "object",
    "additionalProperties": False,
    "required": ["answer"],
    "properties": {"answer": {"type": "string", "pattern": "^ok-"}},
}
#: `breaks`, `good` and `dear` are the models of nano, mini and flagship here.
TIERS = (BREAKS, GOOD, DEAR)
HARD = KindTable(right={"nano": 0.0, "mini": 1.0, "flagship": 1.0})


@pytest.fixture(scope="module")
def tabled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSim]:
    folder = tmp_path_factory.mktemp("tabled")
    (folder / "table.json").write_text(Table(kinds={"topic-hard": HARD, "code-hard": HARD}).model_dump_json())
    with running_sim(folder, SimSettings(speed=1000, table=folder / "table.json"), config(*TIERS)) as running:
        yield running


def step(kind: str, **fields: object) -> dict[str, object]:
    return {"id": "do", "each": "items", "kind": kind, "prompt": "Case {{ item }}", "output": ANSWER} | fields


def cases(kind: str, count: int) -> list[str]:
    return [f"{kind}/{number}" for number in range(count)]


def entry(
    tenant: str,
    kind: str,
    tier: str,
    role: str = "work",
    *,
    came_from: str | None = None,
    status: str = "ok",
    cost: int = 5,
) -> LedgerEntry:
    told = {"tenant": tenant, "kind": kind, "tier": tier, "role": role, "came_from": came_from, "status": status}
    call = {"call_id": "c", "job": "j", "model": "m", "provider": "p", "started_at": 0, "finished_at": 0}
    return LedgerEntry.model_validate(call | told | {"cost_nano_usd": cost})


def test_what_failed_on_nano_is_learned_counted_where_it_came_from_and_nano_skipped(
    valkey: Valkey, tmp_path_factory: pytest.TempPathFactory, tabled: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(
            await fleet.submit(items=cases("topic-hard", 40), steps=[step("topic-hard", tier="nano")])
        )
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job.id)
        assert Counter((entry.tier, entry.status) for entry in ledger) == {("nano", "rejected"): 40, ("mini", "ok"): 40}
        assert await fleet.money(job.id) == (books(ledger, tabled.charges(), job.id), 0)
        (route,) = await fleet.runtime.routes.look("default")
        nano, mini = route.arms["nano", START], route.arms["mini", "nano"]
        assert nano.accepted == 0
        assert 35 < nano.n < 40
        assert mini.accepted == pytest.approx(mini.n)
        spent = sum(entry.cost_nano_usd for entry in ledger if entry.tier == "mini") / 40
        assert mini.cost / mini.n == pytest.approx(spent, rel=0.05)
        assert route.choice == "mini"
        assert route.odds["nano"] < 0.1
        # A fixed tier has taught what `auto` does now; another tenant is as ignorant as before.
        again = await fleet.run(
            await fleet.submit(items=cases("topic-hard", 20), steps=[step("topic-hard", tier="auto")])
        )
        first = Counter(outcome.attempts for outcome in (await fleet.outcomes(again)).values())
        assert first[1] >= 16
        auto = Step.model_validate(step("topic-hard", tier="auto"))
        fresh = Routes(fleet.runtime.config, Lessons(fleet.runtime.link, "fleet"))
        chosen = Counter([await fresh.start(auto, "other", f"j/do/{i}") for i in range(50)])
        assert chosen["nano"] > 5

    on_bench(scenario, valkey, tmp_path_factory.mktemp("b"), config(*TIERS), sim=tabled.url)


def test_at_its_claim_a_subtask_is_asked_again_and_moves_without_a_call(
    valkey: Valkey, tmp_path_factory: pytest.TempPathFactory, tabled: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        steps = [step("topic-hard", tier="auto", max_tier="mini")]
        job_id = await fleet.submit(items=cases("topic-hard", 30), steps=steps)
        # Sent on their way while nothing was known; by the time they are claimed it is.
        sent: list[tuple[Released, str]] = []
        while not any(tier == "nano" for _, tier in sent):
            released = await fleet.release()
            sent = [(one, tier) for one, tier in released if "/do/" in one.id]
            await asyncio.gather(*(fleet.perform(one, tier) for one, tier in released if "/do/" not in one.id))
            if not released:
                await fleet.runtime.store.reconcile()
        lessons = [
            fleet.runtime.routes.taught(entry("default", "topic-hard", tier, status=status, cost=1_000))
            for tier, status in (("nano", "rejected"), ("mini", "ok"))
        ]
        taught = [Charge("x", f"x-{i}", "{}", "x", "", 0, lessons=lessons[i % 2]) for i in range(200)]
        await Store.settle(fleet.runtime.store, taught)
        # What the process knew a second ago is not asked for again on the way.
        fleet.runtime.routes._known.clear()
        await asyncio.gather(*(fleet.perform(one, tier) for one, tier in sent))
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        ledger = await fleet.ledger(job_id)
        assert {entry.tier for entry in ledger} == {"mini"}
        assert len(ledger) == 30
        assert sum(tier == "nano" for _, tier in sent) > 10

    on_bench(scenario, valkey, tmp_path_factory.mktemp("b"), config(*TIERS), sim=tabled.url)


def test_frozen_learns_nothing_and_follows_the_means(
    valkey: Valkey, tmp_path_factory: pytest.TempPathFactory, tabled: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(
            await fleet.submit(items=cases("topic-hard", 25), steps=[step("topic-hard", tier="auto")])
        )
        ledger = await fleet.ledger(job.id)
        assert Counter(entry.tier for entry in ledger) == {"nano": 25, "mini": 25}
        assert await fleet.runtime.routes.look("default") == []

    frozen = config(*TIERS, routing={"frozen": True})
    on_bench(scenario, valkey, tmp_path_factory.mktemp("b"), frozen, sim=tabled.url)


def test_the_choice_of_a_subtask_is_the_same_when_it_is_asked_again_and_hangs_on_the_seed(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            auto = Step.model_validate(step("summary", tier="auto"))

            async def chosen(seed: int) -> list[str]:
                routes = Routes(config(routing={"seed": seed}), Lessons(store.link, store.namespace))
                return [await routes.start(auto, "acme", f"j/do/{i}") for i in range(60)]

            first = await chosen(1)
            assert first == await chosen(1)
            assert first != await chosen(2)
            assert len(set(first)) > 1
            fixed = Step.model_validate(step("summary", tier="mini"))
            routes = Routes(config(), Lessons(store.link, store.namespace))
            assert await routes.start(fixed, "acme", "j/do/0") == "mini"
            assert await routes.next(fixed, "mini", "acme", "j/do/0") == "flagship"
            assert await routes.next(auto, "flagship", "acme", "j/do/0") is None

    asyncio.run(scenario())


def test_a_kind_may_be_called_anything(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            routes = Routes(config(), Lessons(store.link, store.namespace))
            for number, kind in enumerate(("a:b", "ü" * 300, "1:n:nano:", "*")):
                lessons = routes.taught(entry("acme", kind, "nano", came_from="mini"))
                await store.settle([Charge("r", f"c-{number}", json.dumps({}), "j", "", 0, lessons=lessons)])
            found = await routes.look("acme")
            assert len(found) == 4
            assert all(route.arms["nano", "mini"].accepted == pytest.approx(1) for route in found)
            fleets = arms_of(await Lessons(store.link, store.namespace).read("", "*"))
            assert fleets["nano", "mini"].n == pytest.approx(4, rel=0.01)

    asyncio.run(scenario())


def test_what_a_lane_took_off_is_not_learned(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            routes = Routes(config(), Lessons(store.link, store.namespace))
            half = entry("acme", "topic", "nano", cost=500).model_copy(update={"compared": Compared(lane_saved=500)})
            for number, its in enumerate((half, entry("acme", "topic", "nano", cost=1_000))):
                lessons = routes.taught(its)
                await store.settle([Charge("r", f"c-{number}", "{}", "j", "", 0, lessons=lessons)])
            (route,) = await routes.look("acme")
            arm = route.arms["nano", START]
            assert arm.cost / arm.n == pytest.approx(1_000)

    asyncio.run(scenario())


def test_audits_push_the_start_above_a_tier_whose_answers_are_too_often_wrong(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            fleet_config: FleetConfig = config(audit={"floor": 0.95})
            routes = Routes(fleet_config, Lessons(store.link, store.namespace))
            charges = []
            for number in range(60):
                good = routes.taught(entry("acme", "topic", "nano"))
                audit = routes.taught(
                    entry(
                        "acme",
                        "topic",
                        "flagship",
                        "audit",
                        came_from="nano",
                        status="rejected" if number % 2 else "ok",
                    )
                )
                charges.append(Charge("r", f"work-{number}", "{}", "j", "", 0, lessons=good))
                charges.append(Charge("r", f"audit-{number}", "{}", "j", "", 0, lessons=audit))
            await store.settle(charges[:60])
            assert [route.choice for route in await routes.look("acme")] == ["mini"]
            await store.settle(charges)
            (route,) = await routes.look("acme")
            assert route.barred == {"nano"}
            assert route.audits["nano"].right / route.audits["nano"].audited == pytest.approx(0.5, abs=0.02)
            assert route.odds["nano"] == 0

    asyncio.run(scenario())


def test_frozen_counts_audits_which_move_nothing_until_it_thaws(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            lessons = Lessons(store.link, store.namespace)
            settings: dict[str, Any] = {"audit": {"share": "auto", "floor": 0.95}}
            thawed, frozen = config(**settings), config(routing={"frozen": True}, **settings)
            topic = Step.model_validate(step("topic", tier="auto"))
            numbers = iter(range(10_000))

            async def teach(fleet_config: FleetConfig, *entries: LedgerEntry, asked: bool = False) -> None:
                routes = Routes(fleet_config, lessons)
                learns = routes.asked if asked else routes.taught
                await store.settle(
                    [Charge("r", f"c-{next(numbers)}", "{}", "j", "", 0, lessons=learns(one)) for one in entries]
                )

            async def known(fleet_config: FleetConfig) -> tuple[Route, str, float]:
                routes = Routes(fleet_config, lessons)
                (route,) = await routes.look("acme")
                share = await routes.audit_share(topic, "acme", "nano")
                return route, await routes.start(topic, "acme", None), share

            work, wrong = entry("acme", "topic", "nano"), entry("acme", "topic", "flagship", "audit", came_from="nano")
            wrong = wrong.model_copy(update={"status": "rejected"})
            await teach(thawed, *[work] * 40)
            before, start, first_share = await known(frozen)
            assert (start, first_share) == ("nano", MANY)
            await teach(frozen, *[work] * 10, *[work.model_copy(update={"status": "rejected"})] * 10)
            await teach(frozen, *[work] * 30, asked=True)
            await teach(frozen, *[wrong] * 30)
            route, start, share = await known(frozen)
            assert route.arms == before.arms, "not even older"
            assert (route.choice, start) == ("nano", "nano"), "a kind goes on starting where it did"
            assert route.audits["nano"].audited == pytest.approx(30, rel=0.01)
            assert route.barred == {"nano"}, "what was found is shown"
            assert share < first_share, "the first audits are over"
            # As soon as it is not frozen any more, what was found counts.
            route, start, _ = await known(thawed)
            assert (route.choice, start) == ("mini", "mini")
            assert (await known(frozen))[1] == "mini", "frozen again it stays where it is by now"
            # Nor does a kind move of which nothing was known when it was frozen.
            other = Step.model_validate(step("topic-2", tier="auto"))
            assert await Routes(frozen, lessons).start(other, "acme", None) == "nano"
            await teach(frozen, *[wrong.model_copy(update={"kind": "topic-2"})] * 30)
            for _ in range(2):
                assert await Routes(frozen, lessons).start(other, "acme", None) == "nano"

    asyncio.run(scenario())


def test_a_verdict_that_takes_anothers_place_is_counted_once(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            lessons = Lessons(store.link, store.namespace)
            routes, stands = Routes(config(), lessons), None

            async def said(right: bool, before: bool | None) -> tuple[float, float]:
                nonlocal stands
                body = f"{right} {before}"
                taught = routes.judged("acme", "topic", "nano", right, before)
                assert await lessons.amend("j", "memo", stands, body, taught)
                stands = body
                (route,) = await routes.look("acme")
                return route.audits["nano"].audited, route.audits["nano"].right

            assert await said(True, None) == pytest.approx((1, 1))
            assert await said(False, True) == pytest.approx((1, 0), abs=0.01)
            assert await said(True, False) == pytest.approx((1, 1), abs=0.01)
            assert routes.judged("acme", "topic", "nano", True, True) == ()

    asyncio.run(scenario())
