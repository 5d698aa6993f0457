"""Calls that run in the background at the simulated vendor: begun, worked on whoever listens, kept, cancelled.

It speaks no HTTP, and what an answer says is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from fleet.prices import Usage
from fleet.sim import responses
from fleet.sim.asked import ApiError
from fleet.sim.produce import Produced
from fleet.sim.vendor import Call, Vendor

MAX_RUNNING = 20_000
#: Ended calls are kept for ten minutes, as by the vendor, and the last 10,000 for longer; never more than 50,000.
KEPT = 10_000
KEPT_S = 600.0
MAX_KEPT = 50_000
#: A call that hangs fails after this: longer than any client waits.
HANG_S = 900.0


@dataclass(slots=True, eq=False)
class _Running:
    call: Call
    created: int
    #: The response object as it stands.
    answer: dict[str, Any]
    #: What it will say, and since when it is being written; before that the call is queued and not billed.
    produced: Produced | None = None
    began: float = 0.0
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Background:
    """The background calls of one vendor, by the id of their response."""

    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor
        self._running: dict[str, _Running] = {}
        #: When it ended, and the response as JSON.
        self._ended: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def begin(self, call: Call) -> str:
        """Takes a call over and leaves it when it has ended; the response object as JSON, `queued`.

        Raises:
            ApiError: 503, too many calls run; this one has ended.
        """
        if len(self._running) >= MAX_RUNNING:
            call.leave()
            raise ApiError(503, "Too many responses run in the background.", kind="server_error")
        created = int(time.time())
        answer = responses.unfinished(call.asked, "queued", ident=call.ident, model=call.answers_as, created=created)
        running = _Running(call, created, answer)
        self._running[answer["id"]] = running
        running.task = asyncio.create_task(self._work(running))
        return json.dumps(answer)

    def find(self, ident: str) -> str | None:
        """The response object as JSON, as it stands."""
        if (running := self._running.get(ident)) is not None:
            return json.dumps(running.answer)
        ended = self._ended.get(ident)
        return None if ended is None else ended[1]

    def cancel(self, ident: str) -> str | None:
        """Ends a call: not billed if its answer had not begun, else billed for the input and what was written so far.

        One that has ended stays as it is. Returns the response object as JSON.
        """
        running = self._running.get(ident)
        if running is not None:
            usage = None
            if running.produced is not None:
                usage = _so_far(running.produced, self._vendor.model_time(time.monotonic() - running.began))
                self._vendor.amend(running.call, usage)
            self._end(running, responses.cancelled(running.answer, usage))
            if running.task is not None:
                running.task.cancel()
        return self.find(ident)

    async def _work(self, running: _Running) -> None:
        call, vendor = running.call, self._vendor
        try:
            await vendor.pause(vendor.settings.queued_s)
            if call.fault == "error_5xx":
                self._fail(running)
                return
            running.produced = produced = vendor.generate(call)
            running.began = time.monotonic()
            running.answer = {**running.answer, "status": "in_progress"}
            if call.fault == "hang":
                await asyncio.sleep(HANG_S)
                self._fail(running)
                return
            await vendor.pause(produced.first_s + produced.rest_s)
            answer = responses.write(
                call.asked,
                produced,
                ident=call.ident,
                model=call.answers_as,
                created=running.created,
                served=call.served,
            )
            self._end(running, answer)
        except Exception:
            self._fail(running)
            raise

    def _fail(self, running: _Running) -> None:
        message = "The server had an error while processing your request."
        self._end(running, responses.failed(running.answer, "server_error", message))

    def _end(self, running: _Running, answer: dict[str, Any]) -> None:
        if self._running.pop(answer["id"], None) is None:
            return
        # Here and not in the task: one that is cancelled before its first step runs no line of it.
        running.call.leave()
        now = time.monotonic()
        self._ended[answer["id"]] = now, json.dumps(answer)
        while len(self._ended) > KEPT:
            oldest = next(iter(self._ended.values()))[0]
            if len(self._ended) <= MAX_KEPT and oldest > now - KEPT_S:
                break
            self._ended.popitem(last=False)


def _so_far(produced: Produced, seconds: float) -> Usage:
    """What had been used after so many seconds of the model's time: all of the input, and a share of the output."""
    whole = produced.usage
    needed = produced.first_s + produced.rest_s
    share = min(1.0, seconds / needed) if needed > 0 else 1.0
    written = math.floor(whole.output_tokens * share)
    # A model reasons before it writes.
    reasoned = min(whole.reasoning_tokens, written)
    return whole.model_copy(update={"output_tokens": written, "reasoning_tokens": reasoned})
