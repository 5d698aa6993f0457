"""What is done after a call gave no answer, before it is made again: its account rests, its job is paused, or a moment passes.

It decides nothing about which model is asked next; what an error says is `fleet.failures`' to know.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from fleet.config import FleetConfig
from fleet.drain import Drain, GiveBack
from fleet.entries import Purpose
from fleet.errors import ProviderError
from fleet.failures import NOT_THE_CALL, OF_THE_ACCOUNT, backoff
from fleet.store import COORDINATOR, not_ended
from queues.limits import Limiter, Permit
from queues.store import Store

#: An outage that lasts longer, or a vendor that has never answered, pauses the jobs it keeps from going on.
OUTAGE_S = 900.0


class TryingAgain:
    """Patience of one process; `draining`: set when it was asked to end."""

    def __init__(self, config: FleetConfig, store: Store, limiter: Limiter, draining: Drain) -> None:
        self._config = config
        self._store = store
        self._limiter = limiter
        self._draining = draining

    async def after(self, error: ProviderError, purpose: Purpose, permit: Permit, failures: int) -> int | None:
        """Wait until a call that failed may be made again: how often it has failed, of itself, by now; None: it is no use.

        Raises GiveBack: what ails the vendor or the account is for somebody to mend, and the job was paused; not for an audit.
        """
        if error.kind in OF_THE_ACCOUNT and purpose.role != "audit":
            await self._pause(purpose, error)
        if not error.retryable or (purpose.holdout and error.kind != "rate_limit"):
            return None
        if error.kind == "rate_limit":
            await self._limiter.pause(permit.account, error.retry_after or 1.0)
            return failures
        if permit.outage_s > 0 and error.kind in NOT_THE_CALL and purpose.role != "audit":
            if permit.outage_s > OUTAGE_S:
                await self._pause(purpose, error)
            return failures  # An outage goes on: that is no failure of this call.
        if failures + 1 >= self._config.call_tries:
            return None
        if error.retry_after is not None:  # the vendor has no time, not for this call alone
            await self._limiter.pause(permit.account, error.retry_after)
        else:
            await self._draining.unless(asyncio.sleep(backoff(failures + 1)))
        return failures + 1

    async def _pause(self, purpose: Purpose, error: ProviderError) -> NoReturn:
        """Nothing fails of what ails the vendor or the account: the job waits for whoever can mend it."""
        tiers = [*self._config.tiers, COORDINATOR]
        guards = [purpose.claim.guard, not_ended(purpose.job)]
        await self._store.stop(purpose.job, "paused", tiers, why=str(error), guards=guards)
        raise GiveBack(f"the job was paused: {error}") from error
