"""Release at the pace of an account: what could not start soon stays in the backlog, where who comes later may overtake."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from queues.limits import Limiter, Permit
from queues.link import Link
from queues.store import Store
from queues.tiers import Allowance, Pace
from tests.support.stores import NAMESPACE, new, open_store
from tests.support.valkey import Valkey
from tests.support.virtual_clock import at, virtual_clock

BEGAN_MS = 1_000_000_000_000


class Fleet:
    """A store with a hundred subtasks of one job and room for all of them, and the account that they wait for."""

    def __init__(self, store: Store, pace: Pace) -> None:
        self.store = store
        self.pace = pace
        self.limiter = Limiter(store.link, NAMESPACE)
        self.started: list[str] = []

    async def at(self, seconds: float) -> None:
        await self.store.link.execute(*at(NAMESPACE, BEGAN_MS + round(seconds * 1000)))

    async def release(self, tier: str = "nano") -> list[str]:
        return [one.id for one in await self.store.release(tier, 1_000, self.pace)]

    async def start(self, ids: list[str], *, tokens: int = 1) -> list[int]:
        """Ask for permits; the waits."""
        self.started += ids
        asked = (self.limiter._ask("m", self.pace.allowance, tokens, id_, 90, 75, confirm=False) for id_ in ids)
        return [reply[0] for reply in await asyncio.gather(*asked)]


def on_fleet(valkey: Valkey, pace: Pace, scenario: Callable[[Fleet], Awaitable[None]]) -> None:
    async def run() -> None:
        link = Link.from_url(valkey.url)
        await link.execute(*at(NAMESPACE, BEGAN_MS))
        await link.aclose()
        async with open_store(valkey) as store:
            fleet = Fleet(store, pace)
            await store.open_job("j", tenant="t", share=1)
            await store.add([new(f"j/{n}") for n in range(100)])
            await scenario(fleet)

    with virtual_clock():
        asyncio.run(run())


def pace(tiers: tuple[str, ...] = ("nano",), *, elsewhere: bool = False, **limits: Any) -> Pace:
    return Pace("m", Allowance(**limits), tiers, elsewhere)


def test_no_more_leaves_the_backlog_than_can_start_within_a_second(valkey: Valkey) -> None:
    async def scenario(fleet: Fleet) -> None:
        assert 9 <= len(await fleet.start(await fleet.release())) <= 11, "ten a second"
        assert len(await fleet.release()) <= 2, "and a little more for those that come back"
        waits, released = [], 0
        for quarter in range(1, 33):
            await fleet.at(quarter / 4)
            ids = await fleet.release()
            released += len(ids)
            waits += await fleet.start(ids)
        assert 75 <= released <= 90, "in eight seconds"
        assert max(waits) <= 1_200

    on_fleet(valkey, pace(requests_per_minute=600), scenario)


def test_an_interactive_job_overtakes_what_waits_for_a_limit(valkey: Valkey) -> None:
    async def scenario(fleet: Fleet) -> None:
        await fleet.start(await fleet.release())
        await fleet.store.open_job("now", tenant="other", share=16)
        await fleet.store.add([new("now/0")])
        await fleet.at(1)
        released = await fleet.release()
        assert "now/0" in released[:2]
        assert max(await fleet.start(released)) <= 1_100

    on_fleet(valkey, pace(requests_per_minute=60), scenario)


def test_calls_of_many_tokens_leave_as_fast_as_their_like_started(valkey: Valkey) -> None:
    async def scenario(fleet: Fleet) -> None:
        await fleet.start(await fleet.release(), tokens=600)  # nothing is known of their size yet
        await fleet.at(30)
        released = len(await fleet.release())
        assert 1 <= released <= 2, "60,000 tokens a minute are 1.7 calls of 600 a second"

    on_fleet(valkey, pace(tokens_per_minute=60_000), scenario)


def test_a_paused_account_releases_nothing_until_shortly_before_its_end(valkey: Valkey) -> None:
    async def scenario(fleet: Fleet) -> None:
        await fleet.limiter.pause("m", 30)
        assert await fleet.release() == []
        await fleet.at(29.5)
        assert await fleet.release() != []

    on_fleet(valkey, pace(requests_per_minute=600), scenario)


def test_of_an_account_with_places_a_few_wait_beside_those_that_call(valkey: Valkey) -> None:
    async def scenario(fleet: Fleet) -> None:
        released = await fleet.release()
        assert len(released) == 10
        await fleet.start(released)
        assert await fleet.release() == []
        for id_ in released[:4]:
            await fleet.limiter.settle(Permit(id_, "m", fleet.pace.allowance, 1, 0), 1)
            await fleet.store.link.execute("SREM", f"{NAMESPACE}:out:nano", id_)
        assert len(await fleet.release()) == 4

    on_fleet(valkey, pace(in_flight=8), scenario)


def test_tiers_that_share_an_account_share_its_pace(valkey: Valkey) -> None:
    async def scenario(fleet: Fleet) -> None:
        await fleet.store.add([new(f"j/m{n}", tier="mini") for n in range(100)])
        assert len(await fleet.release("nano")) >= 9
        assert len(await fleet.release("mini")) <= 2

    on_fleet(valkey, pace(("nano", "mini"), requests_per_minute=600), scenario)


def test_in_an_outage_one_leaves_to_try_and_with_a_fallback_all_do(valkey: Valkey) -> None:
    async def scenario(fleet: Fleet) -> None:
        broken = [f"b{n}" for n in range(10)]
        await fleet.start(broken)
        for id_ in broken:
            await fleet.limiter.settle(Permit(id_, "m", fleet.pace.allowance, 1, 0), 0, "broken")
        assert await fleet.release() == []
        await fleet.at(1)
        assert len(await fleet.release()) == 1
        assert await fleet.release() == []
        fleet.pace = pace(elsewhere=True)
        assert len(await fleet.release()) == 99

    on_fleet(valkey, pace(), scenario)
