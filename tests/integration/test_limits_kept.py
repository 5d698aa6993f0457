"""A fleet against a vendor's strict minute on a virtual clock: the limit is used, and hardly ever met."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from fleet.config import Limits
from fleet.providers.limits import told
from fleet.sim.window import SlidingMinute
from queues.limits import CONFIRM_OVER_MS, LOOK_MS, Limiter, Permit
from queues.link import Link
from queues.tiers import Allowance
from tests.support.valkey import Valkey
from tests.support.virtual_clock import at, virtual_clock

T = TypeVar("T")

SLOTS = 24
LATENCY_S, TRANSIT_S = (0.5, 2.5), (0.002, 0.08)
#: What is asked for, and the share of it that is used.
TOKENS, USED = (400, 4_000), (0.3, 0.9)
BEGAN_MS = 1_000_000_000_000


@dataclass
class Traffic:
    """So many slots that call without a pause, and what became of the calls."""

    link: Link
    allowance: Allowance
    vendor: SlidingMinute
    dice: random.Random
    #: The vendor's headers are of the moment at which it let the call in, not of its answer.
    early: bool = False
    #: It has none.
    silent: bool = False
    now_ms: int = BEGAN_MS
    let_in: list[tuple[int, int]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    _events: list[tuple[int, int, Callable[[], Awaitable[None]]]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.limiter = Limiter(self.link, "test")

    async def flow(self, until_s: float) -> None:
        while self._events[0][0] <= BEGAN_MS + until_s * 1000:
            self.now_ms, _, happens = heapq.heappop(self._events)
            await happens()

    def later(self, ms: float, happens: Callable[[], Awaitable[None]]) -> None:
        heapq.heappush(self._events, (self.now_ms + round(ms), next(self._numbers), happens))

    async def ask(self, id_: str = "", tokens: int = 0, *, confirm: bool = False) -> None:
        """As `Limiter.acquire` does."""
        id_, tokens = id_ or f"call{next(self._numbers)}", tokens or self.dice.randint(*TOKENS)
        (wait_ms, *_) = await self._at(self.limiter._ask("m", self.allowance, tokens, id_, 60, 3_600, confirm=confirm))
        assert wait_ms >= 0
        if confirm and wait_ms == 0:
            await self._start(id_, tokens)
        elif wait_ms > CONFIRM_OVER_MS:
            self.later(min(wait_ms, LOOK_MS), lambda: self.ask(id_, tokens, confirm=True))
        else:
            self.later(wait_ms, lambda: self._start(id_, tokens))

    async def _start(self, id_: str, tokens: int) -> None:
        self.later(1000 * self.dice.uniform(*TRANSIT_S), lambda: self._arrive(id_, tokens))

    async def _arrive(self, id_: str, tokens: int) -> None:
        refusal = self.vendor.enter(tokens, self.now_ms / 1000)
        if refusal is None:
            self.let_in.append((self.now_ms, tokens))
            headers = self._headers()
            self.later(1000 * self.dice.uniform(*LATENCY_S), lambda: self._end(id_, tokens, headers))
            return
        self.refused.append(self.now_ms)
        said = told(self._headers())
        await self._at(self.limiter.settle(self._permit(id_, tokens), 0, "refused", said))
        await self._at(self.limiter.pause("m", refusal.retry_after_s))
        await self.ask()

    async def _end(self, id_: str, tokens: int, early: Mapping[str, str]) -> None:
        self.vendor.leave()
        said = told(early if self.early else self._headers())
        used = round(tokens * self.dice.uniform(*USED))
        await self._at(self.limiter.settle(self._permit(id_, tokens), used, "ended", said))
        await self.ask()

    def _headers(self) -> Mapping[str, str]:
        return {} if self.silent else self.vendor.headers(self.now_ms / 1000)

    def _permit(self, id_: str, tokens: int) -> Permit:
        return Permit(id_, "m", self.allowance, tokens, 0)

    async def _at(self, work: Awaitable[T]) -> T:
        _, done = await asyncio.gather(self.link.execute(*at("test", self.now_ms)), work)
        return done

    def shares(self, since_s: float, until_s: float, limits: Limits) -> tuple[float, float]:
        """Of the limit that was used, and of the calls that were refused."""
        start, end = BEGAN_MS + since_s * 1000, BEGAN_MS + until_s * 1000
        let_in = [tokens for moment, tokens in self.let_in if start < moment <= end]
        refused = sum(start < moment <= end for moment in self.refused)
        minutes = (until_s - since_s) / 60
        use = max(
            len(let_in) / minutes / (limits.requests_per_minute or 10**12),
            sum(let_in) / minutes / (limits.tokens_per_minute or 10**12),
        )
        return use, refused / (len(let_in) + refused)


def traffic(
    valkey: Valkey,
    limits: Limits,
    allowance: Allowance,
    *steps: tuple[float, Limits],
    early: bool = False,
    silent: bool = False,
) -> Traffic:
    """What came of it; `steps`: until when, and the vendor's limits from then on."""

    async def scenario() -> Traffic:
        link = Link.from_url(valkey.url)
        try:
            flowing = Traffic(link, allowance, SlidingMinute(limits), random.Random(7), early, silent)
            for _ in range(SLOTS):
                await flowing.ask()
            for until_s, following in steps:
                await flowing.flow(until_s)
                flowing.vendor.limits = following
            return flowing
        finally:
            await link.aclose()

    with virtual_clock():
        return asyncio.run(scenario())


OF_REQUESTS, OF_TOKENS = Limits(requests_per_minute=300), Limits(tokens_per_minute=500_000)


@pytest.mark.parametrize(
    ("limits", "early"),
    [(OF_REQUESTS, False), (OF_TOKENS, False), (OF_TOKENS, True)],
    ids=["requests", "tokens", "tokens, headers of the beginning"],
)
def test_a_limit_that_is_configured_is_used_and_never_met(valkey: Valkey, limits: Limits, early: bool) -> None:
    """For long enough that what is counted wrongly would add up."""
    allowance = Allowance(limits.requests_per_minute, limits.tokens_per_minute)
    flowed = traffic(valkey, limits, allowance, (480, limits), early=early)
    use, refused = flowed.shares(0, 480, limits)
    assert refused == 0
    assert use >= 0.98


def test_a_vendor_that_tells_nothing_and_counts_what_calls_are_allowed_refuses_a_few_and_no_more(
    valkey: Valkey,
) -> None:
    allowance = Allowance(tokens_per_minute=OF_TOKENS.tokens_per_minute)
    flowed = traffic(valkey, OF_TOKENS, allowance, (480, OF_TOKENS), silent=True)
    assert flowed.shares(0, 120, OF_TOKENS)[1] <= 0.03
    use, refused = flowed.shares(120, 480, OF_TOKENS)
    assert refused == 0
    assert use >= 0.98


@pytest.mark.parametrize(
    ("limits", "halved", "early"),
    [
        (OF_REQUESTS, Limits(requests_per_minute=150), False),
        (OF_TOKENS, Limits(tokens_per_minute=250_000), True),
    ],
    ids=["requests", "tokens, headers of the beginning"],
)
def test_a_limit_that_nobody_knows_is_found_and_followed(
    valkey: Valkey, limits: Limits, halved: Limits, early: bool
) -> None:
    flowed = traffic(valkey, limits, Allowance(find_out=True), (180, halved), (360, halved), early=early)
    assert flowed.shares(0, 360, limits)[1] <= 0.01
    assert flowed.shares(10, 180, limits)[0] >= 0.95
    assert flowed.shares(240, 360, halved)[0] >= 0.95
