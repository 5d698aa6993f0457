"""Permits against a real Valkey: pacing, in-flight places, settlement, pause."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from queues.limits import Limiter, PermitError
from queues.link import Link
from queues.quotas import Quotas
from queues.store import Store
from queues.subtasks import Intent, Refused
from queues.tiers import Allowance
from tests.support.valkey import Valkey


async def _waits(valkey: Valkey, allowance: Allowance, tokens: int, calls: int) -> list[int]:
    """The waits that the store hands out for `calls` at once, without sleeping them."""
    link = Link.from_url(valkey.url)
    limiter = Limiter(link, "test")
    try:
        asked = [limiter._ask("m", allowance, tokens, f"p{i}", 60, 3_600, confirm=False) for i in range(calls)]
        return [reply[0] for reply in await asyncio.gather(*asked)]
    finally:
        await link.aclose()


def test_tokens_pace_what_requests_would_let_through(valkey: Valkey) -> None:
    waits = asyncio.run(_waits(valkey, Allowance(requests_per_minute=6000, tokens_per_minute=60_000), 1_000, 10))
    assert 7_500 <= waits[-1] <= 8_100, "evenly spaced behind what may start at once"


def test_in_flight_places_are_never_oversold_and_heal(valkey: Valkey) -> None:
    async def scenario() -> None:
        link = Link.from_url(valkey.url)
        limiter = Limiter(link, "test")
        allowance = Allowance(in_flight=2)

        async def acquire(name: str, lease_s: float, patience_s: float) -> object:
            return await limiter.acquire(
                "m", allowance, tokens=1, permit_id=name, lease_s=lease_s, patience_s=patience_s
            )

        first = await limiter.acquire("m", allowance, tokens=1, permit_id="a", lease_s=60, patience_s=1)
        await acquire("dead", 0.2, 1)
        with pytest.raises(PermitError, match="No permit for m within 0 s"):
            await acquire("c", 60, 0.01)
        await acquire("c", 60, 5)  # the dead worker's place heals by itself
        with pytest.raises(PermitError):
            await acquire("d", 60, 0.01)
        await limiter.settle(first, 1)
        await acquire("d", 60, 0.01)
        await link.aclose()

    asyncio.run(scenario())


def test_unused_tokens_are_free_again(valkey: Valkey) -> None:
    async def scenario() -> None:
        link = Link.from_url(valkey.url)
        limiter = Limiter(link, "test")
        allowance = Allowance(tokens_per_minute=60_000)
        permit = await limiter.acquire("m", allowance, tokens=50_000, permit_id="a", lease_s=60, patience_s=1)
        held = await limiter.acquire("other", allowance, tokens=50_000, permit_id="o", lease_s=60, patience_s=1)
        assert (await limiter._ask("other", allowance, 1, "p", 60, 3_600, confirm=False))[0] > 45_000
        await limiter.settle(permit, 500)
        assert (await limiter._ask("m", allowance, 1, "b", 60, 3_600, confirm=False))[0] < 1_500
        await limiter.settle(held, 50_000)
        assert (await limiter._ask("other", allowance, 1, "q", 60, 3_600, confirm=False))[0] > 45_000, "it was used"
        await link.aclose()

    asyncio.run(scenario())


def test_a_pause_holds_the_whole_account_and_is_seen_by_those_already_waiting(valkey: Valkey) -> None:
    async def scenario() -> None:
        link = Link.from_url(valkey.url)
        limiter = Limiter(link, "test")
        allowance = Allowance(requests_per_minute=100)
        for name in ("a1", "a2"):
            await limiter.acquire("m", allowance, tokens=1, permit_id=name, lease_s=60, patience_s=1)
        waiting = asyncio.create_task(
            limiter.acquire("m", allowance, tokens=1, permit_id="b", lease_s=60, patience_s=10)
        )
        await asyncio.sleep(0)
        await limiter.pause("m", 1.0)
        permit = await waiting
        assert permit.waited_ms >= 990, "it had a reservation inside the pause and must not start there"
        assert (await limiter._ask("other", allowance, 1, "x", 60, 3_600, confirm=False))[0] == 0
        await link.aclose()

    asyncio.run(scenario())


def test_a_call_over_the_limit_of_a_minute_is_refused_with_what_to_do(valkey: Valkey) -> None:
    async def scenario() -> None:
        link = Link.from_url(valkey.url)
        with pytest.raises(PermitError, match="can never start"):
            await Limiter(link, "test").acquire(
                "m", Allowance(tokens_per_minute=10), tokens=11, permit_id="a", lease_s=1, patience_s=1
            )
        await link.aclose()

    asyncio.run(scenario())


def test_what_may_start_at_once_is_journalled_with_its_permit_and_what_has_to_wait_is_not(valkey: Valkey) -> None:
    async def scenario() -> None:
        link = Link.from_url(valkey.url)
        limiter, store = Limiter(link, "test"), Store(link, "test", lease_ms=1_000)
        await Quotas(store.link, store.namespace).set_cap("job", 100)
        allowance = Allowance(requests_per_minute=6)

        def intent(name: str, amount: int) -> Intent:
            return Intent("job", f"job/{name}", name, amount, f"note of {name}")

        async def begun(account: str, name: str, amount: int) -> Refused | bool:
            permit = await limiter.acquire(
                account, allowance, tokens=1, permit_id=name, lease_s=60, patience_s=5, intent=intent(name, amount)
            )
            return permit.begun

        assert await begun("m", "a", 60) is True
        assert (await store.quota("job"), await store.unsettled("job")) == ((100, 0, 60), ["note of a"])
        assert await begun("other", "b", 60) == Refused("short", cap=100, others=60), "there is a permit, and no money"
        wait_ms, *rest = await limiter._ask("m", allowance, 1, "c", 60, 3_600, intent("c", 10), confirm=False)
        assert (wait_ms > 5_000, len(rest)) == (True, 1)
        assert await store.unsettled("job") == ["note of a"], "nothing is held while it waits for its start"
        await link.aclose()

    asyncio.run(scenario())


def test_whoever_is_ended_while_it_asks_leaves_neither_permit_nor_intent(valkey: Valkey) -> None:
    async def scenario() -> None:
        link = Link.from_url(valkey.url)
        limiter, store = Limiter(link, "test"), Store(link, "test", lease_ms=1_000)
        intent = Intent("job", "job/a", "a", 60, "note")
        each, answered = link.each, asyncio.Event()

        async def stalls(*call: Any) -> Any:
            reply = await each(*call)
            if call[0] == "permit":
                answered.set()
                await asyncio.Event().wait()
            return reply

        link.each = stalls  # type: ignore[assignment, method-assign]
        asking = asyncio.create_task(
            limiter.acquire(
                "m", Allowance(in_flight=1), tokens=1, permit_id="a", lease_s=60, patience_s=5, intent=intent
            )
        )
        await answered.wait()
        assert await store.unsettled("job") == ["note"]
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await store.unsettled("job"), await store.quota("job")) == ([], (None, 0, 0))
        assert (await limiter.look("m", Allowance(in_flight=1))).calls == 0
        await link.aclose()

    asyncio.run(scenario())
