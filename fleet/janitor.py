"""Winds up cancelled jobs: books the calls whose end nobody saw, files what was done, drops what will never run.

It waits until no claim on a job is left, so that workers that still run write their own ends first. All it does may be done
twice, so any number of coordinators may do it. It makes no model call; those that run on at a vendor it cancels.
"""

from __future__ import annotations

import asyncio
import logging

from redis.exceptions import RedisError

from fleet.blobs import BlobError
from fleet.context import Context
from fleet.errors import FleetError
from fleet.jobs import JobStatus
from fleet.store import COORDINATOR
from fleet.subject import about

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
#: The reason of a cancelled job.
CANCELLED = "cancelled by a user"


class Janitor:
    """Looks every few seconds for jobs that were cancelled."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def run(self) -> None:
        """Wind up until cancelled."""
        while True:
            try:
                for job_id in await self._context.store.winding():
                    with about(job=job_id):
                        await self.wind_up(job_id)
            except (RedisError, FleetError, BlobError) as error:
                logger.warning("winding up interrupted: %s", error)
            await asyncio.sleep(INTERVAL_S)

    async def wind_up(self, job_id: str) -> bool:
        """Wind up one job; False while a claim on it is left."""
        store, tiers = self._context.store, [*self._context.config.tiers, COORDINATOR]
        if (how := (await store.stopped(job_id))[0]) != "cancelled":
            await store.wound_up(job_id, how, tiers)  # an earlier version let it run again
            return True
        # Whoever cancelled it may have died before this.
        await self._context.jobs.end(job_id, JobStatus.CANCELLED, error=CANCELLED)
        counts = await store.counts(job_id)
        if any(states.get("running") for states in counts.values()):
            return False
        if await self._context.lines.lots.unended(job_id):
            return False  # its batches are taken back, and what was done in them booked
        job, now = await self._context.jobs.load(job_id), await store.now()
        if (await store.stopped(job_id))[0] != "cancelled":
            return True
        # From here on another janitor may have been faster and the job be run again: what began after now is none of ours.
        await self._context.executor.lost.abandon(job_id, lambda lost: lost.fence < now * 1e6)
        async for shard, ids, _ in self._context.archive.unclosed(job):
            if job.asked is None:
                await self._context.archive.close(job, shard, ids)
            else:  # a single call is not filed, it goes by itself
                await store.keep_for_a_while(job_id, ids[0])
        await store.wound_up(job_id, "cancelled", tiers)
        return True
