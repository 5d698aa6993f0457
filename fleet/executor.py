"""The one door to a model: wait for the permit, journal the intent and hold its money, call, settle, leave an entry.

Every provider call leaves exactly one ledger entry, whatever came of it; a call whose worker died is asked for again where
the vendor can, and otherwise booked as possibly paid. It decides whether to ask again after a provider's error; it does not
judge the answer (checks) or choose the tier (router).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from redis.exceptions import RedisError

from fleet.choices import Choice, choose, rates_of
from fleet.config import FleetConfig
from fleet.counterfactual import compared
from fleet.drain import Drain, GiveBack
from fleet.entries import Call, Draft, Purpose, Unsettled, charge
from fleet.errors import BROKEN, NOT_THE_CALL, OF_THE_ACCOUNT, BudgetExceededError, ProviderError, ProviderErrorKind
from fleet.ledger import LedgerEntry
from fleet.prices import usd
from fleet.providers.base import Completion, ModelRequest, Provider
from fleet.store import COORDINATOR, not_ended
from queues.failpoints import failpoint
from queues.limits import End, LateError, Limiter, OutageError, Permit, Told
from queues.store import Store
from queues.subtasks import Claim, Refused

logger = logging.getLogger(__name__)

#: For how long a call is tried again after errors that may pass.
PATIENCE_S = 3_600.0
#: Longest wait for a permit in a worker: a minute's limit has room again by then. Whatever takes longer waits in the backlog.
PERMIT_PATIENCE_S = 75.0
#: For how long a permit is leave to start.
PERMITTED_S = 0.25
#: How long to wait for others to free a part of the budget before the subtask goes back to its backlog, how often to look
#: meanwhile, and how often it may come back.
BUDGET_PATIENCE_S = 2.0
BUDGET_LOOK_S = 0.2
BUDGET_CLAIMS = 300
BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
#: For how long a call in the background is asked for again before another is paid for: vendors keep answers ten minutes.
ASK_AGAIN_S = 600.0
#: For how long a fallback then takes the account's place before it is tried again.
SHUT_S = 60.0
#: An outage that lasts longer, or a vendor that has never answered, pauses the jobs it keeps from going on.
OUTAGE_S = 900.0


class JobCancelled(Exception):
    """The call was not made: its job was cancelled."""


class Executor:
    """Calls models for one process."""

    def __init__(self, config: FleetConfig, providers: Mapping[str, Provider], store: Store, limiter: Limiter) -> None:
        self._config = config
        self._providers = providers
        self._store = store
        self._limiter = limiter
        #: Set when the worker was asked to stop: running calls end, waiting ones are given back.
        self.draining = Drain()
        #: Permits on their way back.
        self._returned: set[asyncio.Task[None]] = set()

    async def call(self, purpose: Purpose, request: ModelRequest) -> Call:
        """Ask the model of `purpose.tier`, again after errors that may pass; `request.model` and `call_id` are set here.

        Raises:
            ProviderError: no answer, after all tries; what the tries cost is booked.
            BudgetExceededError: the job's budget does not cover the call.
            PermitError: the call is larger than a limit.
            GiveBack, JobCancelled: the call was not made.
        """
        choices = self._choices(purpose.tier, request)
        failures = asked = 0
        renewed = False
        deadline = time.monotonic() + PATIENCE_S
        while True:
            asked += 1
            choice, permit = await self._permit(choices, purpose, f"{purpose.subtask}.{purpose.claim.fence}.{asked}")
            permitted = time.monotonic()
            failpoint("permitted")
            attempt = replace(choice.request, call_id=permit.id)
            drafted = choice.draft(purpose, permit.id, permit.waited_ms)
            try:
                found = await self._intend(drafted, choice.request, purpose, permit.begun)
            except BaseException:
                await self._limiter.settle(permit, 0, "unused")
                raise
            if isinstance(found, Call):
                await self._limiter.settle(permit, 0, "unused")
                return found
            drafted = found
            if time.monotonic() - permitted > PERMITTED_S and not renewed:
                # The call of an earlier worker was waited for, or the budget: others have been let start meanwhile.
                try:
                    await self._store.let_go(drafted.intent())
                finally:
                    await self._limiter.settle(permit, 0, "unused")
                renewed = True
                continue
            renewed = False
            purpose.asked.number = drafted.entry.attempt
            try:
                return await self._made(drafted, attempt, permit)
            except ProviderError as error:
                if error.kind in OF_THE_ACCOUNT and choice is not choices[-1]:
                    await self._limiter.shut(choice.account, SHUT_S)
                    continue
                if error.retryable and time.monotonic() >= deadline:
                    raise
                if (again := await self._after(error, purpose, permit, failures)) is None:
                    raise
                failures = again

    async def _after(self, error: ProviderError, purpose: Purpose, permit: Permit, failures: int) -> int | None:
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
            await self.draining.unless(asyncio.sleep(_backoff(failures + 1)))
        return failures + 1

    async def _pause(self, purpose: Purpose, error: ProviderError) -> NoReturn:
        """Nothing fails of what ails the vendor or the account: the job waits for whoever can mend it."""
        tiers = [*self._config.tiers, COORDINATOR]
        guards = [purpose.claim.guard, not_ended(purpose.job)]
        await self._store.stop(purpose.job, "paused", tiers, why=str(error), guards=guards)
        raise GiveBack(f"the job was paused: {error}") from error

    async def remembered(self, purpose: Purpose, request: ModelRequest, memo: str) -> tuple[str, bool]:
        """The answer to a call that is made once per job and `memo`, from the record if it was made before.

        For calls that are no subtask of the plan (plan, reduce, review): a crash after the answer pays nothing twice.
        Returns (text, whether the answer was whole). Raises like `call`.
        """
        kept = await self._store.memo(purpose.job, memo)
        if kept is not None:
            return kept[1:], kept[0] == "+"
        call = await self.call(purpose, request)
        whole = call.completion.finish == "stop"
        body = ("+" if whole else "-") + call.completion.text
        paid = call.charge("ok" if whole else "rejected", None if whole else call.completion.finish)
        await self._store.set_memo(purpose.job, memo, body, [paid])
        # Whoever wrote first is right: another worker may have taken over and be built upon already.
        kept = await self._store.memo(purpose.job, memo) or body
        return kept[1:], kept[0] == "+"

    async def abandon(self, job: str, ended: Callable[[LedgerEntry], bool]) -> None:
        """Book the calls of workers that vanished, where nobody will make another in their place.

        `ended`: whether the subtask of this entry, drafted by an earlier worker, has come to its end without one.
        """
        for note in await self._store.unsettled(job):
            unsettled = Unsettled.of(note)
            if ended(unsettled.lost):
                provider = self._providers.get(unsettled.lost.provider)
                if unsettled.handle is not None and provider is not None:
                    await provider.cancel(unsettled.handle)
                await self._store.settle([charge(unsettled.lost, unsettled.record)])

    async def _made(self, drafted: Draft, attempt: ModelRequest, permit: Permit) -> Call:
        """The answer to a call whose intent is journalled; without one its entry is written here."""
        provider = self._providers[drafted.entry.provider]
        handles: list[str] = []

        async def started(handle: str) -> None:
            # From here on another worker can ask for the answer, instead of for another answer.
            try:
                if await self._store.intend(drafted.intent(handle), under_way=True) is not None:
                    raise GiveBack("another worker has taken over")
            except BaseException:
                await provider.cancel(handle)  # nobody could ask for its answer
                raise
            handles.append(handle)
            failpoint("begun")

        try:
            completion = await provider.complete(attempt, started if attempt.background else None)
        except ProviderError as error:
            if handles and error.kind == "unreachable":
                await self._return(permit, drafted.worst.usage.total, "broken")
                raise GiveBack(str(error)) from None  # Its intent stays, and whoever claims next asks for its answer.
            if handles and error.kind in ("timeout", "malformed"):  # it may run on; another one would be paid beside it
                await provider.cancel(handles[0])
            entry = drafted.failed(error.kind, maybe_billed=error.maybe_billed, request_id=error.request_id)
            await self._store.settle([charge(entry, drafted.record)])
            await self._return(permit, entry.usage.total, _end(error.kind), error.told)
            raise
        except BaseException as error:
            await self._return(permit, drafted.worst.usage.total, "cut")
            if handles:
                if (await self._store.stopped(drafted.entry.job))[0] != "cancelled":
                    raise  # It runs on at the vendor, and whoever takes the subtask over asks for its answer.
                await provider.cancel(handles[0])
            # Cancelled, or a defect of ours: the call may have gone out all the same.
            reason = "cancelled" if isinstance(error, asyncio.CancelledError) else f"internal: {type(error).__name__}"
            await self._store.settle([charge(drafted.failed(reason, maybe_billed=True), drafted.record)])
            raise
        failpoint("answered")
        usage = completion.usage
        allowed = usage.input_tokens + attempt.max_output_tokens
        # It goes back in one batch with what is made of the answer.
        returned = asyncio.create_task(self._return(permit, usage.total, told=completion.told, allowed=allowed))
        self._returned.add(returned)
        returned.add_done_callback(self._returned.discard)
        return self._answered(drafted, completion)

    async def _return(
        self, permit: Permit, tokens: int, end: End = "ended", told: Told | None = None, *, allowed: int = 0
    ) -> None:
        """Give a permit back, if the store lets us: it heals by itself, what was paid for does not."""
        try:
            await self._limiter.settle(permit, tokens, end, told, allowed=allowed)
        except RedisError as error:
            logger.warning("a permit was not returned: %s", error, extra={"attempt": permit.id})

    async def _intend(
        self, drafted: Draft, request: ModelRequest, purpose: Purpose, begun: Refused | bool
    ) -> Draft | Call:
        """Journal the intent and hold its money. The call of an earlier worker, if it can be asked for, instead of ours.

        `begun`: what the permit says of it.
        """
        claim = purpose.claim
        deadline = time.monotonic() + BUDGET_PATIENCE_S
        while True:
            verdict = begun or await self._store.intend(drafted.intent())
            begun = False
            match verdict:
                case None | True:
                    failpoint("intended")
                    return drafted
                case Refused("unsettled", note=note):
                    unsettled = Unsettled.of(note)
                    drafted = drafted.after(unsettled.lost)
                    if (call := await self._taken_up(unsettled, request, claim)) is not None:
                        purpose.asked.number = drafted.entry.attempt - 1
                        return call
                case Refused("short", others=others):
                    if others > 0 and time.monotonic() > deadline and claim.claims < BUDGET_CLAIMS:
                        # Others may need this one's place to free what they hold: lost calls are settled by the next claim.
                        raise GiveBack("others hold what is left of the budget")
                    if others == 0 or time.monotonic() > deadline:
                        cap, used, _ = await self._store.quota(drafted.entry.job)
                        raise BudgetExceededError(
                            f"The budget of {usd(cap or 0)} has {usd((cap or 0) - used)} left and this call may cost "
                            f"{usd(drafted.worst.cost_nano_usd)}; give the job a higher budget_usd."
                        )
                    await self.draining.unless(asyncio.sleep(BUDGET_LOOK_S))
                case Refused("paused"):
                    raise GiveBack("the job is paused")
                case Refused("stale"):
                    raise GiveBack("another worker has taken over")
                case Refused("cancelled"):
                    raise JobCancelled("the job was cancelled")

    async def _taken_up(self, unsettled: Unsettled, request: ModelRequest, claim: Claim) -> Call | None:
        """What became of the call of a worker that vanished: its answer, or None and a guess in the ledger."""
        lost = unsettled.lost
        provider = self._providers.get(lost.provider)
        if unsettled.handle is not None and provider is not None:
            try:
                completion = await provider.collect(unsettled.handle, replace(request, call_id=lost.call_id))
            except ProviderError as error:
                # Fences are the store's time in microseconds, whatever the clocks of the two workers say.
                if error.kind == "unreachable" and claim.fence - lost.fence < ASK_AGAIN_S * 1e6:
                    raise GiveBack(str(error)) from None
                logger.warning("a call could not be asked for again: %s", error, extra={"attempt": lost.call_id})
                await provider.cancel(unsettled.handle)  # another one is made in its place
            else:
                return self._answered(unsettled.draft(), completion)
        await self._store.settle([charge(lost, unsettled.record)])
        return None

    def _answered(self, drafted: Draft, completion: Completion) -> Call:
        rates = rates_of(drafted.entry, self._config, completion)
        return Call(completion, compared(self._config, drafted.answered(completion, rates)), drafted.record)

    def _choices(self, tier: str, request: ModelRequest) -> list[Choice]:
        found = []
        for name in self._config.models_of(tier):
            provider = self._providers[self._config.models[name].provider]
            found.append(choose(self._config, tier, name, request, reattaches=provider.reattaches))
        return found

    async def _permit(self, choices: Sequence[Choice], purpose: Purpose, call_id: str) -> tuple[Choice, Permit]:
        """A permit of the first choice whose account has no outage and is not shut; else of the last."""
        *better, last = choices
        try:
            for choice in better:
                with contextlib.suppress(OutageError):
                    return choice, await self._acquire(choice, purpose, call_id, sit_out=False)
            return last, await self._acquire(last, purpose, call_id, sit_out=purpose.role != "audit")
        except LateError as error:
            raise GiveBack(str(error)) from None

    async def _acquire(self, choice: Choice, purpose: Purpose, call_id: str, *, sit_out: bool) -> Permit:
        return await self.draining.unless(
            self._limiter.acquire(
                choice.account,
                choice.allowance,
                tokens=choice.tokens,
                permit_id=call_id,
                lease_s=choice.request.timeout_s + 30,
                patience_s=PERMIT_PATIENCE_S,
                sit_out=sit_out,
                intent=choice.draft(purpose, call_id).intent(),
                lane=choice.tier,
            )
        )


def _end(kind: ProviderErrorKind) -> End:
    if kind == "rate_limit":
        return "refused"
    return "broken" if kind in BROKEN else "ended"


def _backoff(failures: int) -> float:
    """Exponential with full jitter."""
    longest: float = min(MAX_BACKOFF_S, BACKOFF_S * 2**failures)
    return longest * random.uniform(0.1, 1.0)  # noqa: S311  no secret
