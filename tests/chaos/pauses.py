"""A process that stands still for longer than its claims live, and then goes on as if nothing had happened."""

from __future__ import annotations

import asyncio
import random
import signal

from tests.chaos.arena import LEASE_S, Arena


class Pause:
    """SIGSTOP of a random member beyond its claims, then SIGCONT: a zombie."""

    every_s = 6.0

    async def strike(self, arena: Arena) -> None:
        one = random.choice(list(arena.crew.members.values()))
        arena.crew.signal(one, signal.SIGSTOP)
        try:
            await asyncio.sleep(random.uniform(1.2, 2.5) * LEASE_S)
        finally:
            arena.crew.signal(one, signal.SIGCONT)
