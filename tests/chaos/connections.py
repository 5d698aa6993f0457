"""Connections that break or stall while both ends live: to the store and to the provider."""

from __future__ import annotations

import random

from tests.chaos.arena import LEASE_S, Arena
from tests.support.proxy import Way

WAYS: tuple[Way, ...] = ("up", "down")


class KillClients:
    """CLIENT KILL of everybody else: what a failover or an operator does."""

    every_s = 8.0

    async def strike(self, arena: Arena) -> None:
        await arena.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


class CutStore:
    """Half of the workers lose the store."""

    every_s = 8.0

    async def strike(self, arena: Arena) -> None:
        arena.store_proxy.cut()


class StallStore:
    """Nothing reaches the store from half of the workers, or nothing comes back, for up to two leases."""

    every_s = 15.0

    async def strike(self, arena: Arena) -> None:
        await arena.store_proxy.stall(random.choice(WAYS), random.uniform(0.3, 2.0) * LEASE_S)


class CutProvider:
    """Half of the workers lose the provider in the middle of their calls."""

    every_s = 6.0

    async def strike(self, arena: Arena) -> None:
        arena.provider_proxy.cut()


class StallProvider:
    """Nothing reaches the provider from half of the workers, or nothing comes back."""

    every_s = 12.0

    async def strike(self, arena: Arena) -> None:
        await arena.provider_proxy.stall(random.choice(WAYS), random.uniform(0.3, 3.0))
