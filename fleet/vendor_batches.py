"""Carries a lot of calls through a vendor's batch: sent, begun once, looked at, taken back in time, its answers booked.

The vendor's side; batches of callers of the fleet's own API are `fleet.batches`. Each look is a claim of its own on the lot,
which is put by in between, so that a batch of hours takes nobody's place; whatever process dies, the next look goes on from what
is written down. Who waits for a line is ready once its lot has ended, and finds the answer in the lot's blob (`fleet.lines`).

A line's money is held until its batch has ended. What an answer cost is booked then, as a guess that gives way to the verdict on
it; what was not run costs nothing. A batch that cannot be asked for any more is booked at its worst. Of one that is not back in
time, whatever its vendor does, the lines are given back: they are booked at their worst, as guesses, and go on, and it is looked
at for the truth about them alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from fleet.batch_books import charge_of, found_out, given_back, unsettled_of
from fleet.config import FleetConfig
from fleet.context import Context, passes
from fleet.entries import Unsettled, charge
from fleet.errors import JobNotFoundError, ProviderError
from fleet.jobs import JobStatus
from fleet.lines import Route, Sent, lot_blob, read_answers, read_lines, remove_lines, write_answers
from fleet.providers.base import BatchProvider, BatchStanding, Completion, Provider
from fleet.runner import NotOurs
from fleet.subject import also_about
from queues.failpoints import failpoint
from queues.lots import Lots
from queues.subtasks import Charge, Claim, Refusal

logger = logging.getLogger(__name__)

#: Vendors end a batch within a day; for so long it is looked at.
GIVEN_UP_S = 26 * 3_600.0
#: Of the time that is kept for asking at once (`back_s`), what the vendor has to give back a batch that it was told to cancel.
FOR_THE_VENDOR = 0.5
#: Looks in a row that say that a batch is not known, or whose answers cannot be read, before that is believed.
LOOKS_TO_BELIEVE = 5
#: Tries of sending a batch, and longest wait between two.
MOST_TRIES, LONGEST_WAIT_S = 8, 300.0
#: How much earlier than it was asked for a vendor's clock may say that a batch was begun.
CLOCKS_APART_S = 3_600.0
#: Processes that may die looking at a lot without one look in between that went well, before it is given up.
MOST_KILLS = 10
#: What befell a line of which the vendor says nothing although nobody cancelled its batch: that was not taken, or was no good.
NOT_RUN = ProviderError("The vendor did not run it in a batch.", kind="server", retryable=True)
FULL = ProviderError("The vendor has no room for another batch of this account yet.", kind="rate_limit", retryable=True)
#: Charges written in one script.
SHARD = 200


@dataclass(frozen=True, slots=True)
class State:
    """How far a lot has come: its trail."""

    #: When it was first looked at (Unix seconds of the store).
    since: float = 0.0
    #: The vendor's id of the batch.
    handle: str | None = None
    #: Looks, or tries, in a row that came to nothing.
    failed: int = 0
    #: The blob that says what became of its lines, once there is one, and the vendor's ids of its files.
    answers: str | None = None
    files: tuple[str, ...] = ()
    #: The blob with the lines that were given back before it had ended.
    given: str | None = None

    def written(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, trail: str) -> State:
        data = json.loads(trail or "{}")
        return cls(
            data.get("since", 0.0),
            data.get("handle"),
            data.get("failed", 0),
            data.get("answers"),
            tuple(data.get("files", ())),
            data.get("given"),
        )


class VendorBatches:
    """Carries the lots of one process."""

    def __init__(self, context: Context, providers: Mapping[str, Provider]) -> None:
        self._context = context
        self._config: FleetConfig = context.config
        self._providers = providers
        self._lots: Lots = context.lines.lots

    async def carry(self, lot: str, tier: str) -> dict[str, str]:
        """One look at a lot; the reference of what is final. Raises NotOurs, ClaimLost, RedisError."""
        claim = await self._context.store.claim(lot, tier)
        if isinstance(claim, Refusal):
            if claim.status is not None:
                return {"id": lot, "status": claim.status}
            raise NotOurs(claim.why)
        failpoint("claimed")
        route, state = Route.of(claim.payload), State.of(claim.trail)
        also_about(job=route.job)
        async with self._context.claims.held(claim):
            try:
                return await _Look(self, claim, route, state).go()
            except NotOurs:
                raise
            except Exception as error:
                if passes(error):
                    await self._context.give_back(claim, error, claim.trail)
                    raise NotOurs(f"the store or the disk failed: {error}") from error
                # The lines wait for it: it is looked at again, and given up at last, but never just left.
                logger.exception("a look at a batch failed on an error of our own", extra={"subtask": lot})
                await self._lots.put_by(claim, claim.trail, LONGEST_WAIT_S)
                raise NotOurs("it is looked at again") from error


class _Look:
    """One look, under one claim."""

    def __init__(self, carrier: VendorBatches, claim: Claim, route: Route, state: State) -> None:
        self._context = carrier._context
        self._lots = carrier._lots
        self._lanes = carrier._config.lanes
        self._model = carrier._config.models.get(route.model)
        provider = carrier._providers.get(route.provider)
        self._batches: BatchProvider | None = None if provider is None else provider.batches
        self._claim = claim
        self._route = route
        self._state = state if state.since else replace(state, since=claim.fence / 1e6)
        #: The batch that was begun under this claim.
        self._begun: str | None = None

    async def go(self) -> dict[str, str]:
        if self._state.answers is not None:
            return await self._book(self._state.answers)
        if self._state.given is not None:
            await self._let_go(self._state.given)
        if self._batches is None or self._model is None or self._claim.kills >= MOST_KILLS:
            return await self._lost()
        try:
            standing = await self._standing(self._batches)
        except ProviderError as error:
            return await self._failed(error)
        if standing is None:
            return await self._close({}, None, self._unsent())
        if not standing.ended:
            return await self._wait(self._batches, standing)
        if standing.full:
            self._state = replace(self._state, handle=None, failed=min(self._state.failed, MOST_TRIES - 2))
            return await self._failed(FULL)
        try:
            answers = await self._batches.answers(standing, self._route.route)
        except ProviderError as error:
            return await self._failed(error)
        return await self._close(answers, standing, None if standing.cancelled else NOT_RUN)

    async def _standing(self, batches: BatchProvider) -> BatchStanding | None:
        """The batch as it stands, begun if it was not yet; None: it is not to be begun. Raises ProviderError."""
        if self._state.handle is not None:
            return await batches.look(self._state.handle)
        # Whoever claimed it before may have begun a batch and died, or waited in vain for the answer to that.
        if self._claim.claims > 1:
            found = await batches.find(self._claim.id, self._state.since - CLOCKS_APART_S)
            if found is not None:
                self._state = replace(self._state, handle=found.handle, failed=0)
                return found
        if await self._over() or self._state.failed >= MOST_TRIES:
            return None
        call_ids = [unsettled.lost.call_id for unsettled in await self._unsettled()]
        data = await asyncio.to_thread(read_lines, self._context.blobs, self._route.job, call_ids)
        if not data:
            return None
        file = await batches.upload(data)
        failpoint("uploaded")
        if (await self._context.store.fields(self._claim.id, "fence"))[0] != str(self._claim.fence):
            raise NotOurs("the claim was lost before the batch was begun")
        standing = await batches.begin(file, self._route.route, self._claim.id)
        self._begun = standing.handle
        failpoint("batched")
        self._state = replace(self._state, handle=standing.handle, failed=0)
        return standing

    async def _wait(self, batches: BatchProvider, standing: BatchStanding) -> dict[str, str]:
        """Look again later; what is out of time, or wanted no more, is taken back meanwhile."""
        if time.time() - self._state.since > GIVEN_UP_S:
            return await self._lost()
        if await self._over():
            await self._cancel(batches, standing.handle)
        self._state = replace(self._state, failed=0)
        if self._too_late_in_s() <= 0:
            return await self._give_back()
        await self._again(self._lanes.poll_s)
        raise NotOurs("its batch has not ended")

    async def _over(self) -> bool:
        """Whether the lines are to be asked at once by now, or the job is stopped or has ended."""
        if time.time() >= self._route.due - self._lanes.back_s:
            return True
        status = await self._job_status()
        return status is None or status.final or status is JobStatus.PAUSED

    async def _failed(self, error: ProviderError) -> dict[str, str]:
        """Asking failed: it is asked again, as long as that may help; nothing is begun twice."""
        state = self._state
        logger.warning("a batch could not be asked for: %s", error, extra={"subtask": self._claim.id})
        if state.handle is None and not error.retryable:
            # It says itself that it began nothing, and each line, asked at once, will tell whom it concerns what ails it.
            return await self._close({}, None, error)
        believed = error.kind in ("not_found", "malformed") and state.failed + 1 >= LOOKS_TO_BELIEVE
        given_up = time.time() - state.since > GIVEN_UP_S
        if (state.handle is not None and (believed or given_up)) or (state.given is not None and given_up):
            return await self._lost()
        if self._batches is not None and state.handle is not None and await self._over():
            await self._cancel(self._batches, state.handle)
        self._state = replace(state, failed=state.failed + 1)
        if self._too_late_in_s() <= 0:
            return await self._give_back()
        asked = error.retry_after or self._lanes.poll_s * 2 ** min(state.failed, 6)
        await self._again(min(asked, max(LONGEST_WAIT_S, self._lanes.poll_s)))
        raise NotOurs(str(error))

    async def _cancel(self, batches: BatchProvider, handle: str) -> None:
        try:
            await batches.cancel(handle)
        except ProviderError as error:
            logger.info("a batch could not be cancelled: %s", error, extra={"subtask": self._claim.id})

    def _too_late_in_s(self) -> float:
        """Seconds until the lines are given back although their batch has not ended; they are, once."""
        if self._state.given is not None:
            return math.inf
        return self._route.due - self._lanes.back_s * (1 - FOR_THE_VENDOR) - time.time()

    async def _give_back(self) -> dict[str, str]:
        """Write down which lines are not waited for any longer; they go on at the next look, by whoever holds the claim then."""
        logger.warning("a batch is not back in time; its lines are asked at once", extra={"subtask": self._claim.id})
        name = lot_blob(self._route.job, self._claim.id, self._claim.fence)
        sent = given_back(await self._unsettled())
        await asyncio.to_thread(write_answers, self._context.blobs, name, sent)
        failpoint("given_back")
        self._state = replace(self._state, given=name)
        await self._again(0)
        raise NotOurs("its lines are given back")

    async def _let_go(self, name: str) -> None:
        """Book lines that are given back as if all were run, then let them go on. Safe to repeat."""
        if not await self._lots.members(self._claim.id):
            return
        await self._settle([charge_of(one, wanted=False) for one in await asyncio.to_thread(self._read, name)])
        failpoint("booked_back")
        if not await self._lots.dismiss(self._claim, name):
            raise NotOurs("the claim was lost before its lines could go on")
        failpoint("dismissed")

    async def _again(self, seconds: float) -> None:
        seconds = min(seconds, max(0.0, self._too_late_in_s()))
        written = await self._lots.put_by(self._claim, self._state.written(), seconds)
        if not written and self._begun is not None and self._batches is not None:
            # Whoever has the claim now may have begun another: of two batches the one that nobody knows of is not to be paid.
            with contextlib.suppress(ProviderError):
                await self._batches.cancel(self._begun)

    def _unsent(self) -> ProviderError | None:
        """Why no batch was begun; None: it was not wanted any more."""
        return None if self._state.failed < MOST_TRIES else NOT_RUN

    async def _close(
        self,
        answers: Mapping[str, Completion | ProviderError],
        standing: BatchStanding | None,
        otherwise: ProviderError | None = None,
    ) -> dict[str, str]:
        """Write down what became of each line; it is booked at the next look, by whoever holds the claim then.

        What is written counts only once the trail names it: a worker that lost its claim may have looked too early.
        `standing`: the batch, None where none was begun. `otherwise`: what befell lines of which nothing is said.
        """
        sent = found_out(await self._unsettled(), answers, otherwise, self._context.config)
        name = lot_blob(self._route.job, self._claim.id, self._claim.fence)
        await asyncio.to_thread(write_answers, self._context.blobs, name, sent)
        failpoint("collected")
        files = () if standing is None else standing.files
        self._state = replace(self._state, answers=name, files=files, failed=0)
        await self._again(0)
        raise NotOurs("what became of its lines is written down")

    async def _book(self, name: str) -> dict[str, str]:
        """Book all lines, then let those go on who wait for them. Safe to repeat."""
        sent = await asyncio.to_thread(self._read, name)
        status = await self._job_status()
        wanted = self._state.given is None and status is not None and not status.final
        await self._settle([charge_of(one, wanted=wanted) for one in sent])
        failpoint("settled")
        await asyncio.to_thread(remove_lines, self._context.blobs, self._route.job, [one.entry.call_id for one in sent])
        # Whoever asks again after its lines were given back finds that they were, whatever came of them since.
        return await self._end(self._state.given or name)

    async def _lost(self) -> dict[str, str]:
        """Nobody can say what became of it: every line may have been run, and is booked at its worst."""
        if self._batches is not None and self._state.handle is not None:
            await self._cancel(self._batches, self._state.handle)
        if (await self._context.store.fields(self._claim.id, "fence"))[0] != str(self._claim.fence):
            raise NotOurs("the claim was lost before the batch was given up")
        await self._settle([charge(unsettled.lost, unsettled.record) for unsettled in await self._unsettled()])
        return await self._end()

    async def _settle(self, charges: list[Charge]) -> None:
        for start in range(0, len(charges), SHARD):
            await self._context.store.settle(charges[start : start + SHARD])

    async def _end(self, answers: str = "") -> dict[str, str]:
        if not await self._context.store.finish(self._claim, "ok", answers):
            raise NotOurs("the claim was lost before the end was written")
        await self._lots.forget(self._claim.id)
        if self._state.handle is not None and self._batches is not None:
            await self._batches.forget(BatchStanding(self._state.handle, ended=True, files=self._state.files))
        return {"id": self._claim.id, "status": "ok"}

    async def _unsettled(self) -> list[Unsettled]:
        """The lines of the lot whose end is not written; of those that were given back the truth is not."""
        if self._state.given is not None:
            return unsettled_of(await asyncio.to_thread(self._read, self._state.given))
        members = await self._lots.members(self._claim.id)
        notes = map(Unsettled.of, await self._context.store.unsettled(self._route.job))
        return [one for one in notes if one.lost.lane == "batch" and one.lost.subtask in members]

    def _read(self, name: str) -> list[Sent]:
        return read_answers(self._context.blobs, name)

    async def _job_status(self) -> JobStatus | None:
        try:
            return (await self._context.jobs.load(self._route.job)).status
        except JobNotFoundError:
            return None
