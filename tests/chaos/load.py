"""What the fleet under chaos has to do: jobs of several kinds, submitted by processes that may die on the way."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from fleet.jobs import JobStatus
from fleet.runtime import NAMESPACE
from tests.chaos.crew import Crew, Incarnation

TOPIC = {"type": "object", "required": ["topic"], "properties": {"topic": {"enum": ["billing", "bug", "other"]}}}
ITEMS = 14
#: Every so many-th submitter dies between the store's answer and its own.
DIES = 3


def specs() -> list[dict[str, Any]]:
    """A job of every kind: a fan-out with a condition and a review, a chain without one, one whose budget is near."""
    items = [{"id": f"T{i}", "text": f"Case {i}: the export crashes with error {500 + i}"} for i in range(ITEMS)]
    classify = {
        "id": "classify", "each": "items", "tier": "nano", "prompt": "Topic? {{ item.text }}",
        "output": TOPIC, "max_output_tokens": 200,
    }  # fmt: skip
    summarise = {
        "id": "summarise", "each": "items", "needs": ["classify"], "when": 'classify.topic != "other"',
        "tier": "auto", "prompt": "Summarise: {{ item.text }}", "max_output_tokens": 120,
    }  # fmt: skip
    review = {"prompt": "Write the briefing.", "rounds": 1, "max_output_tokens": 2_000}
    gather = {"id": "gather", "needs": ["draft"], "tier": "flagship", "prompt": "{{ draft }}", "max_output_tokens": 200}
    draft = {"id": "draft", "each": "items", "tier": "nano", "prompt": "Draft {{ item.id }}", "max_output_tokens": 150}
    chain = [
        {"id": "a", "tier": "nano", "prompt": "One.", "max_output_tokens": 100},
        {"id": "b", "needs": ["a"], "tier": "mini", "prompt": "Two: {{ a }}", "max_output_tokens": 100},
        {"id": "c", "needs": ["b"], "tier": "flagship", "prompt": "Three: {{ b }}", "max_output_tokens": 100},
    ]
    return [
        {"name": "fan", "items": items, "steps": [classify, summarise], "review": review},
        {"name": "chain", "steps": chain, "priority": "interactive"},
        {"name": "gather", "items": items, "steps": [draft, gather]},
        {"name": "tight", "items": items, "steps": [classify, summarise], "review": review, "budget_usd": "0.01"},
    ]


async def jobs_in(client: Redis) -> list[bytes]:
    """The ids of all jobs that the store has."""
    found: list[bytes] = await client.execute_command("ZRANGE", f"{NAMESPACE}:jobs", 0, -1)
    return found


class Load:
    """Keeps jobs open by submitting new ones, and knows which were accepted."""

    def __init__(self, crew: Crew, client: Redis, folder: Path) -> None:
        self._crew = crew
        self._client = client
        self._answers = folder / "accepted"
        self._specs = itertools.cycle(specs())
        self._numbers = itertools.count(1)

    async def submit(self) -> Incarnation:
        """Submit the next job from a process of its own."""
        dies = next(self._numbers) % DIES == 0 and self._crew.armed
        return await self._crew.fork(
            "submit", "accepted=1" if dies else "", submit=next(self._specs), answer=str(self._answers)
        )

    async def top_up(self, most: int) -> None:
        """Submit jobs until `most` are open, as far as the store answers."""
        try:
            missing = most - len(await self.unfinished())
        except (RedisError, OSError):
            return
        for one in [await self.submit() for _ in range(missing)]:
            await one.ended.wait()

    async def accepted(self) -> set[str]:
        """Every job that the store has or whose id was given out."""
        known = {id_.decode() for id_ in await jobs_in(self._client)}
        told = set(self._answers.read_text().split()) if self._answers.exists() else set()
        return known | told

    async def settled(self, within_s: float) -> None:
        """Wait until all jobs have ended, and those that were cancelled are wound up, or too long."""
        deadline = asyncio.get_running_loop().time() + within_s
        while asyncio.get_running_loop().time() < deadline and (await self.unfinished() or await self.winding()):
            await asyncio.sleep(0.3)

    async def winding(self) -> set[str]:
        """Cancelled jobs of which something may be left to be done."""
        found: list[bytes] = await self._client.execute_command("SMEMBERS", f"{NAMESPACE}:winding")
        return {id_.decode() for id_ in found}

    async def at_cap(self) -> set[str]:
        """Jobs that are paused at their cap."""
        found: list[bytes] = await self._client.execute_command("SMEMBERS", f"{NAMESPACE}:short")
        jobs = [id_.decode() for id_ in found]
        async with self._client.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.hmget(f"{NAMESPACE}:j:{job}", "stop", "short")
            return {job for job, how in zip(jobs, await pipe.execute(), strict=True) if how[0] == b"paused" and how[1]}

    async def unfinished(self) -> list[str]:
        """Accepted jobs without a final status, that are not paused at their cap either."""
        jobs = sorted(await self.accepted() - await self.at_cap())
        async with self._client.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.hget(f"{NAMESPACE}:job:{job}", "status")
            found = await pipe.execute()
        return [
            job
            for job, status in zip(jobs, found, strict=True)
            if status is None or not JobStatus(status.decode()).final
        ]
