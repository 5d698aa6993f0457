"""Jobs that begin slowly: a few subtasks at first, then twice as many as have ended; others go on beside them."""

from __future__ import annotations

import asyncio

import pytest

from fleet.config import FleetConfig
from fleet.jobs import Step
from fleet.routes import Routes
from queues.lessons import Lessons
from queues.store import Store
from tests.support.stores import claimed, new, open_store
from tests.support.valkey import Valkey

TIERS = ("nano", "mini")
ANSWER = {"type": "object", "required": ["topic"], "properties": {"topic": {"type": "string"}}}


async def _now(store: Store, tier: str = "nano") -> list[str]:
    return [one.id for one in await store.release(tier, 1_000)]


async def _end(store: Store, ids: list[str], tier: str = "nano") -> None:
    for id_ in ids:
        assert await store.finish(await claimed(store, id_, tier), "ok", "")


def test_twice_as_many_as_have_ended_are_out_until_enough_have(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            await store.begin_slowly("j", 10, 0, TIERS)
            await store.add([new(f"j/{n}") for n in range(600)])
            out = await _now(store)
            assert len(out) == 10
            assert await _now(store) == []
            await _end(store, out[:8])
            out = out[8:] + (more := await _now(store))
            assert len(more) == 16 - 2
            while len(out) < 300:
                await _end(store, out)
                ended, out = out, await _now(store)
                assert len(out) >= len(ended)
            assert await _now(store) == []
            left = 600 - (await store.counts("j"))["nano"]["final"] - len(out)
            assert left == 0

    asyncio.run(scenario())


def test_another_job_takes_the_room_that_a_slow_one_leaves(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey, capacity=40) as store:
            for job in ("slow", "known"):
                await store.open_job(job, tenant="t", share=1)
            await store.begin_slowly("slow", 4, 0, TIERS)
            await store.add([new(f"slow/{n}") for n in range(100)])
            await store.add([new(f"known/{n}") for n in range(100)])
            out = await _now(store)
            assert sum(id_.startswith("slow/") for id_ in out) == 4
            assert sum(id_.startswith("known/") for id_ in out) == 45 - 4

    asyncio.run(scenario())


def test_what_is_handed_on_counts_wherever_it_is(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            await store.begin_slowly("j", 4, 0, TIERS)
            await store.add([new(f"j/{n}") for n in range(50)])
            for id_ in await _now(store):
                assert await store.hand_on(await claimed(store, id_), "mini", "")
            above = await _now(store, "mini")
            assert len(above) == 4
            assert await _now(store) == []
            await _end(store, above, "mini")
            assert len(await _now(store)) == 8

    asyncio.run(scenario())


def test_a_job_that_is_paused_meanwhile_sends_nothing_and_goes_on_where_it_was(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            await store.begin_slowly("j", 4, 0, TIERS)
            await store.add([new(f"j/{n}") for n in range(50)])
            claims = [await claimed(store, id_) for id_ in await _now(store)]
            assert await _now(store) == []
            await store.stop("j", "paused", ["nano", "mini"])
            assert all([await store.finish(claim, "ok", "") for claim in claims])
            await store.add([new("other/0")])
            assert await _now(store) == ["other/0"]
            await store.resume("j", ["nano", "mini"])
            assert len(await _now(store)) == 8

    asyncio.run(scenario())


def test_a_later_phase_begins_slowly_anew(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            await store.add([new(f"j/{n}") for n in range(50)])
            await _end(store, await _now(store))
            await store.begin_slowly("j", 4, 1, TIERS)
            await store.add([new(f"j/later.{n}") for n in range(50)])
            assert len(await _now(store)) == 4

    asyncio.run(scenario())


def test_a_phase_that_is_opened_twice_begins_slowly_once(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            await store.begin_slowly("j", 100, 0, TIERS)
            await store.add([new(f"j/{n}") for n in range(600)])
            await _end(store, await _now(store))
            await _end(store, await _now(store))
            assert len(await _now(store)) == 300
            await store.begin_slowly("j", 100, 0, TIERS)
            await store.add([new(f"j/more.{n}") for n in range(150)])
            assert len(await _now(store)) == 150

    asyncio.run(scenario())


def test_other_tiers_are_not_held(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            await store.begin_slowly("j", 4, 0, ["nano"])
            await store.add([new(f"j/{n}") for n in range(50)])
            await store.add([new(f"j/above.{n}", tier="mini") for n in range(50)])
            assert len(await _now(store, "mini")) == 50
            assert len(await _now(store)) == 4

    asyncio.run(scenario())


def test_many_slow_jobs_keep_nobody_from_his_turn(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            for n in range(200):
                await store.open_job(f"slow{n}", tenant="t", share=1)
                await store.begin_slowly(f"slow{n}", 1, 0, TIERS)
                await store.add([new(f"slow{n}/{i}") for i in range(3)])
            out = await _now(store)
            assert len(out) == 200
            await store.open_job("z", tenant="t", share=1)
            await store.add([new("z/0")])
            assert [id_ for _ in range(10) for id_ in await _now(store)] == ["z/0"]
            await _end(store, out)
            found = [id_ for _ in range(10) for id_ in await _now(store)]
            assert len(found) == 400

    asyncio.run(scenario())


def test_of_a_cancelled_job_that_is_asked_for_again_nothing_counts_as_out(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            await store.begin_slowly("j", 4, 0, TIERS)
            gate = new("j/shard", task="gather", members=30)
            await store.add([gate])
            await store.add([new(f"j/{n}", gate="j/shard", gate_index=n) for n in range(30)])
            assert len(await _now(store)) == 4
            await store.stop("j", "cancelled", list(TIERS))
            ids = [f"j/{n}" for n in range(30)]
            await store.forget("j/shard", ids, "r", "j", entries=0, guesses=0)
            counts = (await store.counts("j"))["nano"]
            assert (counts["ready"], counts["queued"]) == (0, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("step", "fields", "tiers"),
    [
        ({"tier": "auto"}, {}, ("nano", "mini", "flagship")),
        ({"tier": "auto", "max_tier": "mini"}, {}, ("nano", "mini")),
        ({"tier": "auto"}, {"routing": {"frozen": True}}, ()),
        ({"tier": "nano"}, {}, ()),
        ({"tier": "auto", "output": None}, {}, ()),
        ({"tier": "auto", "deadline": "24h"}, {}, ()),
        ({"tier": "auto", "deadline": "1h"}, {}, ("nano", "mini", "flagship")),
    ],
)
def test_it_is_for_kinds_that_are_to_be_found_out_about(
    valkey: Valkey, step: dict[str, object], fields: dict[str, object], tiers: tuple[str, ...]
) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            routes = Routes(FleetConfig.model_validate(CONFIG | fields), Lessons(store.link, store.namespace))
            asked = {"id": "do", "each": "items", "prompt": "{{ item }}", "output": ANSWER} | step
            one = Step.model_validate(asked)
            assert await routes.unknown([(one, one.deadline)], "t") == tiers

    asyncio.run(scenario())


CONFIG = {
    "models": {
        "m": {"context_tokens": 1_000, "price": {"input": 1, "output": 1, "lanes": {"batch": 0.5}}, "batch": True}
    },
    "tiers": {
        "nano": {"model": "m", "escalate_to": "mini"},
        "mini": {"model": "m", "escalate_to": "flagship"},
        "flagship": {"model": "m"},
    },
}
