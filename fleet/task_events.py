"""What a worker tells of its work while it does it: the Celery events that Flower, and every other reader of them, lives on.

Two events for each claim, sent by us instead of Celery's three for each message: a message that has nothing to do is not
shown, and what is told says tier and kind of the work, and what came of it. It owns what may be told: ids, names from closed or
cleaned sets, numbers; never a prompt, an output, or a reason that quotes one. Who listens is not known here, and nobody has to.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Annotated

from pydantic import Field, ValidationError

from fleet.config import Frozen
from queues.subtasks import Claim, Status

logger = logging.getLogger(__name__)

#: Longest kind in a name. Kinds are free text of whoever submits a job; names become labels of metrics.
KIND_LENGTH = 40
#: The kind of what has none that can be shown.
OTHER = "other"
_NOT_SHOWN = re.compile(r"[^A-Za-z0-9_-]+")


class Envelope(Frozen):
    """What came of a subtask, as it is told: `{"tier", "status", "tokens", "cost_usd"}`, of all its attempts up to now."""

    tier: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    status: Status
    tokens: int = 0
    cost_usd: Annotated[float, Field(allow_inf_nan=False)] = 0.0

    @classmethod
    def read(cls, text: object) -> Envelope | None:
        """The envelope that was told, None for whatever is none."""
        try:
            return cls.model_validate_json(text) if isinstance(text, str) else None
        except ValidationError:
            return None


@lru_cache(maxsize=1024)
def name_of(tier: str, kind: str) -> str:
    """The name of a kind of work on a tier: `nano.ticket-topic`. ASCII letters, digits, `_` and `-`, however hostile the kind."""
    shown = _NOT_SHOWN.sub("-", kind[: 4 * KIND_LENGTH]).strip("-")[:KIND_LENGTH].strip("-")
    return f"{tier}.{shown or OTHER}"


class TaskEvents:
    """Tells of the claims of one worker process; until `tell` is set, nobody."""

    def __init__(self) -> None:
        #: `EventDispatcher.send` of Celery's, or what stands in: (type of the event, **fields).
        self.tell: Callable[..., object] | None = None
        #: Of what has begun: its name, and when by a monotonic clock.
        self._begun: dict[Claim, tuple[str, float]] = {}
        self._failing = False

    @contextlib.asynccontextmanager
    async def told(self, claim: Claim) -> AsyncIterator[None]:
        """Around the work under a claim: what began in it and did not end was handed on, given back or lost."""
        try:
            yield
        finally:
            if claim in self._begun:
                self._end("task-retried", claim, exception="handed on, given back or lost")

    def begun(self, claim: Claim, kind: str) -> None:
        """Work under a claim has begun."""
        name = name_of(claim.tier, kind)
        self._begun[claim] = name, time.monotonic()
        self._send("task-started", claim, name)

    def ended(
        self, claim: Claim, status: Status, *, tokens: int = 0, cost_nano_usd: int = 0, error_kind: str | None = None
    ) -> None:
        """It has ended, and its end is written; `error_kind`: of a closed set, no text of anybody."""
        if claim not in self._begun:
            return
        usd = cost_nano_usd / 1_000_000_000
        # Written by hand: this is done for every call that a worker makes.
        result = f'{{"tier": "{claim.tier}", "status": "{status}", "tokens": {tokens}, "cost_usd": {usd}}}'
        if status == "failed":
            self._end("task-failed", claim, result=result, exception=error_kind or "failed")
        else:
            self._end("task-succeeded", claim, result=result)

    def _end(self, type_: str, claim: Claim, **fields: str) -> None:
        name, began = self._begun.pop(claim)
        self._send(type_, claim, name, runtime=round(time.monotonic() - began, 3), **fields)

    def _send(self, type_: str, claim: Claim, name: str, **fields: object) -> None:
        if self.tell is None:
            return
        # Claimed again it is told apart: what became of the earlier claim stays to be seen.
        uuid = claim.id if claim.claims <= 1 else f"{claim.id}~{claim.claims}"
        try:
            self.tell(type_, uuid=uuid, name=name, **fields)
        except Exception:
            # A view of the work must not cost the work, whatever ails the broker; once is enough to say so.
            if not self._failing:
                logger.warning("the events of tasks cannot be sent; Flower misses some", exc_info=True)
            self._failing = True
        else:
            self._failing = False
