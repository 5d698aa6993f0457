"""Permits: leave to make one call now, shared out for the whole fleet per account.

One script takes requests, tokens and in-flight together and answers with the moment at which the call may start, so
waiting is one sleep, not a race of retries; where that moment is now, it journals the call's intent as well. What holds is
the least of what is configured and what the vendor told, or, where both are silent, what was found out. It knows accounts,
numbers and time; it makes no call itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from redis.exceptions import RedisError

from queues.link import Link
from queues.subtasks import Intent, Refused
from queues.tiers import Allowance

#: A longer wait is confirmed at its end, and looked after this often: the account may have been paused, or allow more or less.
CONFIRM_OVER_MS = 25
LOOK_MS = 2_000
#: As queues/lua/permit.lua answers.
TOO_LARGE, OUTAGE, TOO_LONG = -2, -3, -4


NOTHING_TOLD = ("",) * 4
NO_INTENT = Intent("", "", "", 0, "")


class PermitError(Exception):
    """No permit can be had: the call is larger than the limit of a minute, configured or told."""


class LateError(PermitError):
    """The wait would be longer than whoever asked wants to wait; nothing is wrong with the call."""


class OutageError(PermitError):
    """The account's vendor has an outage, and whoever asked would rather go elsewhere than wait."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a vendor says of its limits on an account with an answer; None where it does not."""

    requests_per_minute: int | None = None
    requests_left: int | None = None
    tokens_per_minute: int | None = None
    tokens_left: int | None = None


@dataclass(frozen=True, slots=True)
class Took:
    """What calls of one kind took on an account, on average of the latest."""

    seconds: float
    #: As they count against the limit of a minute.
    tokens: int


@dataclass(frozen=True, slots=True)
class Standing:
    """An account now: what holds of its limits (None: no limit), what is used of them, and what calls wait for."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    in_flight: int | None
    #: Calls that started in the last minute, their tokens, and calls that run or are about to start.
    requests: int
    tokens: int
    calls: int
    #: Seconds until another call could start.
    next_s: float
    #: Seconds that are left of a pause, 0 where there is none.
    paused_s: float
    #: Seconds until the vendor is tried again, None where it has no outage.
    outage_s: float | None
    #: Those of the calls whose start is still to come.
    waiting: int = 0
    #: By what calls were for, as far as any have ended.
    took: Mapping[str, Took] = field(default_factory=dict)


#: How a permit ended: the call was made, the vendor refused it for its rate, it broke of the vendor's fault, we ended it, or it
#: was not made.
End = Literal["ended", "refused", "broken", "cut", "unused"]


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call; return it with what the call really used."""

    id: str
    account: str
    allowance: Allowance
    tokens: int
    waited_ms: int
    #: Seconds that the vendor's outage has lasted (a million where it has never answered), where the call tries whether it is
    #: over: no other one starts meanwhile.
    outage_s: int = 0
    #: What the call is for: how long such calls take is remembered; '': that of this one is not.
    lane: str = ""
    #: What came of the intent: True, it is journalled; False, it is still to be, as the start had to be waited for.
    begun: Refused | bool = False
    #: When it was given, by this process's monotonic clock.
    given_s: float = field(default_factory=time.monotonic)


class Limiter:
    """Permits over one `Link`."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace

    async def acquire(
        self,
        account: str,
        allowance: Allowance,
        *,
        tokens: int,
        permit_id: str,
        lease_s: float,
        patience_s: float,
        sit_out: bool = True,
        lane: str = "",
        intent: Intent | None = None,
    ) -> Permit:
        """Wait for a permit of `tokens`; it heals after `lease_s` if it is never returned.

        `lane`: see `Permit`; `intent`: of the call, to be journalled together with a permit that needs no wait.

        Raises:
            OutageError: not `sit_out`, and the vendor has an outage.
            LateError: the wait would be longer than `patience_s`.
            PermitError: `tokens` is over the limit of a minute, configured or told.
            LinkError: the store does not answer.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        confirm = False

        def permit(outage_s: int = 0, begun: Refused | bool = False) -> Permit:
            waited_ms = round((loop.time() - began) * 1000)
            return Permit(permit_id, account, allowance, tokens, waited_ms, outage_s, lane, begun)

        try:
            while True:
                left_s = began + patience_s - loop.time()
                asking = (account, allowance, tokens, permit_id, lease_s, left_s, intent or NO_INTENT)
                wait_ms, more, *begun = await self._ask(*asking, confirm=confirm)
                if wait_ms == TOO_LARGE:
                    raise PermitError(
                        f"A call of up to {tokens:,} tokens can never start: {account} allows "
                        f"{more:,} a minute. Send less, or lower max_output_tokens."
                    )
                if wait_ms == OUTAGE and not sit_out:
                    raise OutageError(f"The vendor of {account} has an outage.")
                if wait_ms == 0:
                    return permit(more, (Refused.of(begun[0]) or True) if begun else False)
                pause_s = (more if wait_ms < 0 else wait_ms) / 1000
                if left_s <= 0 or (wait_ms != TOO_LONG and pause_s > left_s):
                    why = "its vendor has an outage" if wait_ms == OUTAGE else "its limit is used up or it is paused"
                    raise LateError(f"No permit for {account} within {patience_s:.0f} s: {why}.")
                asked = loop.time()
                # What is too long now may get shorter: nobody is told before their patience is over.
                await asyncio.sleep(min(pause_s, LOOK_MS / 1000, max(left_s, 0.0)))
                late = loop.time() - asked - pause_s > CONFIRM_OVER_MS / 1000
                if 0 < wait_ms <= CONFIRM_OVER_MS and not late:
                    return permit(more)
                confirm = wait_ms > 0
        except BaseException:
            with contextlib.suppress(RedisError):  # it heals; what went wrong is what counts
                if intent is not None:
                    await self._link.call("let_go", [self._namespace], [intent.quota, intent.hold, intent.id])
                await self.settle(permit(), 0, "unused")
            raise

    async def settle(
        self, permit: Permit, tokens_used: int, end: End = "ended", told: Told | None = None, *, allowed: int = 0
    ) -> None:
        """Return a permit; what was estimated too high is free again at once, unless the vendor tells that it is not.

        `allowed`: the tokens used with all the output that the call was allowed, as some vendors count.
        """
        said = (
            ()
            if told is None
            else (told.requests_per_minute, told.requests_left, told.tokens_per_minute, told.tokens_left)
        )
        await self._link.each(
            "permit_return",
            (self._namespace,),
            (permit.account, *permit.allowance.arguments()),
            (
                permit.id,
                permit.tokens,
                tokens_used,
                allowed,
                end,
                *(["" if number is None else number for number in said] or NOTHING_TOLD),
                permit.lane,
                round((time.monotonic() - permit.given_s) * 1000),
            ),
        )

    async def pause(self, account: str, seconds: float) -> None:
        """Let no call of `account` start for `seconds`, in the whole fleet."""
        await self._link.call("permit_pause", [self._namespace], [account, round(seconds * 1000)], idempotent=True)

    async def shut(self, account: str, seconds: float) -> None:
        """Treat an account like one whose vendor has an outage for `seconds`; then one call tries."""
        await self._link.call("permit_shut", [self._namespace], [account, round(seconds * 1000)], idempotent=True)

    async def look(self, account: str, allowance: Allowance) -> Standing:
        """How an account stands."""
        reply = await self._link.call(
            "permit_look", [self._namespace], [account, *allowance.arguments()], idempotent=True
        )
        *numbers, took = reply
        rpm, tpm, requests, tokens, calls, next_ms, paused_ms, open_ms, outage, waiting = numbers
        return Standing(
            requests_per_minute=rpm or None,
            tokens_per_minute=tpm or None,
            in_flight=allowance.in_flight,
            requests=requests,
            tokens=tokens,
            calls=calls,
            next_s=next_ms / 1000,
            paused_s=paused_ms / 1000,
            outage_s=open_ms / 1000 if outage else None,
            waiting=waiting,
            took={
                lane.decode(): Took(ms / 1000, counted)
                for lane, ms, counted in zip(took[::3], took[1::3], took[2::3], strict=True)
            },
        )

    async def _ask(
        self,
        account: str,
        allowance: Allowance,
        tokens: int,
        permit_id: str,
        lease_s: float,
        patience_s: float,
        intent: Intent = NO_INTENT,
        *,
        confirm: bool,
    ) -> list[Any]:
        reply: list[Any] = await self._link.each(
            "permit",
            (self._namespace,),
            (account, *allowance.arguments()),
            (tokens, permit_id, round(lease_s * 1000), int(confirm), round(patience_s * 1000), *intent.arguments()),
        )
        return reply
