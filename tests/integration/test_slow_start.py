"""Jobs that begin slowly: a few subtasks at first, then twice as many as have ended; others go on beside them."""

from __future__ import annotations

import asyncio

import pytest

from fleet.config import FleetConfig
from fleet.jobs import Step
from fleet.routes import FIRST, Routes
from queues.lessons import Lessons
from queues.store import Store
from tests.support.stores import claimed, new, open_store
from tests.support.valkey import Valkey
from tests.support.worker import eventually

ANSWER = {"type": "object", "required": ["topic"], "properties": {"topic": {"type": "string"}}}


async def _released(store: Store, tier: str = "nano") -> list[str]:
    """What is released, once something is."""
    return await eventually(lambda: _now(store, tier), "something is released")


async def _now(store: Store, tier: str = "nano") -> list[str]:
    return [one.id for one in await store.release(tier, 1_000)]


async def _end(store: Store, ids: list[str], tier: str = "nano") -> None:
    for id_ in ids:
        assert await store.finish(await claimed(store, id_, tier), "ok", "")


def test_twice_as_many_as_have_ended_are_out_until_enough_have(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            await store.begin_slowly("j", 10, 0)
            await store.add([new(f"j/{n}") for n in range(600)])
            out = await _now(store)
            assert len(out) == 10
            assert await _now(store) == []
            await _end(store, out[:8])
            out = out[8:] + (more := await _released(store))
            assert len(more) == 16 - 2
            while len(out) < 300:
                await _end(store, out)
                ended, out = out, await _released(store)
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
            await store.begin_slowly("slow", 4, 0)
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
            await store.begin_slowly("j", 4, 0)
            await store.add([new(f"j/{n}") for n in range(50)])
            for id_ in await _now(store):
                assert await store.hand_on(await claimed(store, id_), "mini", "")
            above = await _now(store, "mini")
            assert len(above) == 4
            assert await _now(store) == []
            await _end(store, above, "mini")
            assert len(await _released(store)) == 8

    asyncio.run(scenario())


def test_a_job_that_is_paused_meanwhile_sends_nothing_and_goes_on_where_it_was(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            await store.begin_slowly("j", 4, 0)
            await store.add([new(f"j/{n}") for n in range(50)])
            claims = [await claimed(store, id_) for id_ in await _now(store)]
            assert await _now(store) == []
            await store.stop("j", "paused", ["nano", "mini"])
            assert all([await store.finish(claim, "ok", "") for claim in claims])
            await store.add([new("other/0")])
            assert await _released(store) == ["other/0"]
            await store.resume("j", ["nano", "mini"])
            assert len(await _released(store)) == 8

    asyncio.run(scenario())


def test_a_later_phase_begins_slowly_anew(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            await store.add([new(f"j/{n}") for n in range(50)])
            await _end(store, await _now(store))
            await store.begin_slowly("j", 4, 1)
            await store.add([new(f"j/later.{n}") for n in range(50)])
            assert len(await _now(store)) == 4

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("step", "frozen", "first"),
    [
        ({"tier": "auto"}, False, FIRST),
        ({"tier": "auto"}, True, 0),
        ({"tier": "nano"}, False, 0),
        ({"tier": "auto", "output": None}, False, 0),
    ],
)
def test_it_is_for_kinds_that_are_to_be_found_out_about(
    valkey: Valkey, step: dict[str, object], frozen: bool, first: int
) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            lessons = Lessons(store.link, store.namespace)
            routes = Routes(FleetConfig.model_validate(CONFIG | {"routing": {"frozen": frozen}}), lessons)
            fields = {"id": "do", "each": "items", "prompt": "{{ item }}", "output": ANSWER} | step
            assert await routes.first([Step.model_validate(fields)], "t") == first

    asyncio.run(scenario())


CONFIG = {
    "models": {"m": {"context_tokens": 1_000, "price": {"input": 1, "output": 1}}},
    "tiers": {tier: {"model": "m"} for tier in ("nano", "mini", "flagship")},
}
