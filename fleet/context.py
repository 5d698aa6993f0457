"""What the parts of one process share: configuration, store, job documents, blobs, shards and the door to the models."""

from __future__ import annotations

import asyncio
import errno
import logging
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from fleet.archive import Archive
from fleet.blobs import Blobs
from fleet.config import FleetConfig
from fleet.examiners import Examiners
from fleet.executor import Executor
from fleet.rounds import Rounds
from fleet.store import JobStore
from fleet.task_events import TaskEvents
from queues.claims import Claims
from queues.store import Store
from queues.subtasks import Claim

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
    executor: Executor
    claims: Claims
    examiners: Examiners
    events: TaskEvents = field(default_factory=TaskEvents)

    async def give_back(self, claim: Claim, problem: Exception) -> None:
        """Put a claimed subtask back into its backlog because store or disk failed: nobody died of it.

        It waits a moment first: what failed is likely to fail again at once.
        """
        logger.warning("given back: %s", problem, extra={"subtask": claim.id})
        await asyncio.sleep(GIVE_BACK_S)
        await self.store.hand_on(claim, claim.tier, claim.trail)
