"""The one door to a model: wait for the permit, journal the intent and hold its money, call, settle, leave an entry.

Every provider call leaves exactly one ledger entry, whatever came of it; a call whose worker died is asked for again where
the vendor can, and otherwise booked as possibly paid. It decides whether to ask again after a provider's error; it does not
judge the answer (checks) or choose the tier (router).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from fleet.caps import Caps
from fleet.choices import Choice, answered, choose, in_time
from fleet.config import FleetConfig
from fleet.drain import Drain, GiveBack
from fleet.entries import Call, Draft, Purpose, Unsettled, charge
from fleet.errors import ProviderError
from fleet.failures import OF_THE_ACCOUNT, end_of
from fleet.fitting import CUT, Fitting, Lines, wait_or_fail
from fleet.lanes import waits_for_flex
from fleet.lost_calls import LostCalls
from fleet.permits import Permits
from fleet.providers.base import BatchProvider, ModelRequest, Provider
from fleet.trying_again import TryingAgain
from queues.failpoints import failpoint
from queues.limits import Limiter, Permit
from queues.store import Store
from queues.subtasks import Intent, Refused

logger = logging.getLogger(__name__)

#: For how long a call is tried again after errors that may pass.
PATIENCE_S = 3_600.0
#: For how long a permit is leave to start.
PERMITTED_S = 0.25
#: For how long a fallback then takes the account's place before it is tried again.
SHUT_S = 60.0

#: Journals an intent, or says why not.
Journal = Callable[[Intent], Awaitable[Refused | None]]


class JobCancelled(Exception):
    """The call was not made: its job was cancelled."""


class _ShortError(Exception):
    """A budget does not cover the call, now."""

    def __init__(self, refused: Refused) -> None:
        self.refused = refused


@dataclass(frozen=True, slots=True)
class _Begun:
    """A call that may be made now; `last`: no other model may take its place."""

    choice: Choice
    last: bool
    permit: Permit
    drafted: Draft


class Executor:
    """Calls models for one process."""

    def __init__(self, config: FleetConfig, providers: Mapping[str, Provider], store: Store, limiter: Limiter) -> None:
        self._config = config
        self._providers = providers
        self._store = store
        self._limiter = limiter
        self._caps = Caps(config)
        self._lines = Lines()
        #: Set when the worker was asked to stop: running calls end, waiting ones are given back.
        self.draining = Drain()
        self._permits = Permits(limiter, self.draining, self._caps)
        #: What earlier workers, or errors of ours, left behind.
        self.lost = LostCalls(config, providers, store)
        self._trying = TryingAgain(config, store, limiter, self.draining)
        #: Permits on their way back.
        self._returned: set[asyncio.Task[None]] = set()

    async def call(self, purpose: Purpose, request: ModelRequest) -> Call:
        """Ask the model of `purpose.tier`, again after errors that may pass; `request.model` and `call_id` are set here.

        Raises:
            ProviderError: no answer, after all tries; what the tries cost is booked.
            BudgetExceededError: a budget does not cover the call.
            PermitError: the call is larger than a limit.
            GiveBack, JobCancelled: the call was not made.
        """
        with Fitting(self._lines, purpose, self._choices(purpose, request)) as fitting:
            while True:
                call = await self._fitted(purpose, request, fitting)
                if fitting.is_whole(call.completion):
                    return call
                await self._store.settle([call.charge("rejected", CUT)])

    async def _fitted(self, purpose: Purpose, request: ModelRequest, fitting: Fitting) -> Call:
        """An answer to one of the choices that fit the budgets."""
        failures = refused = 0
        deadline = time.monotonic() + PATIENCE_S
        while True:
            begun = await self._begin(purpose, request, fitting)
            if isinstance(begun, Call):
                return begun
            choice = begun.choice
            try:
                return await self._made(begun, purpose)
            except ProviderError as error:
                if choice.lane == "flex" and error.retryable:
                    refused += error.kind == "unavailable"
                    left_s = None if purpose.due is None else purpose.due - time.time()
                    timeout_s = self._config.tiers[choice.tier].timeout_s
                    wait_s = waits_for_flex(refused, left_s, choice.model, self._config.lanes, timeout_s=timeout_s)
                    if wait_s is None:
                        purpose = replace(purpose, lane="standard")
                        fitting.instead(self._choices(purpose, request))
                    if error.kind == "unavailable":
                        await self.draining.unless(asyncio.sleep(wait_s or 0.0))
                        continue
                if error.kind in OF_THE_ACCOUNT and not begun.last:
                    await self._limiter.shut(choice.account, SHUT_S)
                    continue
                if error.retryable and time.monotonic() >= deadline:
                    raise
                if (again := await self._trying.after(error, purpose, begun.permit, failures)) is None:
                    raise
                failures = again

    async def _begin(self, purpose: Purpose, request: ModelRequest, fitting: Fitting) -> _Begun | Call:
        """A call that may be made now: permitted, journalled, its money held. Or the answer to one of an earlier worker."""
        renewed = False
        while True:
            choices = fitting.choices
            choice, permit = await self._permits.first(choices, purpose, fitting.next_id())
            last, choice = choice is choices[-1], self._in_time(choice, purpose)
            permitted = time.monotonic()
            failpoint("permitted")
            drafted = choice.draft(purpose, permit.id, permit.waited_ms)
            try:
                found = await self._intend(drafted, choice.request, purpose, permit.begun)
            except BaseException as error:
                await self._limiter.settle(permit, 0, "unused")
                if not isinstance(error, _ShortError):
                    raise
                await self.draining.unless(fitting.after(error.refused, choice.name, self._within(purpose, request)))
                continue
            fitting.begun()
            if isinstance(found, Call):
                await self._limiter.settle(permit, 0, "unused")
                return found
            if time.monotonic() - permitted <= PERMITTED_S or renewed:
                purpose.asked.number = found.entry.attempt
                return _Begun(choice, last, permit, found)
            # The call of an earlier worker was waited for: others have been let start meanwhile.
            try:
                await self._store.let_go(found.intent())
            finally:
                await self._limiter.settle(permit, 0, "unused")
            renewed = True

    async def remembered(self, purpose: Purpose, request: ModelRequest, memo: str) -> tuple[str, bool]:
        """The answer to a call that is made once per job and `memo`, from the record if it was made before.

        For calls that are no subtask of the plan (plan, reduce, review): a crash after the answer pays nothing twice.
        Returns (text, whether the answer was whole). Raises like `call`.
        """
        kept = await self._store.memo(purpose.job, memo)
        if kept is not None:
            return kept[1:], kept[0] == "+"
        if purpose.claim.claims > 1:
            purpose.asked.catch_up(await self.lost.booked(purpose.record, purpose.subtask))
        call = await self.call(purpose, request)
        whole = call.completion.finish == "stop"
        body = ("+" if whole else "-") + call.completion.text
        paid = call.charge("ok" if whole else "rejected", None if whole else call.completion.finish)
        try:
            await self._store.set_memo(purpose.job, memo, body, [paid])
        except ValueError as error:  # what a model says can be text that cannot be written
            await self._store.settle([call.charge("failed", f"internal: {type(error).__name__}")])
            raise
        # Whoever wrote first is right: another worker may have taken over and be built upon already.
        kept = await self._store.memo(purpose.job, memo) or body
        return kept[1:], kept[0] == "+"

    async def _made(self, begun: _Begun, purpose: Purpose) -> Call:
        """The answer to a call whose intent is journalled; without one its entry is written here."""
        drafted, permit = begun.drafted, begun.permit
        attempt = replace(begun.choice.request, call_id=permit.id)
        provider = self._providers[drafted.entry.provider]
        handles: list[str] = []

        async def started(handle: str) -> None:
            # From here on another worker can ask for the answer, instead of for another answer.
            try:
                if await self._store.intend(self._caps.over(drafted.intent(handle)), under_way=True) is not None:
                    raise GiveBack("another worker has taken over")
            except BaseException:
                await provider.cancel(handle)  # nobody could ask for its answer
                raise
            handles.append(handle)
            failpoint("begun")

        try:
            completion = await provider.complete(attempt, started if attempt.background else None)
            call = answered(self._config, drafted, completion)
        except ProviderError as error:
            if handles and error.kind == "unreachable":
                await self._permits.give_back(permit, drafted.worst.usage.total, "broken")
                raise GiveBack(str(error)) from None  # Its intent stays, and whoever claims next asks for its answer.
            if handles and error.kind in ("timeout", "malformed"):  # it may run on; another one would be paid beside it
                await provider.cancel(handles[0])
            entry = drafted.failed(error.kind, maybe_billed=error.maybe_billed, request_id=error.request_id)
            await self._store.settle([charge(entry, drafted.record)])
            purpose.asked.spend(entry)
            await self._permits.give_back(permit, entry.usage.total, end_of(error.kind), error.told)
            raise
        except BaseException as error:
            await self._permits.give_back(permit, drafted.worst.usage.total, "cut")
            if handles:
                if (await self._store.stopped(drafted.entry.job))[0] != "cancelled":
                    raise  # It runs on at the vendor, and whoever takes the subtask over asks for its answer.
                await provider.cancel(handles[0])
            # Cancelled, or a defect of ours: the call may have gone out all the same.
            reason = "cancelled" if isinstance(error, asyncio.CancelledError) else f"internal: {type(error).__name__}"
            entry = drafted.failed(reason, maybe_billed=True)
            await self._store.settle([charge(entry, drafted.record)])
            purpose.asked.spend(entry)
            raise
        failpoint("answered")
        usage = call.completion.usage
        allowed = usage.input_tokens + attempt.max_output_tokens
        # It goes back in one batch with what is made of the answer.
        returned = asyncio.create_task(
            self._permits.give_back(permit, usage.total, told=completion.told, allowed=allowed)
        )
        self._returned.add(returned)
        returned.add_done_callback(self._returned.discard)
        purpose.asked.spend(call.entry)
        return call

    async def join(self, purpose: Purpose, choice: Choice, call_id: str, journal: Journal) -> Call | None:
        """Hold the money of a call that is made as a line of a batch; no permit: batches have limits of their own.

        The call of an earlier worker, if it can be asked for, instead of the line. Raises as `call` does.
        """
        try:
            found = await self._intend(choice.draft(purpose, call_id), choice.request, purpose, False, journal)
        except _ShortError as error:
            await self.draining.unless(wait_or_fail(purpose, error.refused, choice.worst.cost_nano_usd))
            raise GiveBack("others hold what is left of the budget") from None
        return found if isinstance(found, Call) else None

    def batches_of(self, tier: str) -> BatchProvider | None:
        """The batches of the account of a tier's model."""
        return self._providers[self._config.model_of(tier)[1].provider].batches

    async def _intend(
        self,
        drafted: Draft,
        request: ModelRequest,
        purpose: Purpose,
        begun: Refused | bool,
        journal: Journal | None = None,
    ) -> Draft | Call:
        """Journal the intent and hold its money. The call of an earlier worker, if it can be asked for, instead of ours.

        `begun`: what the permit says of it. `journal`: instead of the store's, and something else in the same moment.
        Raises _ShortError.
        """
        while True:
            verdict = begun or await (journal or self._store.intend)(self._caps.over(drafted.intent()))
            begun = False
            match verdict:
                case None | True:
                    failpoint("intended")
                    return drafted
                case Refused("unsettled", note=note):
                    unsettled = Unsettled.of(note)
                    drafted = drafted.after(unsettled.lost)
                    if (call := await self.lost.taken_up(unsettled, request, purpose)) is not None:
                        return call
                case Refused("short") as short:
                    raise _ShortError(short)
                case Refused("paused"):
                    raise GiveBack("the job is paused")
                case Refused("stale"):
                    raise GiveBack("another worker has taken over")
                case Refused("cancelled"):
                    raise JobCancelled("the job was cancelled")

    def _in_time(self, choice: Choice, purpose: Purpose) -> Choice:
        says_default = self._providers[choice.model.provider].says_default
        return in_time(self._config, choice, purpose.due, says_default=says_default)

    def _within(self, purpose: Purpose, request: ModelRequest) -> Callable[[int], list[Choice]]:
        """The choices with at most so much output."""
        return lambda limit: self._choices(purpose, replace(request, max_output_tokens=limit))

    def _choices(self, purpose: Purpose, request: ModelRequest) -> list[Choice]:
        found = []
        for name in self._config.models_of(purpose.tier):
            its = self._providers[self._config.models[name].provider]
            told = {"reattaches": its.reattaches, "says_default": its.says_default}
            found.append(choose(self._config, purpose.tier, name, request, **told, lane=purpose.lane))
        return found
