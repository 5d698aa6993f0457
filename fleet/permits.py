"""Permits for calls: asked for by the better model first, given back with what the call says of its account.

Waiting costs a coroutine. It knows what a limiter is and what an error says; it makes no call and holds no money.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from redis.exceptions import RedisError

from fleet.caps import Caps
from fleet.choices import Choice
from fleet.drain import Drain, GiveBack
from fleet.entries import Purpose
from queues.limits import End, LateError, Limiter, OutageError, Permit, Told

logger = logging.getLogger(__name__)

#: Longest wait for a permit in a worker: a minute's limit has room again by then. Whatever takes longer waits in the backlog.
PERMIT_PATIENCE_S = 75.0


class Permits:
    """Those of one process; `draining`: set when it was asked to end, `caps`: what a call has to fit under once it may start."""

    def __init__(self, limiter: Limiter, draining: Drain, caps: Caps) -> None:
        self._limiter = limiter
        self._draining = draining
        self._caps = caps

    async def first(self, choices: Sequence[Choice], purpose: Purpose, call_id: str) -> tuple[Choice, Permit]:
        """A permit of the first choice whose account has no outage and is not shut; else of the last.

        Raises:
            GiveBack: there is none soon, or the process ends.
            PermitError: the call is larger than a limit.
        """
        *better, last = choices
        try:
            for choice in better:
                with contextlib.suppress(OutageError):
                    return choice, await self._acquire(choice, purpose, call_id, sit_out=False)
            return last, await self._acquire(last, purpose, call_id, sit_out=purpose.role != "audit")
        except LateError as error:
            raise GiveBack(str(error)) from None

    async def give_back(
        self, permit: Permit, tokens: int, end: End = "ended", told: Told | None = None, *, allowed: int = 0
    ) -> None:
        """Give a permit back, if the store lets us: it heals by itself, what was paid for does not."""
        try:
            await self._limiter.settle(permit, tokens, end, told, allowed=allowed)
        except RedisError as error:
            logger.warning("a permit was not returned: %s", error, extra={"attempt": permit.id})

    async def _acquire(self, choice: Choice, purpose: Purpose, call_id: str, *, sit_out: bool) -> Permit:
        return await self._draining.unless(
            self._limiter.acquire(
                choice.account,
                choice.allowance,
                tokens=choice.tokens,
                permit_id=call_id,
                lease_s=choice.request.timeout_s + 30,
                patience_s=PERMIT_PATIENCE_S,
                sit_out=sit_out,
                intent=self._caps.over(choice.draft(purpose, call_id).intent()),
                lane=choice.tier,
            )
        )
