"""Subtasks at which two workers have died, against a real Valkey: only the one that kills is given up, nobody waits for ever."""

from __future__ import annotations

import asyncio

from queues.store import Store
from queues.subtasks import Claim, Refusal
from tests.support.stores import claimed, new, open_store
from tests.support.valkey import Valkey


def test_suspects_run_one_at_a_time_so_that_only_the_cause_reaches_three_deaths(valkey: Valkey) -> None:
    """Three subtasks in flight in one worker; one of them kills it, whenever it runs."""

    async def scenario() -> None:
        async with open_store(valkey) as store:
            ids = ["j/innocent", "j/poison", "j/bystander"]
            await store.add([new(id_) for id_ in ids])
            held: dict[str, Claim] = {}
            ends: dict[str, int] = {}
            for _ in range(20):
                for released in await store.release("nano", 10):
                    claim = await claimed(store, released.id)
                    if claim.kills < 3:
                        held[released.id] = claim
                    else:
                        await store.finish(claim, "failed", "")
                        ends[released.id] = claim.kills
                if "j/poison" in held:  # the worker dies, with everything it holds
                    await store.link.execute("ZADD", "test:watch", *[word for id_ in held for word in (0, id_)])
                    held.clear()
                for id_, claim in held.items():
                    assert await store.finish(claim, "ok", "")
                    ends[id_] = claim.kills
                held.clear()
                await store.reconcile()
            assert ends == {"j/innocent": 2, "j/poison": 3, "j/bystander": 2}

    asyncio.run(scenario())


def test_suspects_run_one_at_a_time_even_when_earlier_messages_had_them_claimed(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/a"), new("j/b")])
            for _ in range(2):  # claimed while they are ready, they stay in the list of their lane
                for id_ in ("j/a", "j/b"):
                    await claimed(store, id_)
                await store.link.execute("ZADD", "test:watch", 0, "j/a", 0, "j/b")
                await store.reconcile()
            assert [one.id for one in await store.release("nano", 10)] == ["j/a"]

    asyncio.run(scenario())


def test_a_suspect_waits_while_its_job_is_paused_and_is_dropped_with_a_cancelled_one(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("paused/a"), new("cancelled/a"), new("free/a")])
            for _ in range(2):
                for released in await store.release("nano", 10):
                    await claimed(store, released.id)
                await store.link.execute("ZADD", "test:watch", 0, "paused/a", 0, "cancelled/a", 0, "free/a")
                await store.reconcile()
            await store.stop("paused", "paused", ["nano"])
            await store.stop("cancelled", "cancelled", ["nano"])
            assert [one.id for one in await store.release("nano", 10)] == ["free/a"]
            await store.finish(await claimed(store, "free/a"), "ok", "")
            assert await store.claim("paused/a", "nano") == Refusal("busy"), "a message of old does not free it"
            assert await store.release("nano", 10) == []
            assert await store.resume("paused", ["nano"])
            assert [one.id for one in await store.release("nano", 10)] == ["paused/a"]

    asyncio.run(scenario())


def test_suspects_run_side_by_side_in_different_workers_only(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as one, open_store(valkey) as other:
            await one.register("nano", "another", 10, 600_000)
            await one.add([new("j/a"), new("j/b"), new("j/c")])
            for _ in range(2):
                for released in await one.release("nano", 10):
                    await claimed(one, released.id)
                await one.link.execute("ZADD", "test:watch", 0, "j/a", 0, "j/b", 0, "j/c")
                await one.reconcile()
            assert [released.id for released in await one.release("nano", 10)] == ["j/a", "j/b"], (
                "there are two workers"
            )
            first = await claimed(one, "j/a")
            assert await one.claim("j/b", "nano") == Refusal("busy"), "this worker has one"
            assert [released.id for released in await one.release("nano", 10)] == ["j/b"], "it is the next all the same"
            await claimed(other, "j/b")
            await one.finish(first, "ok", "")
            assert [released.id for released in await one.release("nano", 10)] == ["j/c"]
            assert (await claimed(one, "j/c")).kills == 2

    asyncio.run(scenario())


def test_suspects_whose_group_died_run_alone_from_then_on(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as one, open_store(valkey) as other:
            ids = [f"j/{number}" for number in range(9)]
            await one.add([new(id_) for id_ in ids])
            for _ in range(2):
                for released in await one.release("nano", 20):
                    await claimed(one, released.id)
                await one.link.execute("ZADD", "test:watch", *[word for id_ in ids for word in (0, id_)])
                await one.reconcile()
            group = [released.id for released in await one.release("nano", 20)]
            assert group == ids[:3]
            for id_ in group:
                assert (await claimed(one, id_)).kills == 2
            await one.link.execute("ZADD", "test:watch", *[word for id_ in group for word in (0, id_)])
            await one.reconcile()
            for expected in (ids[3:6], ids[6:]):
                assert [released.id for released in await one.release("nano", 20)] == expected
                for id_ in expected:
                    await one.finish(await claimed(one, id_), "ok", "")
            await one.register("nano", "another", 10, 600_000)
            assert [released.id for released in await one.release("nano", 20)] == group[:2]
            assert (await claimed(one, group[0])).kills == 2
            await one.link.execute("SET", "test:sus:nano:most", 3)  # as after many more have come
            assert await one.claim(group[1], "nano") == Refusal("busy")
            assert [released.id for released in await one.release("nano", 20)] == [group[1]]
            assert (await claimed(other, group[1])).kills == 2

    asyncio.run(scenario())


def test_a_suspect_that_is_given_back_does_not_keep_the_others_from_their_turn(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            ids = ["j/a", "j/b", "j/c"]
            await store.add([new(id_) for id_ in ids])
            for _ in range(2):
                for released in await store.release("nano", 20):
                    await claimed(store, released.id)
                await store.link.execute("ZADD", "test:watch", *[word for id_ in ids for word in (0, id_)])
                await store.reconcile()
            turns = []
            for _ in range(4):
                (released,) = await store.release("nano", 20)
                turns.append(released.id)
                await store.hand_on(await claimed(store, released.id), "nano", "")
            assert turns == ["j/a", "j/b", "j/c", "j/a"]
            (lost,) = await store.release("nano", 20)
            await store.link.execute("ZADD", "test:watch", 0, lost.id)
            await store.reconcile()
            assert [one.id for one in await store.release("nano", 20)] == [lost.id], "it has not had its turn"

    asyncio.run(scenario())


def test_nobody_joins_a_suspect_that_is_to_be_alone_nor_is_it_let_in_beside_others(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as one, open_store(valkey) as other:
            await one.register("nano", "another", 10, 600_000)
            await _died_twice(one, ["j/a", "j/b", "j/c", "j/d"])
            await one.link.execute("HSET", "test:s:j/a", "alone", 1)
            assert [released.id for released in await one.release("nano", 20)] == ["j/a", "j/b"]
            await one.link.execute("SET", "test:sus:nano:most", 3)  # as after many more have come
            await claimed(one, "j/a")
            assert await one.claim("j/b", "nano") == Refusal("busy"), "it would be beside one that is to be alone"
            assert [released.id for released in await one.release("nano", 20)] == ["j/b"]
            await claimed(other, "j/b")
            await one.finish(
                Claim("j/a", "nano", int((await one.fields("j/a", "fence"))[0] or 0), "", "", 2, 3), "ok", ""
            )
            assert [released.id for released in await one.release("nano", 20)] == ["j/c"]
            await one.link.execute("HSET", "test:s:j/c", "alone", 1)
            await one.link.execute("SET", "test:sus:nano:most", 3)
            assert await other.claim("j/c", "nano") == Refusal("busy"), "it is to be alone"
            assert [released.id for released in await one.release("nano", 20)] == ["j/c"]
            await claimed(one, "j/c")

    asyncio.run(scenario())


def test_a_suspect_that_is_alone_takes_the_place_of_a_group(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await _died_twice(store, [f"j/{number}" for number in range(9)])
            await store.link.execute("HSET", "test:s:j/0", "alone", 1)
            assert [released.id for released in await store.release("nano", 20)] == ["j/0"]
            assert await store.release("nano", 20) == []

    asyncio.run(scenario())


def test_a_suspect_cancelled_on_its_way_does_not_hold_up_the_others(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await _died_twice(store, ["cancelled/review.1", "j/a"])
            assert [released.id for released in await store.release("nano", 20)] == ["cancelled/review.1"]
            await store.stop("cancelled", "cancelled", ["nano"])
            assert await store.claim("cancelled/review.1", "nano") == Refusal("gone")
            assert [released.id for released in await store.release("nano", 20)] == ["j/a"]

    asyncio.run(scenario())


def test_many_suspects_run_in_groups_and_a_death_among_them_counts_for_none(valkey: Valkey) -> None:
    """Two workers of forty were lost: the harmless are soon done, and the one that kills is found all the same."""

    async def scenario() -> None:
        async with open_store(valkey) as store:
            ids = [f"j/{number}" for number in range(40)]
            await store.add([new(id_) for id_ in ids])
            ends: dict[str, int] = {}
            rounds = deaths = 0
            while len(ends) < len(ids) and rounds < 100:
                rounds += 1
                claims = [await claimed(store, released.id) for released in await store.release("nano", 100)]
                quarantined = [claim for claim in claims if claim.kills >= 3]
                for claim in quarantined:
                    await store.finish(claim, "failed", "")
                    ends[claim.id] = claim.kills
                running = [claim for claim in claims if claim.kills < 3]
                if any(claim.id == "j/7" or claim.kills < 2 for claim in running):
                    deaths += 1
                    await store.link.execute(
                        "ZADD", "test:watch", *[word for claim in running for word in (0, claim.id)]
                    )
                else:
                    for claim in running:
                        assert await store.finish(claim, "ok", "")
                        ends[claim.id] = claim.kills
                await store.reconcile()
            assert ends == {id_: 3 if id_ == "j/7" else 2 for id_ in ids}
            assert deaths <= 6
            assert rounds < 30, "not one by one"

    asyncio.run(scenario())


async def _died_twice(store: Store, ids: list[str]) -> None:
    """Add subtasks, and let two workers die at each."""
    await store.add([new(id_) for id_ in ids])
    for _ in range(2):
        for released in await store.release("nano", 100):
            await claimed(store, released.id)
        await store.link.execute("ZADD", "test:watch", *[word for id_ in ids for word in (0, id_)])
        await store.reconcile()
