"""One subtask from claim to its end: its needs, its prompt, one attempt, the check, and up a tier when the check fails.

Celery is unknown here: `NotOurs` says that there is nothing to do. A store that does not answer, or is full, raises
RedisError; the claim then expires and the subtask is run again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fleet import checks, templates, traces
from fleet.blobs import BlobError
from fleet.config import AUTO
from fleet.context import Context, passes
from fleet.conversation import Conversation
from fleet.drain import GiveBack
from fleet.entries import Call, Purpose
from fleet.errors import BadInputError, BudgetExceededError, ProviderError
from fleet.executor import JobCancelled
from fleet.items import ItemReader
from fleet.jobs import Attempt, JobStatus, Step
from fleet.outcomes import Trail
from fleet.providers.base import Image, ask
from fleet.router import is_checked
from fleet.shards import Place
from fleet.store import Job
from queues.failpoints import failpoint
from queues.limits import PermitError
from queues.subtasks import Charge, Claim, Lesson, Refusal, Status

logger = logging.getLogger(__name__)

#: Workers that may die holding a subtask before it counts as the cause.
MAX_KILLS = 3


#: Blobs that hold pictures, by the digest of their bytes.
PICTURE = re.compile(r"images/[0-9a-f]{64}")


class NotOurs(Exception):
    """The message woke us for nothing: another worker has the subtask, or it moved on."""


class Runner:
    """Runs subtasks of one worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._items = ItemReader(context.blobs)

    async def run(self, subtask_id: str, tier: str) -> dict[str, str]:
        """Run a subtask if it is ours to run; the reference `{id, status}` that its chord counts.

        Raises:
            NotOurs: nothing to do; the store, not this message, decides what happens next.
            ClaimLost: another worker took over.
        """
        # Asked for together with the claim, which is granted nearly always.
        loading = asyncio.ensure_future(self._context.jobs.planned(subtask_id.split("/", 1)[0]))
        try:
            claim = await self._context.store.claim(subtask_id, tier)
            if isinstance(claim, Refusal):
                if claim.status is not None:
                    return {"id": subtask_id, "status": claim.status}
                raise NotOurs(claim.why)
            failpoint("claimed")
            async with self._context.claims.held(claim), self._context.events.told(claim):
                with traces.claimed("subtask", claim.id, claim.tier, NotOurs) as span:
                    reference = await self._claimed(claim, loading)
                    span.end_as(reference["status"])
                    return reference
        finally:
            loading.add_done_callback(_seen)
            loading.cancel()

    async def _claimed(self, claim: Claim, loading: asyncio.Future[Job]) -> dict[str, str]:
        try:
            trail = Trail.load(claim.trail)
            job = await loading
            payload = json.loads(claim.payload)
            step = job.step(payload["step"])
            self._context.events.begun(claim, step.label)
        except Exception as error:
            if passes(error):
                await self._context.give_back(claim, error)
                raise NotOurs(f"the store or the disk failed: {error}") from error
            # Sent again it would be no better to read.
            logger.exception("what the store has of a subtask cannot be read", extra={"subtask": claim.id})
            return await self._end(claim, "failed", Trail(), error=f"it cannot be read: {type(error).__name__}")
        try:
            return await self._attempt(claim, job, step, payload, trail)
        except GiveBack as reason:
            # No attempt was used: the subtask waits in its backlog, in front, until the job or another worker goes on.
            await self._context.store.hand_on(claim, claim.tier, claim.trail)
            raise NotOurs(str(reason)) from None
        except JobCancelled as reason:
            return await self._end(claim, "skipped", trail, error=str(reason))
        except BudgetExceededError as error:
            await self._context.jobs.cut_short(job.id, str(error), claim=claim)
            return await self._end(claim, "failed", trail, error=str(error), kind="budget")
        except (BadInputError, BlobError, ProviderError, PermitError) as error:
            kind = (
                error.kind
                if isinstance(error, ProviderError)
                else "too_large"
                if isinstance(error, PermitError)
                else None
            )
            return await self._end(claim, "failed", trail, error=str(error), kind=kind)
        except NotOurs:
            raise
        except Exception as error:
            if passes(error):
                await self._context.give_back(claim, error)
                raise NotOurs(f"the store or the disk failed: {error}") from error
            # A header task never raises: it would kill the gate's body while its siblings go on spending.
            logger.exception("a subtask failed on an error of our own", extra={"subtask": claim.id})
            return await self._end(claim, "failed", trail, error=f"internal error: {type(error).__name__}")

    async def _attempt(
        self, claim: Claim, job: Job, step: Step, payload: Mapping[str, Any], trail: Trail
    ) -> dict[str, str]:
        item: int | None = payload["item"]
        if claim.kills >= MAX_KILLS:
            return await self._end(claim, "failed", trail, error=f"{claim.kills} workers died while running it")
        if job.status.final:
            # In a job that failed nobody decided against it: `retry --failed` runs it.
            status: Status = "skipped" if job.status is JobStatus.CANCELLED else "failed"
            return await self._end(claim, status, trail, error=f"the job is {job.status}")
        values: dict[str, Any] = {"goal": job.spec.goal, "items": _Items(self._items, job)}
        if item is not None:
            values["item"] = self._items.read(job.items, item)
        for need in step.needs:
            needed = job.step(need)
            if item is None and needed.each is not None:
                values[need] = [
                    outcome.output
                    async for place, outcome in self._context.archive.outcomes(job)
                    if place.step == need and outcome.status == "ok"
                ]
                continue
            place = Place(need, item if needed.each is not None else None)
            outcome = await self._context.archive.outcome(job, place)
            if outcome.status != "ok":
                return await self._end(claim, "skipped", trail, error=f"it needs {need}, which is {outcome.status}")
            values[need] = outcome.output
        if step.when is not None and not templates.holds(step.when, values):
            return await self._end(claim, "skipped", trail, error=f"when: {step.when}")
        await self._route(claim, job, step, trail)
        conversation = _conversation(step, values.get("item"))
        if conversation is None:
            request = ask(
                templates.render(step.prompt, values) + _rejections(trail),
                instructions=step.instructions,
                images=self._images(job, values.get("item")),
                schema=step.output,
                schema_name=step.id,
                max_output_tokens=step.max_output_tokens,
            )
        else:
            whole = conversation.followed_by(said) if (said := _rejections(trail).strip()) else conversation
            limit = min(step.max_output_tokens, conversation.most_output_tokens)
            request = ask("", conversation=whole, max_output_tokens=limit)
        purpose = Purpose(job.id, claim.id, claim, step.id, step.label, "work", claim.tier, record=payload["record"])
        call = await self._context.executor.call(purpose, request)
        trail.add(call)
        try:
            with traces.inside("check"):
                if conversation is None:
                    output = checks.check(call.completion, step.output)
                else:
                    output = checks.check_reply(call.completion, conversation)
        except checks.Rejected as rejection:
            return await self._rejected(claim, job, step, trail, call, str(rejection))
        return await self._end(
            claim,
            "ok",
            trail,
            output=output,
            model=call.completion.model,
            charges=[call.charge("ok", lessons=self._lessons(job, step, trail, call, accepted=True))],
        )

    async def _route(self, claim: Claim, job: Job, step: Step, trail: Trail) -> None:
        """Ask again where a subtask starts, once, before any call: hundreds are sent on their way before one has ended."""
        if step.tier == AUTO and claim.claims == 1 and not trail.attempts:
            chosen = await self._context.routes.start(step, job.tenant, claim.id)
            if chosen != claim.tier:
                await self._context.store.hand_on(claim, chosen, claim.trail)
                raise NotOurs(f"routed to {chosen}")

    def _lessons(self, job: Job, step: Step, trail: Trail, call: Call, *, accepted: bool) -> tuple[Lesson, ...] | None:
        """What routing learns from an answer that something checked; the trail has what was rejected before it."""
        if not is_checked(step):
            return None
        came_from = trail.attempts[-1].tier if trail.attempts else None
        cost = call.entry.cost_nano_usd
        return self._context.routes.lessons(
            job.tenant, step.label, call.entry.tier, came_from, accepted=accepted, cost=cost
        )

    async def _rejected(
        self, claim: Claim, job: Job, step: Step, trail: Trail, call: Call, reason: str
    ) -> dict[str, str]:
        charge = call.charge("rejected", reason, self._lessons(job, step, trail, call, accepted=False))
        trail.attempts.append(
            Attempt(tier=claim.tier, model=call.completion.model, answer=call.completion.text[:8_000], reason=reason)
        )
        above = await self._context.routes.next(step, claim.tier, job.tenant, claim.id)
        if above is None:
            error = f"no valid answer up to tier {claim.tier}: {reason}"
            return await self._end(claim, "failed", trail, error=error, charges=[charge])
        await self._context.store.hand_on(claim, above, trail.dump(), [charge])
        raise NotOurs(f"handed on to {above}")

    async def _end(
        self,
        claim: Claim,
        status: Status,
        trail: Trail,
        *,
        output: Any = None,
        model: str | None = None,
        error: str | None = None,
        kind: str | None = None,
        charges: list[Charge] | None = None,
    ) -> dict[str, str]:
        failed = status != "ok"
        if failed and trail.kept is not None:
            # A review asked for a better answer and there is none: the accepted one is not lost over that.
            status, (output, model), error, kind = (
                "ok",
                trail.kept,
                f"the earlier answer is kept, the new one failed: {error}",
                None,
            )
        if failed and (claim.claims > 1 or claim.kills > 0):
            # It ends without a call of its own; what an earlier worker may have spent on it is booked all the same. One of
            # a version that does not count claims is known by its death.
            await self._context.executor.abandon(
                claim.id.split("/", 1)[0], lambda lost: lost.subtask == claim.id and lost.fence < claim.fence
            )
        document = trail.document(output=output, model=model, error=error, kind=kind)
        quarantined = claim.kills >= MAX_KILLS
        if not await self._context.store.finish(claim, status, document, charges or (), quarantined=quarantined):
            raise NotOurs("the claim was lost before the end was written")
        used = {"tokens": trail.usage.total, "cost_nano_usd": trail.cost_nano_usd}
        self._context.events.ended(claim, status, **used, error_kind=kind)
        failpoint("finished")
        return {"id": claim.id, "status": status}

    def _images(self, job: Job, item: Any) -> tuple[Image, ...]:
        """The picture of an item; an item's word is not taken for the name of any other blob."""
        name = item.get("image") if isinstance(item, Mapping) and job.items.pictures else None
        if not (isinstance(name, str) and PICTURE.fullmatch(name) and isinstance(item.get("media_type"), str)):
            return ()
        return (Image(item["media_type"], self._context.blobs.read(name)),)


class _Items:
    """All items, for templates that loop over them; each is read when it is reached."""

    def __init__(self, reader: ItemReader, job: Job) -> None:
        self._reader = reader
        self._index = job.items

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> Any:
        if not 0 <= i < len(self._index):
            raise IndexError(i)
        return self._reader.read(self._index, i)


def _seen(loading: asyncio.Future[Job]) -> None:
    """What came of it is of no use any more."""
    if not loading.cancelled():
        loading.exception()


def _conversation(step: Step, item: Any) -> Conversation | None:
    """What a step asks instead of a prompt. Raises BadInputError: its item has no conversation."""
    if step.conversation != "item":
        return step.conversation
    body = item.get("body") if isinstance(item, Mapping) else None
    if not isinstance(body, Mapping):
        raise BadInputError("The item has no conversation: it needs a body of messages.")
    try:
        return Conversation.of(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInputError(f"The item's conversation cannot be used: {where}: {first['msg']}.") from None
    except ValueError as error:
        raise BadInputError(f"The item's conversation cannot be used: {error}.") from None


def _rejections(trail: Trail) -> str:
    """The rejected answers and their reasons, for whoever answers next."""
    return "".join(
        f"\n\nAn earlier answer was rejected.\nReason: {attempt.reason}\nThe rejected answer:\n{attempt.answer}"
        for attempt in trail.attempts
    )
