"""The one door to a model: reserve the money, wait for the permit, call, settle both, and leave a ledger entry per call.

Every provider call leaves exactly one entry, whatever came of it. It decides whether to ask again after a provider's
error; it does not judge the answer (checks) or choose the tier (router).
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fleet.config import FleetConfig, Limits
from fleet.errors import BudgetExceededError, ProviderError
from fleet.ledger import CallStatus, LedgerEntry, Role
from fleet.prices import Usage, cost_nano_usd, usd
from fleet.providers.base import Completion, ModelRequest, Provider
from fleet.tokens import request_upper_bound
from queues.limits import Allowance, Limiter
from queues.store import Charge, Store

logger = logging.getLogger(__name__)

#: Longest wait for a permit; waiting costs a coroutine, no attempt.
PATIENCE_S = 3_600.0
#: Longest wait for running calls to free a part of the budget, and how often to look.
BUDGET_PATIENCE_S = 600.0
BUDGET_LOOK_S = 0.2
BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
#: What a wire adds around the texts of a request.
OVERHEAD_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a call is for: the fields of its ledger entry that the caller knows."""

    job: str
    #: The subtask (or memo key) that the call works for; it holds the budget, so one call at a time per subtask.
    subtask: str
    fence: int
    step: str
    kind: str
    role: Role
    tier: str


@dataclass(frozen=True, slots=True)
class Call:
    """An answered call whose entry waits for its verdict: write `charge(...)` together with what comes of the answer."""

    completion: Completion
    entry: LedgerEntry

    def charge(self, status: CallStatus, reason: str | None = None) -> Charge:
        return _charge(self.entry.model_copy(update={"status": status, "reason": reason}))


class Executor:
    """Calls models for one process."""

    def __init__(self, config: FleetConfig, providers: Mapping[str, Provider], store: Store, limiter: Limiter) -> None:
        self._config = config
        self._providers = providers
        self._store = store
        self._limiter = limiter

    async def call(self, purpose: Purpose, request: ModelRequest) -> Call:
        """Ask the model of `purpose.tier`, again after errors that may pass; `request.model` and `call_id` are set here.

        Raises:
            ProviderError: no answer, after all tries; what the tries cost is booked.
            BudgetExceededError: the job's budget does not cover the call.
            PermitError: no permit within an hour, or none possible.
        """
        model_name, model = self._config.model_of(purpose.tier)
        timeout_s = self._config.tiers[purpose.tier].timeout_s
        request = replace(
            request,
            model=model_name,
            max_output_tokens=min(request.max_output_tokens, model.max_output_tokens),
            reasoning_effort=model.reasoning_effort,
            timeout_s=timeout_s,
        )
        texts = (request.instructions, request.prompt, json.dumps(request.schema or {}))
        images = [image.data for image in request.images]
        tokens = request_upper_bound(texts, images, request.max_output_tokens) + OVERHEAD_TOKENS
        # The permit's estimate is safe for nearly all texts; money is reserved for a token per byte, which none
        # exceeds.
        bound = Usage(input_tokens=2 * (tokens - request.max_output_tokens), output_tokens=request.max_output_tokens)
        worst = cost_nano_usd(model_name, model, bound)
        account = f"{model.provider}/{model_name}"
        failures = 0
        asked = 0
        deadline = time.monotonic() + PATIENCE_S
        while True:
            asked += 1
            attempt = replace(request, call_id=f"{purpose.subtask}.{purpose.fence}.{asked}")
            await self._reserve(purpose, worst)
            try:
                permit = await self._limiter.acquire(
                    account,
                    _allowance(model.limits),
                    tokens=tokens,
                    permit_id=attempt.call_id,
                    lease_s=timeout_s + 30,
                    patience_s=max(0.0, deadline - time.monotonic()),
                )
            except BaseException:
                await self._store.hold(purpose.job, purpose.subtask, 0)
                raise
            started = time.time()
            draft = LedgerEntry(
                call_id=attempt.call_id,
                job=purpose.job,
                subtask=purpose.subtask,
                step=purpose.step,
                kind=purpose.kind,
                role=purpose.role,
                tier=purpose.tier,
                model=model_name,
                answered_model=None,
                provider=model.provider,
                usage=Usage(),
                usage_reported=True,
                cost_nano_usd=0,
                status="ok",
                reason=None,
                request_id=None,
                fence=purpose.fence,
                started_at=started,
                finished_at=started,
                waited_ms=permit.waited_ms,
                latency_ms=0,
            )
            try:
                completion = await self._providers[model.provider].complete(attempt)
            except ProviderError as error:
                # A call whose end is unknown may be on the bill: it is booked at its worst case, and marked.
                used, cost = (bound, worst) if error.maybe_billed else (Usage(), 0)
                await self._limiter.settle(permit, used.total)
                await self._store.settle([_charge(_closed(draft, error.kind, used, cost, error.request_id))])
                if not error.retryable:
                    raise
                if error.kind == "rate_limit":
                    await self._limiter.pause(account, error.retry_after or 1.0)
                    if time.monotonic() >= deadline:
                        raise
                    continue
                failures += 1
                if failures >= self._config.call_tries:
                    raise
                await asyncio.sleep(error.retry_after or _backoff(failures))
            except BaseException as error:
                # Cancelled, or a defect of ours: the call may have gone out all the same.
                reason = (
                    "cancelled" if isinstance(error, asyncio.CancelledError) else f"internal: {type(error).__name__}"
                )
                await self._limiter.settle(permit, tokens)
                await self._store.settle([_charge(_closed(draft, reason, bound, worst))])
                raise
            else:
                await self._limiter.settle(permit, completion.usage.total)
                cost = cost_nano_usd(model_name, model, completion.usage)
                return Call(completion, _answered(draft, completion, cost))

    async def remembered(self, purpose: Purpose, request: ModelRequest, memo: str) -> tuple[str, bool]:
        """The answer to a call that is made once per job and `memo`, from the record if it was made before.

        For calls that are no subtask of the plan (plan, reduce, review): a crash after the answer pays nothing twice.
        Returns (text, whether the answer was whole). Raises like `call`.
        """
        record = f"{purpose.job}:memo"
        kept = await self._store.link.execute("HGET", f"{self._store.namespace}:r:{record}", memo, idempotent=True)
        if kept is not None:
            text: str = kept.decode()
            return text[1:], text[0] == "+"
        call = await self.call(purpose, request)
        whole = call.completion.finish == "stop"
        body = ("+" if whole else "-") + call.completion.text
        charge = call.charge("ok" if whole else "rejected", None if whole else call.completion.finish)
        await self._store.settle([charge, Charge(record, memo, body, purpose.job, "", 0)])
        return body[1:], whole

    async def _reserve(self, purpose: Purpose, worst: int) -> None:
        deadline = time.monotonic() + BUDGET_PATIENCE_S
        while True:
            held, others = await self._store.hold(purpose.job, purpose.subtask, worst)
            if held:
                return
            if others == 0 or time.monotonic() > deadline:
                cap, used, _ = await self._store.quota(purpose.job)
                raise BudgetExceededError(
                    f"The budget of {usd(cap or 0)} has {usd((cap or 0) - used)} left and this call may cost "
                    f"{usd(worst)}; give the job a higher budget_usd."
                )
            await asyncio.sleep(BUDGET_LOOK_S)


def _answered(draft: LedgerEntry, completion: Completion, cost: int) -> LedgerEntry:
    finished = time.time()
    return draft.model_copy(
        update={
            "answered_model": completion.model,
            "usage": completion.usage,
            "usage_reported": completion.usage_reported,
            "cost_nano_usd": cost,
            "request_id": completion.request_id,
            "finished_at": finished,
            "latency_ms": round((finished - draft.started_at) * 1000),
        }
    )


def _closed(draft: LedgerEntry, reason: str, used: Usage, cost: int, request_id: str | None = None) -> LedgerEntry:
    """The entry of a call without an answer; one that used anything by our estimate is marked as not reported."""
    finished = time.time()
    return draft.model_copy(
        update={
            "usage": used,
            "usage_reported": used.total == 0,
            "cost_nano_usd": cost,
            "status": "failed",
            "reason": reason,
            "request_id": request_id,
            "finished_at": finished,
            "latency_ms": round((finished - draft.started_at) * 1000),
        }
    )


def _charge(entry: LedgerEntry) -> Charge:
    return Charge(
        record=entry.job,
        id=entry.call_id,
        body=entry.model_dump_json(),
        quota=entry.job,
        hold=entry.subtask or "",
        amount=entry.cost_nano_usd,
        tally={"calls": 1, "tokens": entry.usage.total},
    )


def _allowance(limits: Limits) -> Allowance:
    return Allowance(limits.requests_per_minute, limits.tokens_per_minute, limits.in_flight)


def _backoff(failures: int) -> float:
    """Exponential with full jitter."""
    longest: float = min(MAX_BACKOFF_S, BACKOFF_S * 2**failures)
    return longest * random.uniform(0.1, 1.0)  # noqa: S311  no secret


def ask(prompt: str, **fields: Any) -> ModelRequest:
    """A request whose model, call id and timeout the executor fills in."""
    return ModelRequest(call_id="", model="", prompt=prompt, **fields)
