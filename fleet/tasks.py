"""The Celery tasks: thin shells with fixed wire names around runner and duties.

Arguments and results are ids and statuses. A message that is not ours to act on ends in `Ignore()`, so that it counts
in no chord; a store that does not answer ends there too, and the reconciler sends the subtask again.

The one exception is `fleet.submit_job.v1`, by which producers of their own accord send whole jobs through the broker
(`fleet.intake`): its argument is shown to nobody, and nobody would send it again, so it goes back into its queue instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject
from redis.exceptions import RedisError

from fleet.duties import Duties
from fleet.errors import MessageRefusedError, StoreUnavailableError
from fleet.lines import BATCH_TASK
from fleet.retry import RETRY_TASK
from fleet.rounds import END_TASK, PHASE_TASK, REVIEW_TASK, RUN_TASK, SHARD_TASK
from fleet.runner import NotOurs, Runner
from fleet.store import PLAN_TASK
from fleet.subject import about, job_of
from fleet.vendor_batches import VendorBatches
from queues.bridge import await_
from queues.claims import ClaimLost
from queues.discreet import Discreet
from queues.gate import GATHER_TASK

logger = logging.getLogger(__name__)

Work = Callable[[str, str], Awaitable[dict[str, str]]]

#: Seconds before a message is put back whose job could not be taken in now.
PUT_BACK_S = 5.0


def register(app: Celery, connect: Callable[[], tuple[Runner, Duties, VendorBatches]]) -> None:
    """Register the tasks; `connect` is called when the first one runs."""
    _register(app, RUN_TASK, lambda: connect()[0].run)
    _register(app, PLAN_TASK, lambda: connect()[1].plan)
    _register(app, REVIEW_TASK, lambda: connect()[1].review)
    _register(app, RETRY_TASK, lambda: connect()[1].retry)
    _register(app, END_TASK, lambda: connect()[1].end)
    _register(app, SHARD_TASK, lambda: connect()[1].close_shard)
    _register(app, PHASE_TASK, lambda: connect()[1].open_phase)
    _register(app, BATCH_TASK, lambda: connect()[2].carry)
    _register(app, GATHER_TASK, lambda: connect()[1].gather)


def _register(app: Celery, name: str, work: Callable[[], Work]) -> None:
    # Other apps of this process are not ours to add to. What is told of the work, the work tells (`fleet.task_events`).
    @app.task(name=name, bind=True, shared=False, send_events=False)
    def task(self: Any, *args: Any) -> dict[str, str]:
        # The body of a gate gets the references of its members first; it reads what they stand for from the store.
        return await_(_guarded(work(), str(args[-1]), self.request.delivery_info["routing_key"]))


async def _guarded(work: Work, subtask_id: str, tier: str) -> dict[str, str]:
    with about(job=job_of(subtask_id), subtask=subtask_id):
        try:
            return await work(subtask_id, tier)
        except NotOurs as reason:
            logger.debug("nothing to do: tier=%s: %s", tier, reason)
        except (ClaimLost, RedisError) as problem:
            logger.warning("left to the reconciler: tier=%s: %s", tier, problem)
        except Exception:
            # Celery would send its text, which may quote a prompt or an output, to whoever listens to events.
            logger.exception("left to the reconciler on an error of our own: tier=%s", tier)
    raise Ignore


def register_intake(app: Celery, name: str, take: Callable[[object], Awaitable[str]]) -> None:
    """Register the task that takes jobs in."""

    @app.task(name=name, bind=True, shared=False, Request=Discreet)
    def task(self: Any, *_: Any, **given: Any) -> dict[str, str]:
        return await_(_taken(take(given.get("envelope"))))


async def _taken(taking: Awaitable[str]) -> dict[str, str]:
    """The job's id. Nothing that is logged, or raised for Celery to log, quotes the message."""
    with about():  # the job turns out
        try:
            return {"job": await taking}
        except MessageRefusedError as reason:
            logger.warning("a job that came over the broker is refused: %s", reason)
        except (RedisError, StoreUnavailableError, OSError) as problem:
            logger.warning("a job that came over the broker goes back into its queue: %s", problem)
            await asyncio.sleep(PUT_BACK_S)
            raise Reject(requeue=True) from None
        except Exception:
            logger.exception("a job that came over the broker is dropped on an error of our own")
    raise Ignore
