"""Calls whose end nobody wrote down: asked for again where the vendor can, and otherwise booked as possibly paid.

It owns what is made of an intent that an earlier worker, or an error of ours, left behind. It makes no call and judges no answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from fleet.choices import answered
from fleet.config import FleetConfig
from fleet.drain import GiveBack
from fleet.entries import Asked, Call, Purpose, Unsettled, charge
from fleet.errors import ProviderError
from fleet.ledger import LedgerEntry
from fleet.providers.base import ModelRequest, Provider
from fleet.stored import read_json
from fleet.subject import job_of
from queues.store import Store
from queues.subtasks import Claim

logger = logging.getLogger(__name__)

#: For how long a call in the background is asked for again before another is paid for: vendors keep answers ten minutes.
ASK_AGAIN_S = 600.0


class LostCalls:
    """Finds and books them, for one process."""

    def __init__(self, config: FleetConfig, providers: Mapping[str, Provider], store: Store) -> None:
        self._config = config
        self._providers = providers
        self._store = store

    async def abandon(
        self, job: str, ended: Callable[[LedgerEntry], bool], subtask: str | None = None
    ) -> list[LedgerEntry]:
        """Book calls in whose place nobody will make another; what was booked.

        `ended`: whether the subtask of this entry, drafted by an earlier worker, has come to its end without one.
        `subtask`: only the call of that one is looked at.
        """
        booked = []
        for note in await self._store.unsettled(job, subtask):
            unsettled = Unsettled.of(note)
            if ended(unsettled.lost):
                provider = self._providers.get(unsettled.lost.provider)
                if unsettled.handle is not None and provider is not None:
                    await provider.cancel(unsettled.handle)
                await self._store.settle([charge(unsettled.lost, unsettled.record)])
                booked.append(unsettled.lost)
        return booked

    async def give_up(self, claim: Claim, asked: Asked, known: Collection[str] = ()) -> None:
        """Book the call of a claimed subtask whose end nobody wrote, an earlier worker's or our own, and count it.

        `known`: ids of calls whose end is about to be written.
        """

        def ended(lost: LedgerEntry) -> bool:
            return lost.fence <= claim.fence and lost.call_id not in known

        for lost in await self.abandon(job_of(claim.id), ended, claim.id):
            asked.spend(lost)

    async def booked(self, record: str, subtask: str) -> list[LedgerEntry]:
        """The entries of one subtask below a record that is not filed yet."""
        found = (await self._store.records(record)).items()
        return [read_json(LedgerEntry, body) for id_, body in found if id_.startswith(f"{subtask}.")]

    async def taken_up(self, unsettled: Unsettled, request: ModelRequest, purpose: Purpose) -> Call | None:
        """What became of the call of a worker that vanished: its answer, or None and a guess in the ledger."""
        lost = unsettled.lost
        provider = self._providers.get(lost.provider)
        if unsettled.handle is not None and provider is not None:
            try:
                completion = await provider.collect(unsettled.handle, replace(request, call_id=lost.call_id))
            except ProviderError as error:
                # Fences are the store's time in microseconds, whatever the clocks of the two workers say.
                if error.kind == "unreachable" and purpose.claim.fence - lost.fence < ASK_AGAIN_S * 1e6:
                    raise GiveBack(str(error)) from None
                logger.warning("a call could not be asked for again: %s", error, extra={"attempt": lost.call_id})
                await provider.cancel(unsettled.handle)  # another one is made in its place
            else:
                call = answered(self._config, unsettled.draft(), completion)
                purpose.asked.spend(call.entry)
                return call
        await self._store.settle([charge(lost, unsettled.record)])
        purpose.asked.spend(lost)
        return None
