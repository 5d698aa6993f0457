"""Lots in the store: gathered until they are full or have waited, joined once, put by, and ended for all at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from queues.lots import Family, Lots
from queues.quotas import Quotas
from queues.store import Store
from queues.subtasks import Claim, Intent, Refused, State
from tests.support.stores import claimed, new, open_store
from tests.support.valkey import Valkey

FAMILY = Family("lots/j.0", "j", "carry", "coordinator", "payload", most=2, most_size=100, patience_ms=60_000)


def intent(claim: Claim, amount: int = 5) -> Intent:
    return Intent("j", claim.id, f"{claim.id}.call", amount, "note", claim.id, claim.fence)


async def ready(store: Store, number: int) -> list[Claim]:
    ids = [f"j/a/{at}" for at in range(number)]
    await store.register("coordinator", "w", 100, 600_000)
    await store.open_job("j", tenant="t", share=1)
    await store.add([new(id_) for id_ in ids])
    return [await claimed(store, id_) for id_ in ids]


async def state(store: Store, id_: str) -> list[str | None]:
    return await store.fields(id_, "state", "tier")


def test_who_joins_waits_with_its_money_held_until_the_lot_has_ended(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            lots = Lots(store)
            first, second, third = await ready(store, 3)
            assert await lots.join(first, FAMILY, 10, "its trail", intent(first)) is None
            assert await lots.join(first, FAMILY, 10, "its trail", intent(first)) is None, "the reply was lost"
            assert await store.release("coordinator", 9) == [], "it gathers"
            assert await lots.join(second, FAMILY, 10, "", intent(second)) is None
            (due,) = await store.release("coordinator", 9)
            assert (due.id, due.task) == ("lots/j.0.1", "carry")
            assert await lots.join(third, FAMILY, 10, "", intent(third)) is None
            assert await lots.unended("j") == ["lots/j.0.1", "lots/j.0.2"]
            assert await lots.members("lots/j.0.1") == {first.id, second.id}
            assert (await store.quota("j"), len(await store.unsettled("j"))) == ((None, 0, 15), 3)
            assert await state(store, first.id) == [State.WAITING, "nano"]
            assert await store.release("nano", 9) == []

            carrier = await claimed(store, "lots/j.0.1", "coordinator")
            assert carrier.payload == "payload"
            assert await store.finish(carrier, "ok", "where the answers are")
            assert {one.id for one in await store.release("nano", 9)} == {first.id, second.id}
            again = await claimed(store, first.id)
            assert (again.trail, again.kills) == ("its trail", 0)
            assert await lots.output_of(first.id) == "where the answers are"
            assert await lots.output_of(third.id) is None
            assert await lots.unended("j") == ["lots/j.0.2"]
            # The lot that is left is due once it has gathered for long enough.
            await store.link.execute("ZADD", f"{store.namespace}:watch", 1, "lots/j.0.2")
            assert await store.reconcile() == [], "nothing is wrong with it"
            assert [one.id for one in await store.release("coordinator", 9)] == ["lots/j.0.2"]

    asyncio.run(scenario())


def test_a_lot_that_is_full_by_size_or_was_claimed_takes_nobody_in(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            lots, wide = Lots(store), replace(FAMILY, most=50)
            claims = await ready(store, 4)
            for claim, size in zip(claims, (60, 60, 40, 1), strict=True):
                assert await lots.join(claim, wide, size, "", intent(claim)) is None
            assert [await lots.members(f"lots/j.0.{n}") for n in (1, 2, 3)] == [
                {claims[0].id},
                {claims[1].id, claims[2].id},
                {claims[3].id},
            ]
            carrier = await claimed(store, "lots/j.0.3", "coordinator")
            assert await lots.put_by(carrier, "how far it is", 60)
            assert await lots.put_by(carrier, "how far it is", 60), "the reply was lost"
            (late,) = await _more(store, "j/late")
            assert await lots.join(late, wide, 1, "", intent(late)) is None
            assert await lots.members("lots/j.0.4") == {late.id}
            assert (await claimed(store, "lots/j.0.3", "coordinator")).trail == "how far it is"
            assert not await lots.put_by(carrier, "", 60), "another has the claim"

    asyncio.run(scenario())


def test_a_lot_lets_all_go_on_and_itself_goes_on(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            lots = Lots(store)
            first, second = await ready(store, 2)
            for claim in (first, second):
                assert await lots.join(claim, FAMILY, 1, "its trail", intent(claim)) is None
            earlier = await claimed(store, "lots/j.0.1", "coordinator")
            assert await lots.put_by(earlier, "", 60)
            carrier = await claimed(store, "lots/j.0.1", "coordinator")
            assert not await lots.dismiss(earlier, "too late"), "another has the claim"
            assert await lots.members("lots/j.0.1") == {first.id, second.id}
            for _ in range(2):  # the reply was lost
                assert await lots.dismiss(carrier, "what it has for them")
            assert {one.id for one in await store.release("nano", 9)} == {first.id, second.id}
            assert (await claimed(store, first.id)).trail == "its trail"
            assert await lots.output_of(first.id) == "what it has for them"
            assert await lots.unended("j") == ["lots/j.0.1"]
            assert await lots.members("lots/j.0.1") == set()
            assert (await store.quota("j"))[2] == 10, "what they hold is none of its business"
            assert await store.finish(carrier, "ok", "its end")
            assert await state(store, second.id) == [State.QUEUED, "nano"], "it is not woken twice"
            assert await lots.unended("j") == []

    asyncio.run(scenario())


def test_nobody_joins_without_claim_money_or_a_job_that_runs(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            lots = Lots(store)
            first, second = await ready(store, 2)
            stale = replace(first, fence=first.fence - 1)
            assert await lots.join(stale, FAMILY, 1, "", intent(stale)) == Refused("stale")
            await Quotas(store.link, store.namespace).set_cap("j", 8)
            assert await lots.join(first, FAMILY, 1, "", intent(first)) is None
            assert await lots.join(second, FAMILY, 1, "", intent(second)) == Refused("short", cap=8, others=5)
            assert await state(store, second.id) == [State.RUNNING, "nano"]
            await store.stop("j", "paused", ["nano"])
            assert await lots.join(second, FAMILY, 1, "", intent(second, 1)) == Refused("paused")
            assert await lots.members("lots/j.0.1") == {first.id}

    asyncio.run(scenario())


async def _more(store: Store, *ids: str) -> list[Any]:
    await store.add([new(id_) for id_ in ids])
    return [await claimed(store, id_) for id_ in ids]
