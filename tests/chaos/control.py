"""What users do to jobs while everything else happens: pause and resume, cancel.

A job that was paused has to go on, whatever becomes of the one who paused it: once the storm is over `resume_all` sees to it.
"""

from __future__ import annotations

import asyncio
import random
import time

from redis.exceptions import RedisError

from fleet.control import Control
from fleet.errors import BadInputError
from tests.chaos.arena import Arena

#: Seconds for which it is tried to resume a job in the storm, and after it, and between two tries.
STORM_S, QUIET_S, RETRY_S = 20.0, 60.0, 0.3


class PauseJob:
    """A job that has not ended is paused, and resumed a moment later."""

    every_s = 6.0

    async def strike(self, arena: Arena) -> bool:
        job = await _any_job(arena)
        if job is None:
            return False
        async with arena.runtime() as runtime:
            control = Control(runtime)
            arena.paused.add(job)
            try:
                await control.pause(job)
            except BadInputError:  # It has just ended.
                return False
            except RedisError:
                # It may be paused all the same.
                await _resume(control, job, STORM_S)
                raise
            await asyncio.sleep(random.uniform(0.5, 2.0))
            await _resume(control, job, STORM_S)
        return True


class CancelJob:
    """A job that has not ended is cancelled."""

    every_s = 20.0

    async def strike(self, arena: Arena) -> bool:
        job = await _any_job(arena)
        if job is None:
            return False
        async with arena.runtime() as runtime:
            try:
                await Control(runtime).cancel(job)
            except BadInputError:  # It has just ended.
                return False
        return True


async def resume_all(arena: Arena) -> None:
    """Resume whatever was paused.

    That is every job that ever was: a store that stood still may have carried out the pause after the resumption.
    """
    async with arena.runtime() as runtime:
        control = Control(runtime)
        for job in sorted(arena.paused):
            await _resume(control, job, QUIET_S)


async def _resume(control: Control, job: str, within_s: float) -> None:
    """Try until it worked or the job is not paused; not for ever."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            await control.resume(job)
        except BadInputError:  # Not paused: an earlier try went through, or it has ended.
            return
        except RedisError:
            await asyncio.sleep(RETRY_S)
        else:
            return


async def _any_job(arena: Arena) -> str | None:
    unfinished = await arena.load.unfinished()
    return random.choice(unfinished) if unfinished else None
