"""SIGKILL of processes: anyone, both workers of a tier at once, the coordinator."""

from __future__ import annotations

import random
import signal

from fleet.store import COORDINATOR
from tests.chaos.arena import Arena


class KillAnyone:
    """A random worker."""

    every_s = 4.0

    async def strike(self, arena: Arena) -> None:
        seats = [seat for seat in arena.crew.members if seat != COORDINATOR]
        arena.crew.signal(arena.crew.members[random.choice(seats)], signal.SIGKILL)


class KillTier:
    """Every worker of a tier at once."""

    every_s = 12.0

    async def strike(self, arena: Arena) -> None:
        tier = random.choice(list(arena.config.tiers))
        for seat, one in arena.crew.members.items():
            if seat.startswith(f"{tier}."):
                arena.crew.signal(one, signal.SIGKILL)


class KillCoordinator:
    """The one that plans, dispatches and reconciles."""

    every_s = 7.0

    async def strike(self, arena: Arena) -> None:
        arena.crew.signal(arena.crew.members[COORDINATOR], signal.SIGKILL)
