"""What is learned of an account on a virtual clock: told and found limits, outages, and what they may not do."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from queues.limits import OUTAGE, TOO_LARGE, TOO_LONG, End, Limiter, Permit, Told
from queues.link import Link
from queues.tiers import Allowance
from tests.support.valkey import Valkey
from tests.support.virtual_clock import at, virtual_clock

BEGAN_MS = 1_000_000_000_000
FREE = Allowance()


class Account:
    """The account `m` at a moment."""

    def __init__(self, link: Link) -> None:
        self.limiter = Limiter(link, "test")
        self._link = link
        self.now_ms = BEGAN_MS

    async def at(self, seconds: float) -> None:
        self.now_ms = BEGAN_MS + round(seconds * 1000)
        await self._link.execute(*at("test", self.now_ms))

    async def ask(
        self,
        id_: str,
        allowance: Allowance = FREE,
        *,
        tokens: int = 1,
        confirm: bool = False,
        patience_s: float = 3_600,
    ) -> list[int]:
        return await self.limiter._ask("m", allowance, tokens, id_, 90, patience_s, confirm=confirm)

    async def end(
        self,
        id_: str,
        end: End = "ended",
        told: Told | None = None,
        allowance: Allowance = FREE,
        *,
        tokens: int = 1,
        used: int = 1,
        allowed: int = 0,
    ) -> None:
        await self.limiter.settle(Permit(id_, "m", allowance, tokens, 0), used, end, told, allowed=allowed)


def on_account(valkey: Valkey, scenario: Callable[[Account], Awaitable[None]]) -> None:
    async def run() -> None:
        link = Link.from_url(valkey.url)
        try:
            account = Account(link)
            await account.at(0)
            await scenario(account)
        finally:
            await link.aclose()

    with virtual_clock():
        asyncio.run(run())


def test_requests_are_evenly_spaced_behind_those_that_may_start_at_once(valkey: Valkey) -> None:
    async def scenario(account: Account) -> None:
        waits = [(await account.ask(f"a{n}", Allowance(requests_per_minute=600)))[0] for n in range(50)]
        spaced = [wait for wait in waits if wait > 1]
        assert 39 <= len(spaced) <= 41, "ten a second, and a second's worth at once"
        assert {after - before for before, after in itertools.pairwise(spaced)} <= {100, 101}

    on_account(valkey, scenario)


def test_calls_are_spaced_by_what_those_before_them_counted_not_by_what_they_may_count_at_most(valkey: Valkey) -> None:
    allowance = Allowance(tokens_per_minute=60_000)

    async def waits(account: Account, name: str) -> list[int]:
        return [(await account.ask(f"{name}{n}", allowance, tokens=1_000))[0] for n in range(4)]

    async def scenario(account: Account) -> None:
        first = await waits(account, "a")
        assert first[-1] - first[-2] in (1_005, 1_006), "60 calls of 1,000 tokens a minute"
        for n in range(4):
            await account.end(f"a{n}", allowance=allowance, tokens=1_000, used=300, allowed=500)
        for second in range(100):
            await account.at(10 + second)
            await account.ask(f"b{second}", allowance, tokens=1_000)
            await account.end(f"b{second}", allowance=allowance, tokens=1_000, used=300, allowed=500)
        await account.at(200)
        later = await waits(account, "c")
        assert later[-1] - later[-2] in (502, 503), "they count what they were allowed, half of what was asked for"
        await account.end("c0", allowance=allowance, tokens=1_000, used=900, allowed=900)
        await account.at(300)
        after = await waits(account, "d")
        assert after[-1] - after[-2] in (904, 905), "one that counted more is remembered"
        await account.end("d0", allowance=allowance, tokens=1_000, used=5_000, allowed=5_000)
        assert (await account.ask("e", allowance, tokens=60_000))[0] >= 0, "nothing counts more than it may at most"

    on_account(valkey, scenario)


def test_what_others_use_of_a_large_account_leaves_our_own_ceiling_alone(valkey: Valkey) -> None:
    allowance = Allowance(requests_per_minute=60)

    async def scenario(account: Account) -> None:
        await account.ask("a", allowance)
        await account.end("a", told=Told(requests_per_minute=10_000, requests_left=9_000), allowance=allowance)
        waits = [(await account.ask(f"b{n}", allowance))[0] for n in range(30)]
        assert waits[-1] <= 31_000, "a start a second, as configured"

    on_account(valkey, scenario)


def test_what_others_used_is_forgotten_after_a_minute(valkey: Valkey) -> None:
    async def scenario(account: Account) -> None:
        await account.ask("a")
        await account.end("a", told=Told(requests_per_minute=10, requests_left=0))
        waits = [(await account.ask(f"b{n}"))[0] for n in range(10)]
        assert waits[-1] <= 2 * 61_000, waits

    on_account(valkey, scenario)


def test_what_was_found_out_does_not_outlive_the_finding(valkey: Valkey) -> None:
    auto, fast = Allowance(find_out=True), Allowance(requests_per_minute=10_000)

    async def scenario(account: Account) -> None:
        for number in range(5):
            await account.ask(f"a{number}", auto)
            await account.end(f"a{number}", allowance=auto)
        waits = [(await account.ask(f"b{number}", fast))[0] for number in range(100)]
        assert waits[-1] <= 10_000, "10,000 a minute are configured now"

    on_account(valkey, scenario)


def test_what_a_vendor_told_once_does_not_hold_for_ever(valkey: Valkey) -> None:
    async def scenario(account: Account) -> None:
        await account.ask("a")
        await account.end("a", told=Told(tokens_per_minute=1))
        assert (await account.ask("b", tokens=100))[0] == TOO_LARGE
        await account.at(601)
        assert (await account.ask("b", tokens=100))[0] == 0

    on_account(valkey, scenario)


def test_many_refusals_at_once_are_one_reason_to_slow_down(valkey: Valkey) -> None:
    auto = Allowance(find_out=True)

    async def scenario(account: Account) -> None:
        for number in range(40):
            await account.ask(f"a{number}", auto)
        await account.at(45)
        for number in range(40):
            await account.end(f"a{number}", "refused", allowance=auto)
        standing = await account.limiter.look("m", auto)
        assert standing.requests_per_minute == 42, "60 a minute to begin with, less three tenths"

    on_account(valkey, scenario)


def test_who_wakes_up_late_gets_another_start(valkey: Valkey) -> None:
    """Or all that a stall held up would start together, counted as if they had started in time."""
    allowance = Allowance(requests_per_minute=60)

    async def scenario(account: Account) -> None:
        for number in range(30):
            await account.ask(f"a{number}", allowance)
        await account.at(29)
        waits = sorted([(await account.ask(f"a{number}", allowance, confirm=True))[0] for number in range(30)])
        assert waits[-1] >= 28_000, "they are as far apart as ever"
        assert sum(wait < 1_000 for wait in waits) <= 3, waits

    on_account(valkey, scenario)


def test_those_who_wait_for_the_end_of_a_pause_do_not_start_together(valkey: Valkey) -> None:
    async def scenario(account: Account) -> None:
        await account.limiter.pause("m", 5)
        waits = [(await account.ask(f"a{number}"))[0] for number in range(50)]
        assert len(set(waits)) == 50
        assert (min(waits), max(waits) < 6_000) == (5_000, True)

    on_account(valkey, scenario)


def test_those_who_waited_for_the_end_of_a_pause_start_then(valkey: Valkey) -> None:
    async def scenario(account: Account) -> None:
        await account.limiter.pause("m", 5)
        waits = [(await account.ask(f"a{number}"))[0] for number in range(50)]
        for number, wait in enumerate(waits):
            await account.at(wait / 1000)
            assert await account.ask(f"a{number}", confirm=True) == [0, 0]
        assert await account.ask("another") == [0, 0]

    on_account(valkey, scenario)


def test_what_was_used_beyond_what_was_asked_for_counts(valkey: Valkey) -> None:
    allowance = Allowance(tokens_per_minute=1_000)

    async def scenario(account: Account) -> None:
        await account.ask("a", allowance)
        await account.end("a", allowance=allowance, used=1_000)
        assert (await account.ask("b", allowance))[0] >= 60_000

    on_account(valkey, scenario)


def test_a_wait_that_is_too_long_reserves_nothing(valkey: Valkey) -> None:
    allowance = Allowance(requests_per_minute=1)

    async def scenario(account: Account) -> None:
        await account.ask("a", allowance)
        for number in range(20):
            assert (await account.ask(f"b{number}", allowance, patience_s=10))[0] == TOO_LONG
        assert (await account.ask("c", allowance))[0] <= 61_000

    on_account(valkey, scenario)


async def _breaks(account: Account, calls: int) -> None:
    for number in range(calls):
        assert (await account.ask(f"broken{number}"))[0] == 0
    for number in range(calls):
        await account.end(f"broken{number}", "broken")


def test_in_an_outage_one_call_tries_and_the_waits_grow_until_it_is_over(valkey: Valkey) -> None:
    async def scenario(account: Account) -> None:
        await account.ask("before")
        await account.end("before")
        await _breaks(account, 10)
        assert await account.ask("a") == [OUTAGE, 1_000]
        assert (await account.limiter.look("m", FREE)).outage_s == 1
        await account.at(1)
        assert await account.ask("a") == [0, 1], "it tries"
        assert (await account.ask("b"))[0] == OUTAGE, "alone"
        await account.end("a", "broken")
        assert await account.ask("b") == [OUTAGE, 2_000]
        await account.at(3)
        assert await account.ask("b") == [0, 3]
        await account.end("b", "unused")
        assert await account.ask("c") == [0, 3], "a try that was not made is somebody else's"
        await account.end("c", "cut")
        assert await account.ask("c") == [0, 3], "nor does one that we ended tell anything"
        await account.at(3 + 61)
        assert await account.ask("d") == [0, 64], "whoever tried died"
        await account.end("d")
        assert await account.ask("e") == [0, 0]
        assert (await account.limiter.look("m", FREE)).outage_s is None

    on_account(valkey, scenario)


def test_a_vendor_that_has_never_answered_is_told_from_one_with_an_outage(valkey: Valkey) -> None:
    async def scenario(account: Account) -> None:
        await _breaks(account, 10)
        await account.at(1)
        assert await account.ask("a") == [0, 1_000_000]

    on_account(valkey, scenario)


def test_calls_that_break_now_and_then_are_no_outage(valkey: Valkey) -> None:
    async def scenario(account: Account) -> None:
        for _ in range(5):
            await _breaks(account, 9)
            assert (await account.ask("well"))[0] == 0
            await account.end("well")

    on_account(valkey, scenario)


def test_an_end_that_is_told_twice_counts_once(valkey: Valkey) -> None:
    async def scenario(account: Account) -> None:
        await _breaks(account, 9)
        await account.end("broken0", "broken")
        assert (await account.ask("a"))[0] == 0

    on_account(valkey, scenario)
