"""A tier's fallback: it takes over while the account of its model has an outage or is shut, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fleet.config import FleetConfig
from fleet.jobs import JobStatus
from queues.limits import Permit
from queues.subtasks import NewSubtask
from queues.tiers import Allowance
from tests.support.bench import DEAR, GOOD, Bench, bench, config
from tests.support.scripted import Reply, Script, scripted
from tests.support.valkey import Valkey
from tests.support.worker import eventually

WRITE = {"id": "write", "each": "items", "tier": "nano", "prompt": "Write {{ item }}.", "max_output_tokens": 100}
OUTAGE_CALLS = 10


def with_fallback(**others: object) -> FleetConfig:
    plain = config(**others).model_dump()  # type: ignore[arg-type]
    plain["tiers"]["nano"]["fallback"] = DEAR
    return FleetConfig.model_validate(plain)


def against(
    valkey: Valkey,
    folder: Path,
    replies: list[Reply | str],
    scenario: Callable[[Bench, Script], Awaitable[None]],
) -> None:
    async def run() -> None:
        async with (
            scripted(*replies) as server,
            bench(valkey, folder, with_fallback(), openai_base_url=server.url) as fleet,
        ):
            await scenario(fleet, server)

    asyncio.run(run())


def models(server: Script) -> list[str]:
    return [call["model"] for call in server.calls]


async def outage(fleet: Bench) -> None:
    """Ten calls to the tier's own model broke one after the other, somewhere in the fleet."""
    for number in range(OUTAGE_CALLS):
        permit = Permit(f"b{number}", f"openai/{GOOD}", Allowance(), 1, 0)
        await fleet.runtime.limiter.acquire(
            permit.account, permit.allowance, tokens=1, permit_id=permit.id, lease_s=60, patience_s=1
        )
        await fleet.runtime.limiter.settle(permit, 0, "broken")


def test_in_an_outage_the_fallback_answers_at_its_own_price(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario(fleet: Bench, server: Script) -> None:
        await outage(fleet)
        job = await fleet.run(await fleet.submit(items=["a"], steps=[WRITE]))
        assert job.status is JobStatus.COMPLETED
        assert models(server) == [DEAR]
        (entry,) = await fleet.ledger(job.id)
        assert (entry.tier, entry.model, entry.cost_nano_usd) == ("nano", DEAR, 100 * 2_000 + 20 * 10_000)

    against(valkey, tmp_path, ["Written."], scenario)


def test_once_the_outage_is_over_the_tiers_own_model_answers_again(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario(fleet: Bench, server: Script) -> None:
        await outage(fleet)

        async def tried_again() -> bool:
            return (await fleet.runtime.limiter.look(f"openai/{GOOD}", Allowance())).outage_s == 0

        await eventually(tried_again, "the time to try again")
        job = await fleet.run(await fleet.submit(items=["a"], steps=[WRITE]))
        job = await fleet.run(await fleet.submit(items=["b"], steps=[WRITE]))
        assert job.status is JobStatus.COMPLETED
        assert models(server) == [GOOD, GOOD]

    against(valkey, tmp_path, ["It is back.", "Written."], scenario)


@pytest.mark.parametrize(
    "shut", [Reply(status=429, code="insufficient_quota"), Reply(status=401)], ids=["quota", "key"]
)
def test_an_account_that_is_shut_gives_way_to_the_fallback_for_a_while(
    valkey: Valkey, tmp_path: Path, shut: Reply
) -> None:
    async def scenario(fleet: Bench, server: Script) -> None:
        for items in (["a"], ["b"]):
            assert (await fleet.run(await fleet.submit(items=items, steps=[WRITE]))).status is JobStatus.COMPLETED
        pace = fleet.runtime.tiers["nano"].pace
        await fleet.runtime.store.add([NewSubtask(id=f"j/{n}", task="t", tier="nano", payload="") for n in range(50)])
        assert len(await fleet.runtime.store.release("nano", 50, pace)) == 50, "what the account allows does not matter"
        await fleet.runtime.limiter.shut(f"openai/{GOOD}", 0)
        assert (await fleet.run(await fleet.submit(items=["c"], steps=[WRITE]))).status is JobStatus.COMPLETED
        assert models(server) == [GOOD, DEAR, DEAR, GOOD]

    against(valkey, tmp_path, [shut, "Written.", "Written.", "It is open again."], scenario)


def test_a_fallback_that_is_shut_too_pauses_the_job(valkey: Valkey, tmp_path: Path) -> None:
    used_up = Reply(status=429, code="insufficient_quota")

    async def scenario(fleet: Bench, server: Script) -> None:
        job = await fleet.run(await fleet.submit(items=["a"], steps=[WRITE]))
        assert (job.status, "quota is used up" in str(job.error)) == (JobStatus.PAUSED, True)
        assert models(server) == [GOOD, DEAR]

    against(valkey, tmp_path, [used_up, used_up], scenario)


def test_a_wait_longer_than_a_worker_has_patience_goes_back_to_the_backlog(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.permits.PERMIT_PATIENCE_S", 1.0)

    async def scenario(fleet: Bench, server: Script) -> None:
        await fleet.runtime.limiter.pause(f"openai/{GOOD}", 300)
        job_id = await fleet.submit(items=["a"], steps=[WRITE])
        message = await fleet.run_until(job_id, "fleet.run_subtask.v1")
        await fleet.perform(message, "nano")
        assert (await fleet.runtime.store.counts(job_id))["nano"]["ready"] == 1, "no worker is kept waiting"
        pace = fleet.runtime.tiers["nano"].pace
        assert await fleet.runtime.store.release("nano", 10, pace) == [], "until shortly before the pause ends"

    against(valkey, tmp_path, [], scenario)
