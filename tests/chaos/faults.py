"""The faults there are, and the storm that lets them strike at random times beside each other.

Wrong clocks and two versions of the code are not among them: those last as long as their fleet.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Protocol

from redis.exceptions import RedisError

from tests.chaos.arena import Arena
from tests.chaos.connections import CutProvider, CutStore, KillClients, StallProvider, StallStore
from tests.chaos.control import CancelJob, PauseJob
from tests.chaos.kills import KillAnyone, KillCoordinator, KillTier
from tests.chaos.messages import Duplicate
from tests.chaos.pauses import Pause
from tests.chaos.provider import ProviderStorm
from tests.chaos.stores import FlapStore, FreezeStore, KillStore


def cancelled() -> bool:
    """Whether this task is to end: wait_for of Python 3.11, which redis-py sends with, can lose a cancellation."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Fault(Protocol):
    """Something that happens to a fleet again and again."""

    #: Mean seconds between two strikes.
    every_s: float

    async def strike(self, arena: Arena) -> bool | None:
        """False: there was nothing to do it to."""


def faults() -> list[Fault]:
    """One of each."""
    return [
        KillAnyone(),
        KillTier(),
        KillCoordinator(),
        KillStore(),
        FlapStore(),
        FreezeStore(),
        Pause(),
        KillClients(),
        CutStore(),
        StallStore(),
        CutProvider(),
        StallProvider(),
        ProviderStorm(),
        Duplicate(),
        PauseJob(),
        CancelJob(),
    ]


class Storm:
    """All faults, until it is cancelled; `strikes` counts them by name."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.strikes: Counter[str] = Counter()

    async def rage(self) -> None:
        async with asyncio.TaskGroup() as group:
            for fault in faults():
                group.create_task(self._again(fault))

    async def _again(self, fault: Fault) -> None:
        while not cancelled():
            await asyncio.sleep(random.uniform(0.5, 1.5) * fault.every_s)
            try:
                done = await fault.strike(self._arena)
            except (RedisError, OSError):
                continue  # The store is away: another fault was faster.
            if done is not False:
                self.strikes[type(fault).__name__] += 1
