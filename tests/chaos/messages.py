"""Messages that arrive more often than they were sent."""

from __future__ import annotations

from tests.chaos.arena import Arena

TIMES = 5


class Duplicate:
    """Every waiting message of every queue is pushed until it is there five times."""

    every_s = 3.0

    async def strike(self, arena: Arena) -> bool:
        found = False
        for queue in (*arena.config.tiers, "coordinator"):
            waiting = await arena.client.lrange(queue, 0, -1)
            found = found or bool(waiting)
            for raw in dict.fromkeys(waiting):
                await arena.client.lpush(queue, *[raw] * max(1, TIMES - waiting.count(raw)))
        return found
