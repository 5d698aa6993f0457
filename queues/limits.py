"""Permits: leave to make one call now, shared out for the whole fleet per account.

One script takes requests, tokens and in-flight together and answers with the moment at which the call may start, so
waiting is one sleep, not a race of retries. What holds is the least of what is configured and what the vendor told, or,
where both are silent, what was found out. It knows accounts, numbers and time; it makes no call itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import astuple, dataclass
from typing import Literal

from queues.link import Link

#: A minute, and what calls may be late or early by on their way to the provider; as queues/lua/_permits.lua has it.
WINDOW_MS = 60_300
#: A longer wait is confirmed at its end, and looked after this often: the account may have been paused, or allow more or less.
CONFIRM_OVER_MS = 250
LOOK_MS = 2_000
#: As queues/lua/permit.lua answers.
TOO_LARGE = -2


class PermitError(Exception):
    """No permit can be had: the call is larger than the limit, or the wait would pass its deadline."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an account allows as far as it is configured; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    in_flight: int | None = None
    #: Begin slowly and find out.
    find_out: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What a vendor says of its limits on an account with an answer; None where it does not."""

    requests_per_minute: int | None = None
    requests_left: int | None = None
    tokens_per_minute: int | None = None
    tokens_left: int | None = None


#: How a permit ended: the call was made, the vendor refused it for its rate, or it was not made.
End = Literal["ended", "refused", "unused"]


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call; return it with what the call really used."""

    id: str
    account: str
    allowance: Allowance
    tokens: int
    waited_ms: int


class Limiter:
    """Permits over one `Link`."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace

    async def acquire(
        self, account: str, allowance: Allowance, *, tokens: int, permit_id: str, lease_s: float, patience_s: float
    ) -> Permit:
        """Wait for a permit of `tokens`; it heals after `lease_s` if it is never returned.

        Raises:
            PermitError: `tokens` is over the limit of a minute, configured or told, or the wait would be longer than
                `patience_s`.
            LinkError: the store does not answer.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        confirm = False
        try:
            while True:
                (wait_ms, *retry) = await self._ask(account, allowance, tokens, permit_id, lease_s, confirm=confirm)
                if wait_ms == TOO_LARGE:
                    raise PermitError(
                        f"A call of up to {tokens:,} tokens can never start: {account} allows "
                        f"{retry[0]:,} a minute. Send less, or lower max_output_tokens."
                    )
                if wait_ms == 0:
                    return Permit(permit_id, account, allowance, tokens, round((loop.time() - began) * 1000))
                pause_s = (retry[0] if wait_ms < 0 else wait_ms) / 1000
                if loop.time() - began + pause_s > patience_s:
                    raise PermitError(
                        f"No permit for {account} within {patience_s:.0f} s: its limit is used up or it is paused."
                    )
                await asyncio.sleep(min(pause_s, LOOK_MS / 1000))
                if 0 < wait_ms <= CONFIRM_OVER_MS:
                    return Permit(permit_id, account, allowance, tokens, round((loop.time() - began) * 1000))
                confirm = wait_ms > 0
        except BaseException:
            await self.settle(Permit(permit_id, account, allowance, tokens, 0), 0, "unused")
            raise

    async def settle(self, permit: Permit, tokens_used: int, end: End = "ended", told: Told | None = None) -> None:
        """Return a permit; what was estimated too high is free again at once, unless the vendor tells that it is not."""
        await self._link.call(
            "permit_return",
            [self._namespace],
            [
                permit.account,
                permit.allowance.tokens_per_minute or 0,
                permit.id,
                permit.tokens,
                tokens_used,
                end,
                *("" if number is None else number for number in astuple(told or Told())),
                int(permit.allowance.find_out),
            ],
            idempotent=True,
        )

    async def pause(self, account: str, seconds: float) -> None:
        """Let no call of `account` start for `seconds`, in the whole fleet."""
        await self._link.call("permit_pause", [self._namespace], [account, round(seconds * 1000)], idempotent=True)

    async def _ask(
        self, account: str, allowance: Allowance, tokens: int, permit_id: str, lease_s: float, *, confirm: bool
    ) -> list[int]:
        reply: list[int] = await self._link.call(
            "permit",
            [self._namespace],
            [
                account,
                allowance.requests_per_minute or 0,
                allowance.tokens_per_minute or 0,
                allowance.in_flight or 0,
                tokens,
                permit_id,
                round(lease_s * 1000),
                int(confirm),
                int(allowance.find_out),
            ],
            idempotent=True,
        )
        return reply
