"""The Celery tasks: thin shells with fixed wire names around runner and duties.

Arguments and results are ids and statuses. A message that is not ours to act on ends in `Ignore()`, so that it counts
in no chord; a store that does not answer ends there too, and the reconciler sends the subtask again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from celery import Celery
from celery.exceptions import Ignore
from redis.exceptions import RedisError

from fleet.duties import Duties
from fleet.retry import RETRY_TASK
from fleet.rounds import END_TASK, PHASE_TASK, REVIEW_TASK, RUN_TASK, SHARD_TASK
from fleet.runner import NotOurs, Runner
from fleet.store import PLAN_TASK
from queues.bridge import await_
from queues.claims import ClaimLost
from queues.gate import GATHER_TASK

logger = logging.getLogger(__name__)

Work = Callable[[str, str], Awaitable[dict[str, str]]]


def register(app: Celery, connect: Callable[[], tuple[Runner, Duties]]) -> None:
    """Register the tasks; `connect` is called when the first one runs."""
    _register(app, RUN_TASK, lambda: connect()[0].run)
    _register(app, PLAN_TASK, lambda: connect()[1].plan)
    _register(app, REVIEW_TASK, lambda: connect()[1].review)
    _register(app, RETRY_TASK, lambda: connect()[1].retry)
    _register(app, END_TASK, lambda: connect()[1].end)
    _register(app, SHARD_TASK, lambda: connect()[1].close_shard)
    _register(app, PHASE_TASK, lambda: connect()[1].open_phase)
    _register(app, GATHER_TASK, lambda: connect()[1].gather)


def _register(app: Celery, name: str, work: Callable[[], Work]) -> None:
    @app.task(name=name, bind=True, shared=False)  # other apps of this process are not ours to add to
    def task(self: Any, *args: Any) -> dict[str, str]:
        # The body of a gate gets the references of its members first; it reads what they stand for from the store.
        return await_(_guarded(work(), str(args[-1]), self.request.delivery_info["routing_key"]))


async def _guarded(work: Work, subtask_id: str, tier: str) -> dict[str, str]:
    try:
        return await work(subtask_id, tier)
    except NotOurs as reason:
        logger.debug("nothing to do: subtask=%s tier=%s: %s", subtask_id, tier, reason)
    except (ClaimLost, RedisError) as problem:
        logger.warning("left to the reconciler: subtask=%s tier=%s: %s", subtask_id, tier, problem)
    raise Ignore
