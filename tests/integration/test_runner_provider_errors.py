"""What a subtask does when its provider errs, and when the job's budget ends: every call is booked, none too many."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from fleet import failures, fitting, permits
from fleet.control import Control
from fleet.jobs import JobStatus
from queues.limits import Limiter, Permit, PermitError
from queues.link import Link
from queues.tiers import Allowance
from tests.support.bench import BREAKS, DEAR, GOOD, Bench, bench, books, config, on_bench
from tests.support.scripted import Reply, scripted
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

WRITE = {"id": "write", "tier": "nano", "prompt": "Write it.", "max_output_tokens": 100}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "BACKOFF_S", 0.005)
    monkeypatch.setattr(fitting, "LOOK_S", 0.01)


def test_server_errors_are_tried_again_and_then_fail_with_an_entry_for_every_call(
    valkey: Valkey, tmp_path: Path, broken_sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(steps=[WRITE]))
        assert job.status is JobStatus.FAILED
        outcome = (await fleet.outcomes(job))["write"]
        assert outcome.status == "failed"
        assert "HTTP 50" in str(outcome.error)
        ledger = await fleet.ledger(job.id)
        assert [entry.call_id.rpartition(".")[2] for entry in ledger] == ["1", "2", "3"]
        assert {entry.status for entry in ledger} == {"failed"}
        assert {entry.reason for entry in ledger} <= {"server", "overloaded"}
        assert await fleet.money(job.id) == (0, 0), "a call that was refused before any work costs nothing"

    on_bench(scenario, valkey, tmp_path, config(call_tries=3), openai_base_url=broken_sim.url, openai_api_key="right")


def test_a_server_error_that_passes_is_no_failure(valkey: Valkey, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            scripted(Reply(status=503), Reply(status=500), "Here it is.") as server,
            bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet,
        ):
            job = await fleet.run(await fleet.submit(steps=[WRITE]))
            outcome = (await fleet.outcomes(job))["write"]
            assert (outcome.status, outcome.output, outcome.attempts) == ("ok", "Here it is.", 1)
            assert [entry.reason for entry in await fleet.ledger(job.id)] == ["overloaded", "server", None]

    asyncio.run(run())


def test_a_vendor_that_says_when_to_come_again_is_left_alone_until_then_by_the_whole_fleet(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permits, "PERMIT_PATIENCE_S", 0.5)
    busy = Reply(status=503, headers={"retry-after": "300"})

    async def run() -> None:
        async with scripted(busy) as server, bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet:
            job_id = await fleet.submit(steps=[WRITE])
            await fleet.perform(await fleet.run_until(job_id, "fleet.run_subtask.v1"), "nano")
            counts = (await fleet.runtime.store.counts(job_id))["nano"]
            assert (counts["ready"], counts["running"]) == (1, 0), "no worker is kept waiting"
            (account,) = [one for one in await fleet.client.limits() if "nano" in one.tiers]
            assert account.paused_s > 290

    asyncio.run(run())


def test_a_refused_key_pauses_the_job_and_names_the_variable(
    valkey: Valkey, tmp_path: Path, broken_sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(items=[1, 2, 3], steps=[WRITE | {"each": "items"}]))
        assert (job.status, "set OPENAI_API_KEY" in str(job.error)) == (JobStatus.PAUSED, True)
        assert "wrong-canary" not in str(job.error)
        assert {entry.reason for entry in await fleet.ledger(job.id)} == {"auth"}, "asking again would not help"
        assert (await fleet.client.progress(await fleet.client.job(job.id))).tiers["nano"].failed == 0

    on_bench(scenario, valkey, tmp_path, config(), openai_base_url=broken_sim.url, openai_api_key="wrong-canary")


def test_a_vendor_that_cannot_be_reached_at_all_pauses_the_job(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One call looks after a second whether the vendor is back; the others go on waiting until they lose patience.
    monkeypatch.setattr(permits, "PERMIT_PATIENCE_S", 4.0)

    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(items=list(range(20)), steps=[WRITE | {"each": "items"}]))
        assert (job.status, "cannot be reached; check the base URL" in str(job.error)) == (JobStatus.PAUSED, True)
        assert (await fleet.client.progress(await fleet.client.job(job.id))).tiers["nano"].failed == 0

    # Port 9 (discard, RFC 863) is below those the system hands out: nothing of this run listens there.
    on_bench(scenario, valkey, tmp_path, config(), openai_base_url="http://127.0.0.1:9/v1", openai_api_key="k")


def test_a_used_up_quota_pauses_the_job_wherever_it_stands_and_nothing_fails(valkey: Valkey, tmp_path: Path) -> None:
    used_up = Reply(status=429, code="insufficient_quota", headers={"retry-after": "1"})

    async def run() -> None:
        async with (
            scripted(
                used_up,
                "Written.",
                used_up,
                used_up,
                {"verdict": "accept", "result": "Reviewed.", "gaps": [], "rework": []},
            ) as server,
            bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet,
        ):
            control = Control(fleet.runtime)
            job_id = await fleet.submit(steps=[WRITE], review={"prompt": "Say it.", "rounds": 0})
            for paused_at in ("the step", "the review", "the review again"):
                job = await fleet.run(job_id)
                assert job.status is JobStatus.PAUSED, paused_at
                assert "quota is used up" in str(job.error)
                await control.resume(job_id)
                assert (await fleet.client.job(job_id)).error is None
            job = await fleet.run(job_id)
            assert job.status is JobStatus.COMPLETED
            assert (await fleet.outcomes(job))["write"].attempts == 1
            assert sorted(str(entry.reason) for entry in await fleet.ledger(job_id)) == ["None"] * 2 + ["quota"] * 3

    asyncio.run(run())


def test_a_429_pauses_the_account_for_the_whole_fleet_and_is_no_attempt(valkey: Valkey, tmp_path: Path) -> None:
    async def run() -> None:
        other = Link.from_url(valkey.url)
        try:
            async with (
                scripted(Reply(status=429, headers={"retry-after": "2"}), "Done.") as server,
                bench(valkey, tmp_path, config(call_tries=1), openai_base_url=server.url) as fleet,
            ):
                job_id = await fleet.submit(steps=[WRITE])
                running = asyncio.create_task(fleet.run(job_id))
                # Another process of the fleet, as soon as the ledger has the refusal.
                await eventually(lambda: fleet.ledger(job_id), "the refusal")
                elsewhere = Limiter(other, fleet.runtime.store.namespace)
                with pytest.raises(PermitError, match="paused"):
                    for n in range(100):
                        permit = await _permit(elsewhere, f"openai/{GOOD}", f"other{n}")
                        await elsewhere.settle(permit, 1)
                await elsewhere.settle(await _permit(elsewhere, f"openai/{DEAR}", "another model"), 1)
                job = await running
                outcome = (await fleet.outcomes(job))["write"]
                assert (outcome.status, outcome.attempts) == ("ok", 1)
                refused, answered = await fleet.ledger(job_id)
                assert (refused.reason, refused.cost_nano_usd, answered.status) == ("rate_limit", 0, "ok")
                assert answered.started_at - refused.finished_at > 1.5, "it waited as long as it was told to"
        finally:
            await other.aclose()

    asyncio.run(run())


def test_what_the_vendor_tells_of_its_limits_holds_for_the_whole_fleet(valkey: Valkey, tmp_path: Path) -> None:
    # There is place for another call a second later, which is longer than a busy machine takes to ask.
    told = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"}

    async def run() -> None:
        other = Link.from_url(valkey.url)
        try:
            async with (
                scripted(Reply("Done.", headers=told)) as server,
                bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet,
            ):
                elsewhere = Limiter(other, fleet.runtime.store.namespace)
                for n in range(20):  # at once, or it would fail
                    await _permit(elsewhere, f"openai/{GOOD}", f"before{n}")
                assert (await fleet.run(await fleet.submit(steps=[WRITE]))).status is JobStatus.COMPLETED
                await _permit(elsewhere, f"openai/{GOOD}", "first")
                with pytest.raises(PermitError, match="its limit is used up"):
                    await _permit(elsewhere, f"openai/{GOOD}", "second")
                await _permit(elsewhere, f"openai/{DEAR}", "another model")
        finally:
            await other.aclose()

    asyncio.run(run())


def test_a_call_of_unknown_end_is_booked_at_its_worst_and_marked(valkey: Valkey, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            scripted(Reply(status=504), "Late but here.") as server,
            bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet,
        ):
            job = await fleet.run(await fleet.submit(steps=[WRITE]))
            unknown, answered = await fleet.ledger(job.id)
            assert (unknown.status, unknown.usage_reported) == ("failed", False)
            assert unknown.cost_nano_usd > answered.cost_nano_usd > 0
            assert await fleet.money(job.id) == (unknown.cost_nano_usd + answered.cost_nano_usd, 0)

    asyncio.run(run())


def test_an_error_of_our_own_in_a_provider_is_booked_and_frees_what_it_held(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario(fleet: Bench) -> None:
        async def breaks(*_: object) -> object:
            raise ZeroDivisionError

        fleet.provider.complete = breaks  # type: ignore[method-assign,assignment]
        job = await fleet.run(await fleet.submit(steps=[WRITE], budget_usd=1))
        assert (await fleet.outcomes(job))["write"].error == "internal error: ZeroDivisionError"
        (entry,) = await fleet.ledger(job.id)
        assert (entry.status, entry.reason) == ("failed", "internal: ZeroDivisionError")
        assert await fleet.money(job.id) == (entry.cost_nano_usd, 0)

    on_bench(scenario, valkey, tmp_path, config(), openai_base_url="http://127.0.0.1:1/v1")


@pytest.mark.parametrize("budget", ["0.00015", "0.0002", "0.0003"])
def test_a_budget_pauses_the_job_and_is_never_overspent(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, budget: str
) -> None:
    async def scenario(fleet: Bench) -> None:
        step = WRITE | {"each": "items", "prompt": "Write about {{ item }} at length."}
        job = await fleet.run(await fleet.submit(items=[f"T{i}" for i in range(40)], steps=[step], budget_usd=budget))
        assert job.status is JobStatus.PAUSED
        assert job.error is not None
        assert job.error.startswith(f"The job's budget of ${budget} has $0.00")
        assert "higher budget_usd" in job.error
        outcomes = (await fleet.outcomes(job)).values()
        done = [outcome for outcome in outcomes if outcome.status == "ok"]
        assert 0 < len(done) < 40, "what could be paid for was done"
        cost = books(await fleet.ledger(job.id), sim.charges(), job.id)
        assert cost <= int(Decimal(budget) * 10**9)
        assert await fleet.money(job.id) == (cost, 0)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_budget_too_small_for_one_call_spends_nothing(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(steps=[WRITE], budget_usd="0.000001"))
        assert job.status is JobStatus.PAUSED
        assert "The job's budget of $0.000001 has $0.000001 left and this call may cost $0.0000" in str(job.error)
        assert fleet.provider.asked == []

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_escalation_counts_against_the_budget(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}
        job = await fleet.run(await fleet.submit(steps=[WRITE | {"output": schema}], budget_usd="0.0005"))
        assert job.status is JobStatus.PAUSED
        assert "budget" in str(job.error)
        statuses = [entry.status for entry in await fleet.ledger(job.id)]
        assert statuses == ["rejected", "rejected"], "the flagship could not be paid for"
        used, held = await fleet.money(job.id)
        assert (used, held) == (books(await fleet.ledger(job.id), sim.charges(), job.id), 0)

    on_bench(scenario, valkey, tmp_path, config(nano=BREAKS, mini=BREAKS), sim=sim.url)


async def _permit(limiter: Limiter, account: str, permit_id: str) -> Permit:
    return await limiter.acquire(account, Allowance(), tokens=1, permit_id=permit_id, lease_s=5, patience_s=0)
