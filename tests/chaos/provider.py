"""A provider that has a very bad moment."""

from __future__ import annotations

import asyncio
import random

from tests.chaos.arena import FAULTS, Arena

#: Of all calls, half with 429 and half with 5xx.
REFUSED = 0.3


class ProviderStorm:
    """For some seconds the provider refuses 30 % of all calls; nothing of that is billed."""

    every_s = 12.0

    async def strike(self, arena: Arena) -> None:
        storm = FAULTS.model_copy(update={"error_5xx": REFUSED / 2, "rate_limited": REFUSED / 2})
        draft = arena.faults_file.with_suffix(".draft")
        draft.write_text(storm.model_dump_json())
        draft.replace(arena.faults_file)
        try:
            await asyncio.sleep(random.uniform(2.0, 5.0))
        finally:
            arena.faults_file.unlink()
