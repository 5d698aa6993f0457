"""Having a conversation answered while its caller waits, on whichever OpenAI-compatible route it came in.

It owns the waiting (a caller who leaves pays for nothing more), the headers that tell what an answer took, and in which words
a reply that did not come is told. What an answer looks like is for the routes to know.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from decimal import Decimal, InvalidOperation

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from redis.exceptions import RedisError

from fleet.accounts import accounts_of
from fleet.api.openai_errors import SERVER, OpenAIError
from fleet.config import AUTO
from fleet.control import Control
from fleet.entitlements import MOST_USD
from fleet.errors import FleetError
from fleet.jobs import Outcome
from fleet.keys import Principal
from fleet.outside import Outside
from fleet.replies import NoReplyError, Replies, StoppedError
from fleet.replies import Request as Asked
from fleet.runtime import Runtime
from queues.limits import Standing

logger = logging.getLogger(__name__)

#: How long a stream waits for its reply before it begins: until then an error has a status of its own.
SILENT_S = 10.0
KEEP_ALIVE_S = 15.0
#: How long a look at the limits of an account is good for.
LIMITS_S = 1.0
#: Words of a streamed piece.
PIECE_WORDS = 4


class Desk:
    """Where callers wait for their answers."""

    def __init__(self, runtime: Runtime, control: Control) -> None:
        self.runtime = runtime
        self.replies = Replies(runtime)
        self.outside = Outside(runtime.config.outside.allowed)
        self._control = control
        self._limits: dict[str, tuple[float, Standing]] = {}

    async def aclose(self) -> None:
        """Wait for nothing any more."""
        await self.replies.aclose()
        await self.outside.aclose()

    async def begin(self, request: Request, asked: Asked, principal: Principal, *, durable: bool = False) -> str:
        """Ask for a reply; the id of its job."""
        once = request.headers.get("idempotency-key")
        if once is not None and not 0 < len(once) <= 255:
            raise OpenAIError(400, "An Idempotency-Key has 1 to 255 characters.")
        return await self.replies.ask(asked, tenant=principal.tenant, once=once, durable=durable)

    async def reply(self, request: Request, job_id: str) -> Outcome:
        """The reply, waited for as long as the caller does. One that was asked for under a key stays, for who asks again.

        Raises:
            OpenAIError: there is none, and why.
        """
        whole = False
        reply = asyncio.ensure_future(self.replies.reply(job_id))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({reply, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not reply.done():
                raise OpenAIError(499, "The caller has left.", headers={"x-fleet-job": job_id})
            outcome = reply.result()
            whole = True
            return answered(outcome)
        except NoReplyError as error:
            raise OpenAIError(504, str(error), type=SERVER, code="timeout") from error
        except StoppedError as error:
            if error.how == "cancelled":
                raise OpenAIError(409, str(error), code="cancelled") from error
            raise OpenAIError(503, f"Nothing goes on just now: {error}", type=SERVER, code="paused") from error
        finally:
            for task in (reply, gone):
                task.cancel()
            if not whole and "idempotency-key" not in request.headers:
                await self.give_up(job_id)

    async def stream(
        self,
        request: Request,
        job_id: str,
        tier: str,
        events: Callable[[Outcome], Iterable[bytes]],
        failed: Callable[[OpenAIError], bytes],
    ) -> Response:
        """The reply as a stream of events. One that comes soon, or fails soon, has the status and headers of its own.

        Raises:
            OpenAIError: there is none, as was known soon.
        """
        reply = asyncio.ensure_future(self.reply(request, job_id))
        outcome: Outcome | None = None
        try:
            outcome = await asyncio.wait_for(asyncio.shield(reply), SILENT_S)
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            reply.cancel()
            raise
        headers = await self.headers(job_id, outcome, tier) | {"Cache-Control": "no-store"}
        return StreamingResponse(_streamed(reply, events, failed), media_type="text/event-stream", headers=headers)

    async def cancel(self, job_id: str) -> None:
        """End the job of a reply. Raises BadInputError: it has ended."""
        await self._control.cancel(job_id)

    async def give_up(self, job_id: str) -> None:
        """Nobody waits for it any more: what has not been asked of a model is not paid for."""
        try:
            await asyncio.shield(self._control.cancel(job_id))
        except FleetError:  # it has ended meanwhile
            return
        except RedisError as error:
            logger.warning("nobody waits for a reply, and it could not be cancelled: %s", error, extra={"job": job_id})

    async def headers(self, job_id: str, outcome: Outcome | None, tier: str) -> dict[str, str]:
        """What an answer took, and how the account it was had from stands."""
        headers = {"x-fleet-job": job_id, "x-fleet-tier": (outcome and outcome.tier) or tier}
        if outcome is not None:
            headers["x-fleet-cost-usd"] = f"{outcome.cost_usd:.9f}"
            headers["x-fleet-attempts"] = str(outcome.attempts)
        try:
            standing = await self._standing(headers["x-fleet-tier"])
        except RedisError as error:  # an answer that was paid for is not lost over that
            logger.warning("an answer is sent without the limits of its account: %s", error)
            return headers
        for name, limit, used in (
            ("requests", standing.requests_per_minute, standing.requests),
            ("tokens", standing.tokens_per_minute, standing.tokens),
        ):
            if limit is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, limit - used))
                headers[f"x-ratelimit-reset-{name}"] = f"{max(standing.next_s, 60 * used / limit):.3f}s"
        return headers

    async def _standing(self, tier: str) -> Standing:
        config = self.runtime.config
        name, model = config.model_of(tier if tier != AUTO else "nano")
        account, now = f"{model.provider}/{name}", time.monotonic()
        at, standing = self._limits.get(account, (0.0, None))
        if standing is None or now - at > LIMITS_S:
            standing = await self.runtime.limiter.look(account, accounts_of(config)[account][0])
            self._limits[account] = (now, standing)
        return standing


def answered(outcome: Outcome) -> Outcome:
    """`outcome`, if it is an answer; OpenAIError otherwise."""
    if outcome.status == "ok":
        return outcome
    if outcome.error_kind == "budget":
        # Clients that try again by themselves are told that it is no use for now.
        headers = {"x-should-retry": "false"}
        if outcome.until is not None:
            headers["Retry-After"] = str(max(1, math.ceil(outcome.until - time.time())))
        quota = "insufficient_quota"
        raise OpenAIError(429, str(outcome.error), type=quota, code=quota, headers=headers)
    if outcome.error_kind in ("bad_request", "too_large"):
        raise OpenAIError(400, str(outcome.error), code="invalid_value")
    if outcome.status == "skipped":
        raise OpenAIError(409, "The job was cancelled.", code="cancelled")
    raise OpenAIError(502, f"No answer could be had: {str(outcome.error).rstrip('.')}.", type=SERVER, code="no_answer")


def cap_of(request: Request) -> Decimal | None:
    """The most that an answer may cost, as the header `x-fleet-budget-usd` says it."""
    given = request.headers.get("x-fleet-budget-usd")
    if given is None:
        return None
    try:
        cap = Decimal(given[:40])
    except InvalidOperation:
        cap = Decimal(0)
    if not cap.is_finite() or not 0 < cap <= MOST_USD:
        raise OpenAIError(400, f"x-fleet-budget-usd is a number of US dollars above 0, at most {MOST_USD:,}.")
    return cap


async def _streamed(
    reply: Awaitable[Outcome], events: Callable[[Outcome], Iterable[bytes]], failed: Callable[[OpenAIError], bytes]
) -> AsyncIterator[bytes]:
    """A stream that begins before its reply is there: it shows that it lives until then."""
    waiting = asyncio.ensure_future(reply)
    try:
        while not (await asyncio.wait({waiting}, timeout=KEEP_ALIVE_S))[0]:
            yield b": waiting\n\n"
        try:
            outcome = waiting.result()
        except OpenAIError as error:
            yield failed(error)
            return
        for event in events(outcome):
            yield event
    finally:
        waiting.cancel()


def pieces(text: str) -> list[str]:
    """A text in pieces of a few words."""
    words = text.split(" ")
    parts = [" ".join(words[i : i + PIECE_WORDS]) for i in range(0, len(words), PIECE_WORDS)]
    return [part + " " for part in parts[:-1]] + parts[-1:]


async def _gone(request: Request) -> None:
    """Until the caller has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
