"""The store goes away and comes back: killed, flapping, standing still."""

from __future__ import annotations

import asyncio
import os
import random
import signal

from tests.chaos.arena import Arena


class KillStore:
    """SIGKILL of Valkey; it is back at once, on the same port, with its append-only file."""

    every_s = 40.0
    #: Longest that it stays away.
    away_s = 0.0

    async def strike(self, arena: Arena) -> None:
        async with _one_at_a_time:
            with arena.outage():
                arena.valkey.kill()
                arena.store_kills += 1
                await asyncio.sleep(random.uniform(0.0, self.away_s))
                await asyncio.to_thread(arena.valkey.start)


class FlapStore(KillStore):
    """The same, but it stays away for up to five seconds: longer than a claim lives."""

    every_s = 12.5
    away_s = 5.0


class FreezeStore:
    """SIGSTOP of Valkey for a moment: connections stay, answers do not come."""

    every_s = 40.0

    async def strike(self, arena: Arena) -> None:
        async with _one_at_a_time:
            with arena.outage():
                pid = arena.valkey.process.pid
                os.kill(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(random.uniform(0.5, 4.0))
                finally:
                    os.kill(pid, signal.SIGCONT)


_one_at_a_time = asyncio.Lock()
