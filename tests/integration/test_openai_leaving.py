"""Callers who leave: what becomes of their calls, what is left of them, and what a key of theirs is still good for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from fleet.janitor import Janitor
from tests.integration.test_openai_chat import SAY, client
from tests.support.api import Api, on_api, on_disk
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually


async def _job_of(api: Api) -> str:
    names = await api.fleet.runtime.link.execute("KEYS", "fleet:job:acme.j*")
    return str(names[0].decode().rpartition(":")[2]) if names else ""


async def _left(api: Api, **options: Any) -> str:
    """The job of a caller who has left."""
    async with client(api) as ai:
        asking = asyncio.create_task(ai.chat.completions.create(model="nano", messages=SAY, **options))

        async def begun() -> bool:
            return bool(await _job_of(api))

        await eventually(begun, "the job")
        asking.cancel()
        await asyncio.wait({asking})
    return await _job_of(api)


def test_of_a_call_that_nobody_waits_for_nothing_is_left(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        job_id = await _left(api)

        async def cancelled() -> bool:
            return (await api.fleet.runtime.jobs.load(job_id)).status == "cancelled"

        await eventually(cancelled, "the job to be cancelled")
        await Janitor(api.fleet.context).wind_up(job_id)
        execute = api.fleet.runtime.link.execute
        names = [name for name in await execute("KEYS", "*") if job_id.encode() in name]
        assert {name for name in names if await execute("TTL", name) == -1} == set()
        assert names
        assert not on_disk(tmp_path)
        code, problem, _ = await api.ask("POST", f"/v1/jobs/{job_id}/retry", await api.key("acme"))
        assert (code, "cancelled" in problem["detail"]) == (422, True)

    on_api(scenario, valkey, tmp_path, sim)


def test_a_call_under_a_key_is_there_for_who_comes_again(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        headers = {"Idempotency-Key": "once"}
        job_id = await _left(api, extra_headers=headers)
        work = asyncio.create_task(api.fleet.work())
        async with client(api) as ai:
            again = await ai.chat.completions.create(model="nano", messages=SAY, extra_headers=headers)
        assert again.id == f"chatcmpl-{job_id}"
        work.cancel()

    on_api(scenario, valkey, tmp_path, sim)


def test_a_call_that_failed_is_made_again_and_not_retried(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with client(api) as ai:
            with pytest.raises(openai.RateLimitError):
                await ai.chat.completions.create(
                    model="nano", messages=SAY, extra_headers={"x-fleet-budget-usd": "0.000000001"}
                )
        key = await api.key("acme")
        code, problem, _ = await api.ask("POST", f"/v1/jobs/{await _job_of(api)}/retry", key)
        assert (code, "single call" in problem["detail"]) == (422, True)

    on_api(scenario, valkey, tmp_path, sim, working=True)


def test_all_that_is_sent_counts_for_the_cap(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    before = len(sim.charges())

    async def scenario(api: Api) -> None:
        long: list[dict[str, Any]] = [
            {"role": "assistant", "content": None, "refusal": "no " * 100_000},
            {"role": "user", "content": "x"},
        ]
        async with client(api) as ai:
            with pytest.raises(openai.RateLimitError):
                await ai.chat.completions.create(
                    model="nano",
                    messages=long,  # type: ignore[arg-type]
                    max_tokens=10,
                    extra_headers={"x-fleet-budget-usd": "0.001"},
                )
        assert len(sim.charges()) == before

    on_api(scenario, valkey, tmp_path, sim, working=True)
