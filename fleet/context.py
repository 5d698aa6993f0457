"""What the parts of one process share: configuration, store, job documents, blobs, shards and the door to the models."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from fleet.archive import Archive
from fleet.blobs import Blobs
from fleet.config import FleetConfig
from fleet.errors import BudgetExceededError
from fleet.examiners import Examiners
from fleet.executor import Executor
from fleet.lines import Lines
from fleet.rounds import Rounds
from fleet.routes import Routes
from fleet.store import COORDINATOR, JobStore, not_ended
from fleet.task_events import TaskEvents
from queues.claims import Claims
from queues.store import Store
from queues.subtasks import Charge, Claim

logger = logging.getLogger(__name__)

#: Seconds before a subtask is given back to a store or disk that failed.
GIVE_BACK_S = 1.0
#: What a disk says that may do it later; any other error of a file is final.
PASSES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)


def passes(error: Exception) -> bool:
    """Whether it is the store's or the disk's, and not the subtask's fault."""
    return isinstance(error, RedisError) or (isinstance(error, OSError) and error.errno in PASSES)


@dataclass(frozen=True, slots=True)
class Context:
    config: FleetConfig
    store: Store
    jobs: JobStore
    blobs: Blobs
    rounds: Rounds
    archive: Archive
    routes: Routes
    executor: Executor
    claims: Claims
    lines: Lines
    examiners: Examiners
    events: TaskEvents = field(default_factory=TaskEvents)

    async def give_back(self, claim: Claim, problem: Exception, trail: str, charges: Sequence[Charge] = ()) -> None:
        """Put a claimed subtask back into its backlog, with this trail, because store or disk failed: nobody died of it.

        It waits a moment first: what failed is likely to fail again at once.
        """
        logger.warning("given back: %s", problem, extra={"subtask": claim.id})
        await asyncio.sleep(GIVE_BACK_S)
        await self.store.hand_on(claim, claim.tier, trail, charges)

    async def pause_at_cap(self, claim: Claim, short: BudgetExceededError, trail: str) -> None:
        """Pause the job of a claim that a budget is short for: nothing of it fails, and it goes on when so much fits again.

        `trail`: what its subtask goes on with.
        """
        job_id = claim.id.split("/", 1)[0]
        tiers = [*self.config.tiers, COORDINATOR]
        guards = [claim.guard, not_ended(job_id), *short.guards]
        await self.store.stop(
            job_id, "paused", tiers, why=f"{short} {short.onwards}", short=short.amount, guards=guards
        )
        await self.store.hand_on(claim, claim.tier, trail)
