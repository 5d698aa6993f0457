"""A store that fails in the middle of a subtask: what was paid for is written, and nobody counts as dead of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from fleet import context
from fleet.jobs import JobStatus
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.rounds import RUN_TASK
from fleet.runner import MAX_KILLS, NotOurs
from queues import store
from queues.link import LinkError
from tests.support.bench import Bench, books, config, on_bench
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

WRITE = {"id": "write", "tier": "nano", "prompt": "Write it.", "max_output_tokens": 100}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "GIVE_BACK_S", 0.0)
    monkeypatch.setattr(store, "INSIST_DELAY_S", 0.005)


def test_an_answer_is_written_once_a_store_with_a_full_disk_has_room_again(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        link, complete = fleet.runtime.store.link, fleet.provider.complete
        real = link.each
        refused: list[str] = []

        async def refuses(name: str, *args: Any, **named: Any) -> Any:
            if len(refused) < 6:
                refused.append(name)
                raise ResponseError("MISCONF Errors writing to the AOF file: No space left on device")
            return await real(name, *args, **named)

        async def fills(request: ModelRequest, started: Started | None = None) -> Completion:
            answer = await complete(request, started)
            link.each = refuses  # type: ignore[method-assign]
            return answer

        fleet.provider.complete = fills  # type: ignore[method-assign]
        job = await fleet.run(await fleet.submit(steps=[WRITE], budget_usd=1))
        assert refused.count("finish") > 1, "it was insisted upon"
        assert job.status is JobStatus.COMPLETED
        (entry,) = await fleet.ledger(job.id)
        assert entry.status == "ok"
        cost = books([entry], sim.charges(), job.id)
        assert await fleet.money(job.id) == (cost, 0)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


@pytest.mark.parametrize("name", ["a call", "the plan"])
def test_a_store_that_fails_in_the_middle_of_a_subtask_counts_as_nobodys_death(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, name: str
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[WRITE])
        message = await fleet.run_until(job_id, RUN_TASK)
        acquire, planned = fleet.runtime.limiter.acquire, fleet.runtime.jobs.planned

        async def away(*_: object, **__: object) -> Any:
            fleet.runtime.limiter.acquire, fleet.context.jobs.planned = acquire, planned  # type: ignore[method-assign]
            raise LinkError("The store cannot be reached.")

        for _ in range(MAX_KILLS):
            if name == "a call":
                fleet.runtime.limiter.acquire = away  # type: ignore[method-assign]
            else:
                fleet.context.jobs.planned = away  # type: ignore[method-assign]
            with pytest.raises(NotOurs, match="the store or the disk failed"):
                await fleet.runner.run(message.id, "nano")
            assert [one.id for one, _ in await fleet.release()] == [message.id], "it is in front of its backlog again"
        assert await fleet.runtime.store.fields(message.id, "kills") == ["0"]
        await fleet.perform(message, "nano")
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        books(await fleet.ledger(job_id), sim.charges(), job_id)
        assert len(fleet.provider.asked) == 1

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)
