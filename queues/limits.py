"""Permits: leave to make one call now, shared out for the whole fleet per account.

One script takes requests, tokens and in-flight together and answers with the moment at which the call may start, so
waiting is one sleep, not a race of retries. It knows accounts, numbers and time; it makes no call itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from queues.link import Link

#: Share of a limit that is used: calls reach the provider with a jitter of their own.
HEADROOM = 0.995
#: A longer wait is confirmed at its end: the account may have been paused meanwhile.
CONFIRM_OVER_MS = 250


class PermitError(Exception):
    """No permit can be had: the call is larger than the limit, or the wait would pass its deadline."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an account allows; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    in_flight: int | None = None


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
            PermitError: `tokens` is over the limit of a minute, or the wait would be longer than `patience_s`.
            LinkError: the store does not answer.
        """
        if allowance.tokens_per_minute is not None and tokens > allowance.tokens_per_minute:
            raise PermitError(
                f"A call of up to {tokens:,} tokens can never start: {account} allows "
                f"{allowance.tokens_per_minute:,} a minute. Send less, or lower max_output_tokens."
            )
        loop = asyncio.get_running_loop()
        began = loop.time()
        confirm = False
        try:
            while True:
                (wait_ms, *retry) = await self._ask(account, allowance, tokens, permit_id, lease_s, confirm=confirm)
                if wait_ms == 0:
                    return Permit(permit_id, account, allowance, tokens, round((loop.time() - began) * 1000))
                pause_s = (retry[0] if wait_ms < 0 else wait_ms) / 1000
                if loop.time() - began + pause_s > patience_s:
                    raise PermitError(
                        f"No permit for {account} within {patience_s:.0f} s: its limit is used up or it is paused."
                    )
                await asyncio.sleep(pause_s)
                if 0 < wait_ms <= CONFIRM_OVER_MS:
                    return Permit(permit_id, account, allowance, tokens, round((loop.time() - began) * 1000))
                confirm = wait_ms > 0
        except BaseException:
            await self._give_back(Permit(permit_id, account, allowance, tokens, 0), unused=tokens)
            raise

    async def settle(self, permit: Permit, tokens_used: int) -> None:
        """Return a permit; what was estimated too high is free again at once."""
        await self._give_back(permit, unused=max(0, permit.tokens - tokens_used))

    async def pause(self, account: str, seconds: float) -> None:
        """Let no call of `account` start for `seconds`, in the whole fleet."""
        await self._link.call("pause", [self._namespace], [account, round(seconds * 1000)], idempotent=True)

    async def _ask(
        self, account: str, allowance: Allowance, tokens: int, permit_id: str, lease_s: float, *, confirm: bool
    ) -> list[int]:
        reply: list[int] = await self._link.call(
            "permit",
            [self._namespace],
            [
                account,
                (allowance.requests_per_minute or 0) * HEADROOM,
                (allowance.tokens_per_minute or 0) * HEADROOM,
                allowance.in_flight or 0,
                tokens,
                permit_id,
                round(lease_s * 1000),
                int(confirm),
            ],
            idempotent=True,
        )
        return reply

    async def _give_back(self, permit: Permit, unused: int) -> None:
        tokens_per_minute = (permit.allowance.tokens_per_minute or 0) * HEADROOM
        await self._link.call(
            "permit_return",
            [self._namespace],
            [permit.account, tokens_per_minute, permit.id, unused],
            idempotent=True,
        )
