"""Reviews over the real store and the simulated provider: rework, reducing, repair, and being run again after a crash."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fleet.errors import ProviderError
from fleet.jobs import JobStatus
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.rounds import REVIEW_TASK
from tests.support.bench import Bench, bench, books, config, on_bench
from tests.support.scripted import Reply, scripted
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

ITEMS = [f"The depot at mile {i} has a leaking roof and wet stock." for i in range(4)]
NOTE = {"id": "note", "each": "items", "tier": "nano", "prompt": "Note on: {{ item }}", "max_output_tokens": 300}
REVIEW = {"prompt": "Brief the keeper.", "rounds": 1, "max_output_tokens": 2_000}
ACCEPT = {"verdict": "accept", "result": "All is well.", "rework": [], "gaps": []}


def _rework(*subtasks: str) -> dict[str, object]:
    rework = [{"subtask": subtask, "reason": "It names no depot."} for subtask in subtasks]
    return {"verdict": "rework", "result": "", "rework": rework, "gaps": []}


def test_a_review_is_one_flagship_call_over_the_outputs(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(goal="Roofs", items=ITEMS, steps=[NOTE], review=REVIEW))
        assert job.status is JobStatus.COMPLETED
        assert job.result is not None
        assert (job.result["verdict"], job.result["rounds"]) == ("accept", 1)
        ledger = await fleet.ledger(job.id)
        assert [entry.tier for entry in ledger if entry.role == "review"] == ["flagship"]
        (prompt,) = fleet.provider.prompts("review.1")
        assert "Coverage, by step:\n- note: 4 ok" in prompt
        for i in range(4):
            assert f'"subtask": "note/{i}"' in prompt
        books(ledger, sim.charges(), job.id)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_subtasks_sent_back_run_again_with_the_reason_and_only_as_often_as_allowed(
    valkey: Valkey, tmp_path: Path, demanding_sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        review = REVIEW | {"rounds": 2}
        job = await fleet.run(await fleet.submit(goal="Roofs", items=ITEMS, steps=[NOTE], review=review))
        assert job.status is JobStatus.COMPLETED
        assert job.result is not None
        assert (job.result["verdict"], job.result["rounds"], job.round) == ("accept", 3, 3)
        ledger = await fleet.ledger(job.id)
        reviews = [entry for entry in ledger if entry.role == "review"]
        assert [str(entry.subtask).rpartition("/")[2] for entry in reviews] == ["review.1", "review.2", "review.3"]
        work = [request for request in fleet.provider.asked if "/note/" in request.call_id]
        again = [request for request in work if "Reason: the review: It names no consequence" in request.prompt]
        assert 2 <= len(again) <= 4, "each round sends one or two back"
        assert {request.model for request in again} <= {"good", "dear"}
        outcomes = (await fleet.outcomes(job)).values()
        assert {outcome.status for outcome in outcomes} == {"ok"}
        assert sum(outcome.attempts for outcome in outcomes) == 4 + len(again)
        assert any(outcome.tier in ("mini", "flagship") for outcome in outcomes), "rework goes one tier up"
        paid = sum(entry.cost_nano_usd for entry in ledger if entry.role == "work")
        assert round(sum(outcome.cost_usd for outcome in outcomes) * 1e9) == paid
        cost = books(ledger, demanding_sim.charges(), job.id)
        assert await fleet.money(job.id) == (cost, 0)

    on_bench(scenario, valkey, tmp_path, config(), sim=demanding_sim.url)


def test_without_a_round_of_rework_the_prompt_says_so_and_the_review_ends(
    valkey: Valkey, tmp_path: Path, demanding_sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(items=ITEMS, steps=[NOTE], review=REVIEW | {"rounds": 0}))
        assert job.status is JobStatus.COMPLETED
        assert "No round of rework is left" in fleet.provider.prompts("review.1")[0]
        assert len(fleet.provider.asked) == 5

    on_bench(scenario, valkey, tmp_path, config(), sim=demanding_sim.url)


def test_rework_asked_for_in_the_last_round_becomes_a_gap(valkey: Valkey, tmp_path: Path) -> None:
    async def run() -> None:
        verdict = _rework("note") | {"result": "As far as it goes."}
        async with (
            scripted("A note.", _rework("note", "unknown/7"), "A better note.", verdict) as server,
            bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet,
        ):
            step = {"id": "note", "tier": "nano", "prompt": "Note."}
            job = await fleet.run(await fleet.submit(steps=[step], review=REVIEW))
            assert job.status is JobStatus.COMPLETED
            assert job.result is not None
            assert job.result["text"] == "As far as it goes."
            assert job.result["gaps"] == ["note: It names no depot. (no round of rework was left)"]
            assert "Reason: the review: It names no depot." in server.prompt(2)
            assert '"A note."' in server.prompt(2), "with the answer that was not good enough"
            assert "A better note." in server.prompt(3)

    asyncio.run(run())


def test_a_review_too_big_for_the_window_is_reduced_once_and_remembered(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        items = [f"Depot {i}: " + "the roof leaks and the stock is wet. " * 30 for i in range(60)]
        step = NOTE | {"prompt": "Note on: {{ item }}"}
        job_id = await fleet.submit(items=items, steps=[step], review=REVIEW)
        message = await fleet.run_until(job_id, REVIEW_TASK)
        await fleet.perform(message, "flagship")
        job = await fleet.runtime.jobs.load(job_id)
        assert job.status is JobStatus.COMPLETED, job.error
        ledger = await fleet.ledger(job_id)
        reduced = [entry for entry in ledger if entry.role == "reduce"]
        assert len(reduced) > 1, "several runs"
        assert {entry.tier for entry in reduced} == {"mini"}
        limit = 6_000
        assert all(request.input_estimate() < limit for request in fleet.provider.asked)
        # The process died before it could say that it was done: another one claims the review and goes through it.
        before = sim.charges()
        await _forget_the_end(fleet, job_id, message.id)
        await fleet.perform(message, "flagship")
        again = await fleet.runtime.jobs.load(job_id)
        assert (again.status, again.result) == (JobStatus.COMPLETED, job.result)
        assert sim.charges() == before
        assert await fleet.ledger(job_id) == ledger
        books(ledger, sim.charges(), job_id)

    on_bench(scenario, valkey, tmp_path, config(context_tokens=6_000), sim=sim.url)


@pytest.mark.parametrize("later", [False, True], ids=["at once", "when the second round is done"])
def test_a_crash_after_the_flagships_answer_pays_nothing_twice_and_sends_back_once(
    valkey: Valkey, tmp_path: Path, demanding_sim: RunningSim, later: bool
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=ITEMS, steps=[NOTE], review=REVIEW)
        first = await fleet.run_until(job_id, REVIEW_TASK)
        await fleet.perform(first, "flagship")
        second = await fleet.run_until(job_id, REVIEW_TASK) if later else None
        counts = await fleet.runtime.store.counts(job_id)
        calls = len(fleet.provider.asked)
        await _forget_the_end(fleet, job_id, first.id)
        await fleet.perform(first, "flagship")
        assert len(fleet.provider.asked) == calls
        again = await fleet.runtime.store.counts(job_id)
        assert (again["nano"], again["mini"]) == (counts["nano"], counts["mini"]), "sent back once"
        if second is not None:
            await fleet.perform(second, "flagship")
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        assert job.result is not None
        assert (job.result["rounds"], job.round) == (2, 2)
        ledger = await fleet.ledger(job_id)
        assert [entry.role for entry in ledger].count("review") == 2
        books(ledger, demanding_sim.charges(), job_id)

    on_bench(scenario, valkey, tmp_path, config(), sim=demanding_sim.url)


def test_a_review_that_cannot_be_read_is_asked_for_once_more_and_then_fails_the_job(
    valkey: Valkey, tmp_path: Path
) -> None:
    async def run() -> None:
        cut = Reply('{"verdict": "acc', finish="length")
        async with (
            scripted("A note.", cut, "no JSON", "A note.", {"verdict": "fine"}, ACCEPT) as server,
            bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet,
        ):
            step = {"id": "note", "tier": "nano", "prompt": "Note."}
            failed = await fleet.run(await fleet.submit(steps=[step], review=REVIEW))
            assert failed.status is JobStatus.FAILED
            assert str(failed.error).startswith("The review cannot be used, nor its repair: the answer is not JSON")
            assert "Your answer cannot be used: the answer was not whole." in server.prompt(2)
            assert (await fleet.outcomes(failed))["note"].output == "A note.", "the outputs are kept"
            mended = await fleet.run(await fleet.submit(steps=[step], review=REVIEW))
            assert mended.status is JobStatus.COMPLETED
            assert mended.result is not None
            assert mended.result["text"] == "All is well."

    asyncio.run(run())


def test_a_zombies_failed_review_does_not_end_the_job_that_another_reviews(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=ITEMS, steps=[NOTE], review=REVIEW | {"rounds": 0})
        message = await fleet.run_until(job_id, REVIEW_TASK)
        real = fleet.provider.complete
        asked, taken_over = asyncio.Event(), asyncio.Event()

        async def second(request: ModelRequest, started: Started | None = None) -> Completion:
            taken_over.set()
            await asyncio.wait({zombie})
            return await real(request, started)

        async def first(request: ModelRequest, started: Started | None = None) -> Completion:
            fleet.provider.complete = second  # type: ignore[method-assign]
            asked.set()
            await taken_over.wait()
            raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)

        fleet.provider.complete = first  # type: ignore[method-assign]
        zombie = asyncio.create_task(fleet.perform(message, "flagship"))
        await asyncio.wait_for(asked.wait(), 30)
        await fleet.runtime.link.execute("ZADD", "fleet:watch", 0, message.id)
        job = await asyncio.wait_for(fleet.run(job_id), 60)
        assert zombie.done()
        assert (job.status, job.error) == (JobStatus.COMPLETED, None)
        assert job.result is not None
        assert job.result["verdict"] == "accept"
        ledger = await fleet.ledger(job_id)
        assert sorted(entry.status for entry in ledger if entry.role == "review") == ["failed", "ok"]
        cost = books(ledger, sim.charges(), job_id)
        assert await fleet.money(job_id) == (cost, 0)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


async def _forget_the_end(fleet: Bench, job_id: str, review_id: str) -> None:
    """Put a review and its job back to where they stood when the flagship had answered and nothing was written."""
    store = fleet.runtime.store
    await store.link.execute("HSET", f"{store.namespace}:s:{review_id}", "state", "queued")
    job = await fleet.runtime.jobs.load(job_id)
    if job.status.final:
        await store.link.execute("HSET", f"{store.namespace}:job:{job_id}", "status", JobStatus.REVIEWING)
        await store.link.execute("HDEL", f"{store.namespace}:job:{job_id}", "result", "finished_at")
