"""Lessons in the store: counted once with their charge, discounted, bounded."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from queues.lessons import Lessons
from queues.store import Store
from queues.subtasks import Charge, Lesson
from tests.support.stores import open_store
from tests.support.valkey import Valkey


def lesson(book: str = "kind", half_lives: tuple[float, ...] = (100.0,), **sums: float) -> Lesson:
    return Lesson("acme", book, half_lives, tuple(sums or {"n": 1.0} for _ in half_lives))


def charge(id_: str, *lessons: Lesson, provisional: bool = False) -> Charge:
    return Charge("r", id_, f"entry of {id_}", "j", "", 5, lessons=lessons, provisional=provisional)


def books(store: Store) -> Lessons:
    return Lessons(store.link, store.namespace)


def test_a_lesson_counts_once_however_often_its_charge_is_written(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            one = charge("call-1", lesson(n=1.0, cost=7.0))
            for _ in range(3):
                await store.settle([one])
            await store.settle([one, charge("call-2", lesson(n=1.0))])
            read = (await books(store).read("acme", "kind")).sums[1]
            # The second of two, each a hundredth of a half-life old by the next.
            assert read["n"] == pytest.approx(1 + 2**-0.01)
            assert read["cost"] == pytest.approx(7 * 2**-0.01)

    asyncio.run(scenario())


def test_what_a_guess_teaches_and_what_the_truth_does_count_once_each(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            guess, truth = charge("call", lesson(asked=1.0), provisional=True), charge("call", lesson(n=1.0))
            await store.settle([guess, guess])
            assert (await books(store).read("acme", "kind")).sums[1] == {"asked": pytest.approx(1)}
            for _ in range(2):
                await store.settle([truth])
                await store.settle([guess])
            found = (await books(store).read("acme", "kind")).sums[1]
            assert found == {"asked": pytest.approx(2**-0.01), "n": pytest.approx(1)}
            # The other order, as when a worker that was given up for lost turns up late: its guess is no news.
            late = replace(truth, id="other")
            await store.settle([late, replace(guess, id="other")])
            found = (await books(store).read("acme", "kind")).sums[1]
            assert found == {"asked": pytest.approx(2**-0.02), "n": pytest.approx(1 + 2**-0.01)}

    asyncio.run(scenario())


def test_every_half_life_has_a_clock_of_its_own_and_sums_outlive_their_numbers(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            # A lesson is a half-life, or a tenth: the sums are written anew several times on the way.
            half_lives = (1.0, 10.0)
            await store.settle([charge(f"call-{i}", lesson("kind", half_lives, n=1.0, odd=i % 2)) for i in range(700)])
            read = await books(store).read("acme", "kind")
            assert read.sums[1]["n"] == pytest.approx(2)
            assert read.sums[1]["odd"] == pytest.approx(4 / 3)
            assert read.sums[2]["n"] == pytest.approx(1 / (1 - 2**-0.1))
            # Nothing added: the clock goes on alone.
            idle = Lesson("acme", "kind", half_lives, ({}, {}))
            await store.settle([charge(f"idle-{i}", idle) for i in range(10)])
            read = await books(store).read("acme", "kind")
            assert read.sums[1]["n"] == pytest.approx(2 / 1024)
            assert read.sums[2]["n"] == pytest.approx(0.5 / (1 - 2**-0.1))

    asyncio.run(scenario())


def test_the_oldest_of_too_many_books_is_dropped_and_all_go_when_unused(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            for i in range(500):
                await store.settle([charge(f"call-{i}", lesson(f"kind:{i}"))])
            await asyncio.sleep(0.002)  # books written in one millisecond have no order
            await store.settle([charge("again", lesson("kind:0")), charge("more", lesson("kind:more"))])
            found = await books(store).books("acme")
            assert len(found) == 500
            assert {"kind:0", "kind:more"} <= found.keys()
            assert "kind:1" not in found
            assert (await books(store).read("acme", "kind:1")).sums == {}
            for key in ("acme", "acme:kind:0"):
                left = await store.link.execute("TTL", f"{store.namespace}:learned:{key}")
                assert 80 * 86_400 < left <= 90 * 86_400

    asyncio.run(scenario())


def test_notes_stay_as_they_are_and_need_a_book(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await books(store).note("acme", "kind", {"choice": "mini"})
            assert (await books(store).read("acme", "kind")).notes == {}
            await store.settle([charge("call", lesson())])
            await books(store).note("acme", "kind", {"choice": "mini"})
            await store.settle([charge("call-2", lesson())])
            assert (await books(store).read("acme", "kind")).notes == {"choice": "mini"}

    asyncio.run(scenario())


def test_what_is_written_down_in_anothers_place_is_learned_once(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            its, one, back = books(store), (lesson(n=1.0),), (lesson(n=-1.0),)

            async def learned() -> float:
                return (await its.read("acme", "kind")).sums[1]["n"]

            # The reply was lost, and the same call comes again.
            for _ in range(2):
                assert await its.amend("j", "memo", None, "first", one)
            assert await learned() == pytest.approx(1)
            # Two at once: what one of them found there is gone.
            assert await its.amend("j", "memo", "first", "second", back)
            assert not await its.amend("j", "memo", "first", "third", one)
            assert not await its.amend("j", "memo", None, "third", one)
            assert await store.memo("j", "memo") == "second"
            assert await learned() == pytest.approx(2**-0.01 - 1)

    asyncio.run(scenario())
