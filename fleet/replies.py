"""Conversations of callers who wait: each is a job of one subtask, on the same queues as all others, and its reply awaited.

It owns the waiting: workers put what has ended into the mailbox of the process that asked, and what does not arrive there is
looked for. It knows no protocol of callers; what the subtask does is the runner's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from redis.exceptions import RedisError

from fleet.acceptance import Submission, within
from fleet.conversation import Conversation
from fleet.entitlements import TenantConfig
from fleet.errors import FleetError
from fleet.jobs import JobSpec, Outcome, Step
from fleet.outcomes import output_of
from fleet.rounds import RUN_TASK
from fleet.runtime import NAMESPACE, Runtime
from fleet.shards import Place, Shard
from fleet.tenants import new_job_id
from queues.admission import Ends, Once
from queues.mailbox import Mailbox
from queues.subtasks import NewSubtask, Result

logger = logging.getLogger(__name__)

STEP = "reply"
#: For how long a reply is kept, and the promise to ask for it one time only.
KEPT_S = 24 * 3600.0
#: Longest that a caller waits for a reply.
WAIT_S = 600.0
#: How often what did not arrive in the mailbox is looked for.
LOOK_S = 1.0
#: Pause after the store did not answer.
RETRY_S = 0.5
#: As long as no more than so many wait here, each is sent by whoever asked for it: a dispatcher would make it wait, but sends
#: many together for less.
FEW = 8


class NoReplyError(FleetError):
    """The reply did not come in time."""


class StoppedError(FleetError):
    """The job of a reply is paused, as what ails is for somebody to mend, or was cancelled.

    Args:
        how: `paused` or `cancelled`.
    """

    def __init__(self, message: str, how: str) -> None:
        super().__init__(message)
        self.how = how


@dataclass(frozen=True, slots=True)
class Request:
    """A conversation, and how it is to be answered."""

    conversation: Conversation
    #: Where to begin; `auto` climbs as checks fail, a tier that was named answers itself.
    tier: str
    kind: str
    #: What to keep of how it was asked for; `object` says over which protocol.
    asked: Mapping[str, Any]
    budget_usd: Decimal | None = None
    priority: str = "interactive"


class Replies:
    """Asks for replies, and awaits them. It belongs to one event loop, and ends with `aclose`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._mailbox = Mailbox(runtime.link, NAMESPACE)
        self._waiting: dict[str, set[asyncio.Future[Result]]] = {}
        #: What was asked for just now, by this process.
        self._begun: set[str] = set()
        self._hurrying: set[asyncio.Task[None]] = set()
        self._collecting: asyncio.Task[None] | None = None

    async def ask(self, request: Request, *, tenant: str, once: str | None = None, durable: bool = False) -> str:
        """Have a conversation answered: the id of its job. It runs whether or not somebody waits.

        `once`: a key of the tenant's choice under which it is asked for one time only. `durable`: it is on disk.

        Raises:
            KeyReusedError: `once` stands for something else.
            TenantLimitError: the tenant has under way, has sent or has spent all that it may.
            StoreUnavailableError, LinkError: it was not accepted, or may not be there to stay.
        """
        runtime, config = self._runtime, self._runtime.config
        job_id = new_job_id(tenant)
        step = Step(
            id=STEP,
            kind=request.kind,
            tier=request.tier,
            max_tier=None if request.tier == "auto" else request.tier,
            conversation=request.conversation,
            max_output_tokens=request.conversation.most_output_tokens,
        )
        spec = JobSpec(
            name=str(request.asked["object"]),
            goal=str(request.asked["object"]),
            budget_usd=request.budget_usd,
            priority=request.priority,  # type: ignore[arg-type]
        )
        shard = Shard(1, 0, 0)
        start = NewSubtask(
            id=_subtask(job_id),
            task=RUN_TASK,
            tier=await runtime.routes.start(step, tenant, _subtask(job_id)),
            payload=json.dumps({"step": STEP, "item": None, "record": shard.record_in(job_id)}),
            cost=request.conversation.input_estimate() + step.max_output_tokens,
        )
        promise = None if once is None else _promise(tenant, once, request)
        its = config.tenants.get(tenant, TenantConfig())
        sent = len(request.conversation.model_dump_json()) if its.bytes_per_day is not None else 0
        new = Submission(
            job_id, spec, tenant, its.weight, runtime.environment.simulated, within(config, tenant, sent), promise
        )
        ends = Ends(self._mailbox.name, KEPT_S, shard.record_in(job_id))
        hurried = len(self._waiting) < FEW
        begin = runtime.acceptance.begin(new, step, start, asked=request.asked, ends=ends, hurried=hurried)
        beginning = asyncio.ensure_future(begin)
        if hurried:
            self._hurry(start.tier)
        accepted = await beginning
        if durable:
            await runtime.acceptance.durable()
        elif accepted == job_id:
            self._begun.add(start.id)
        return accepted

    def _hurry(self, tier: str) -> None:
        """Have what is about to be ready sent at once, in the batch in which it is accepted, not by the next dispatcher."""
        hurrying = asyncio.create_task(self._runtime.dispatcher.hurry(tier))
        self._hurrying.add(hurrying)
        hurrying.add_done_callback(self._hurrying.discard)

    async def reply(self, job_id: str, within_s: float = WAIT_S) -> Outcome:
        """What became of a conversation that was asked for.

        Raises:
            StoppedError: its job was paused, with the reason, or cancelled.
            NoReplyError: it did not come in time.
        """
        id_ = _subtask(job_id)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(id_, set()).add(future)
        if self._collecting is None or self._collecting.done():
            # For whoever waits: it is about no job of its own.
            self._collecting = asyncio.create_task(self._collect(), context=contextvars.Context())
        try:
            async with asyncio.timeout(within_s):
                if id_ not in self._begun:  # it may have ended long ago
                    await self._look([id_])
                result = await future
        except TimeoutError:
            raise NoReplyError(f"The job {job_id} has no reply after {within_s:.0f} s.") from None
        finally:
            waiting = self._waiting[id_]
            waiting.discard(future)
            if not waiting:
                del self._waiting[id_]
            self._begun.discard(id_)
        return output_of(result).model_copy(update={"step": STEP})

    async def aclose(self) -> None:
        """Wait for nothing any more."""
        if self._collecting is not None:
            self._collecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._collecting

    async def _collect(self) -> None:
        """Hand out what arrives, and look for the rest now and then, as long as somebody waits."""
        loop = asyncio.get_running_loop()
        look_at = loop.time() + LOOK_S
        while self._waiting:
            try:
                if loop.time() >= look_at:
                    await self._look(list(self._waiting))
                    await self._tell_stopped()
                    look_at = loop.time() + LOOK_S
                if (first := await self._mailbox.first(LOOK_S)) is not None:
                    self._hand_out(first)
                    for result in await self._mailbox.rest():
                        self._hand_out(result)
            except RedisError as error:
                logger.warning("waiting for replies, the store does not answer: %s", error)
                await asyncio.sleep(RETRY_S)
            except Exception:  # whoever waits goes on waiting, and what could not be read is looked for again
                logger.exception("waiting for replies, on an error of our own")
                await asyncio.sleep(RETRY_S)

    async def _look(self, ids: list[str]) -> None:
        for result in await self._runtime.store.results(ids):
            if result is not None and result.status is not None:
                self._hand_out(result)

    def _hand_out(self, result: Result) -> None:
        for future in self._waiting.get(result.id, ()):
            if not future.done():
                future.set_result(result)

    async def _tell_stopped(self) -> None:
        ids = list(self._waiting)
        jobs = [id_.partition("/")[0] for id_ in ids]
        stops = await asyncio.gather(*(self._runtime.store.stopped(job_id) for job_id in jobs))
        for id_, job_id, (how, why) in zip(ids, jobs, stops, strict=True):
            if how is not None:
                for future in self._waiting.get(id_, ()):
                    if not future.done():
                        future.set_exception(StoppedError(why or f"The job {job_id} was {how}.", how))


def _subtask(job_id: str) -> str:
    return Place(STEP, None).id_in(job_id)


def _promise(tenant: str, key: str, request: Request) -> Once:
    asked = json.dumps([request.conversation.kept(), request.tier, dict(request.asked)], sort_keys=True)
    digests = [hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for text in (key, asked)]
    return Once(f"once:{tenant}:reply:{digests[0]}", digests[1], KEPT_S)
