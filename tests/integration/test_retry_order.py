"""Retries and rework of plans whose steps wait for each other across items, and coordinators that die on the way there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet import planner
from fleet.control import Control
from fleet.drain import GiveBack
from fleet.errors import BudgetExceededError, ProviderError
from fleet.jobs import JobStatus
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.retry import RETRY_TASK
from fleet.reviewer import Reviewer
from fleet.rounds import SHARD_TASK, Again
from fleet.shards import Shard
from fleet.store import COORDINATOR, PLAN_TASK, Job
from queues.subtasks import Claim, NewSubtask
from tests.support.bench import Bench, bench, books, config, on_bench
from tests.support.scripted import scripted
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

WIDTH, WINDOW = 2, 2


class Died(BaseException):
    """What no code catches: the process is gone."""


@pytest.fixture(autouse=True)
def _few_shards_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "MIN_WINDOW", WINDOW)
    monkeypatch.setattr(planner, "MAX_WINDOW", WINDOW)


def step(id_: str, prompt: str, needs: tuple[str, ...] = (), *, each: bool = True) -> dict[str, Any]:
    plain = {"id": id_, "tier": "nano", "prompt": prompt, "needs": list(needs), "max_output_tokens": 50}
    return plain | ({"each": "items"} if each else {})


def items(count: int) -> list[dict[str, str]]:
    return [{"name": f"item{i}"} for i in range(count)]


def refusing(fleet: Bench, refused: Callable[[ModelRequest], bool]) -> Callable[[], None]:
    """Let the vendor refuse some calls; what it gives back lets it take them again."""
    real = fleet.provider.complete

    async def complete(request: ModelRequest, started: Started | None = None) -> Completion:
        if refused(request):
            raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)
        return await real(request, started)

    def takes() -> None:
        fleet.provider.complete = real  # type: ignore[method-assign]

    fleet.provider.complete = complete  # type: ignore[method-assign]
    return takes


async def all_ok(fleet: Bench, job: Job, sim: RunningSim) -> None:
    assert (job.status, job.error) == (JobStatus.COMPLETED, None)
    assert {outcome.status for outcome in (await fleet.outcomes(job)).values()} == {"ok"}
    cost = books(await fleet.ledger(job.id), sim.charges(), job.id)
    assert await fleet.money(job.id) == (cost, 0)


def test_items_that_wait_for_one_step_are_retried_behind_it_in_however_many_shards(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    steps = [
        step("outline", "Outline.", each=False),
        step("style", "Style.", each=False),
        step("write", "Write {{ item.name }} by {{ outline }}.", ("outline",)),
        step("note", "Note {{ item.name }} in {{ style }}.", ("style",)),
    ]

    async def scenario(fleet: Bench) -> None:
        takes = refusing(fleet, lambda request: request.prompt.startswith(("Outline", "Note")))
        job_id = await fleet.submit(items=items(4 * WIDTH * WINDOW), steps=steps)
        job = await fleet.run(job_id)
        takes()
        assert await Control(fleet.runtime).retry_failed(job_id) == 1 + 2 * len(job.items)
        await all_ok(fleet, await fleet.run(job_id), sim)

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


def test_two_needs_of_an_item_are_retried_in_one_shard_with_it(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "MIN_WINDOW", 1)
    monkeypatch.setattr(planner, "MAX_WINDOW", 1)
    steps = [
        step("read", "Read {{ item.name }}."),
        step("look", "Look at {{ item.name }}."),
        step("join", "Join {{ read }} and {{ look }}.", ("read", "look")),
    ]

    async def scenario(fleet: Bench) -> None:
        takes = refusing(fleet, lambda _: True)
        job_id = await fleet.submit(items=items(12), steps=steps)
        await fleet.run(job_id)
        takes()
        assert await Control(fleet.runtime).retry_failed(job_id) == 36
        await all_ok(fleet, await fleet.run(job_id), sim)

    on_bench(scenario, valkey, tmp_path, config(gate_width=4), sim=sim.url)


def test_a_step_over_all_items_is_retried_behind_them(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    steps = [step("read", "Read {{ item.name }}."), step("sum", "Sum up {{ read | length }}.", ("read",), each=False)]

    async def scenario(fleet: Bench) -> None:
        takes = refusing(fleet, lambda request: "item3" in request.prompt or request.prompt.startswith("Sum"))
        job_id = await fleet.submit(items=items(9), steps=steps)
        await fleet.run(job_id)
        takes()
        assert await Control(fleet.runtime).retry_failed(job_id) == 2
        await all_ok(fleet, await fleet.run(job_id), sim)
        assert fleet.provider.prompts("/sum.") == ["Sum up 9."]

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


def test_rework_begins_though_the_coordinator_died_before_it_had_said_that_the_job_runs(
    valkey: Valkey, tmp_path: Path
) -> None:
    def verdict(what: str, *rework: str) -> dict[str, Any]:
        sent_back = [{"subtask": subtask, "reason": "It is thin."} for subtask in rework]
        return {"verdict": what, "result": "Done.", "rework": sent_back, "gaps": []}

    async def run() -> None:
        async with (
            scripted("A note.", verdict("rework", "note"), "A better note.", verdict("accept")) as server,
            bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet,
        ):
            real = fleet.context.rounds.open_phase

            async def dies_behind_it(job: Job, number: int) -> None:
                await real(job, number)
                raise Died

            fleet.context.rounds.open_phase = dies_behind_it  # type: ignore[method-assign]
            review = {"prompt": "Review.", "rounds": 1}
            job_id = await fleet.submit(steps=[step("note", "Note.", each=False)], review=review)
            planning = await fleet.run_until(job_id, PLAN_TASK)
            with pytest.raises(Died):
                await fleet.perform(planning, COORDINATOR)
            job = await fleet.run(job_id)
            assert (job.status, job.round) == (JobStatus.COMPLETED, 2)

    asyncio.run(run())


def test_a_shard_that_closes_as_its_job_ends_lets_no_other_in(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=items(3 * WIDTH * WINDOW), steps=[step("read", "Read {{ item.name }}.")])
        closing = await fleet.run_until(job_id, SHARD_TASK)
        real = fleet.context.rounds.open_next

        async def too_late(job: Job, closed: Shard) -> None:
            assert await fleet.runtime.jobs.end(job_id, JobStatus.FAILED, error="a duty of it failed")
            await real(job, closed)

        fleet.context.rounds.open_next = too_late  # type: ignore[method-assign]
        before = await fleet.runtime.store.counts(job_id)
        await fleet.perform(closing, COORDINATOR)
        after = await fleet.runtime.store.counts(job_id)
        assert sum(after["nano"].values()) == sum(before["nano"].values())
        fleet.context.rounds.open_next = real  # type: ignore[method-assign]
        await fleet.run(job_id)
        await Control(fleet.runtime).retry_failed(job_id)
        await all_ok(fleet, await fleet.run(job_id), sim)

    on_bench(scenario, valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url)


def test_who_has_lost_the_claim_changes_neither_the_plan_nor_how_a_job_ends(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=items(2), steps=[step("read", "Read {{ item.name }}.")])
        await fleet.run_until(job_id, PLAN_TASK)
        store, jobs = fleet.runtime.store, fleet.runtime.jobs
        lost = await store.claim(f"{job_id}/plan.1", COORDINATOR)
        assert isinstance(lost, Claim)
        spec = (await jobs.load(job_id)).spec
        await store.link.execute("ZADD", "fleet:watch", 0, lost.id)
        await store.reconcile()
        await jobs.set_plan(job_id, spec.steps, width=1, window=1, claim=lost)
        await fleet.context.pause_at_cap(
            lost, BudgetExceededError("It is short.", "Give it more.", amount=1), lost.trail
        )
        assert (await jobs.load(job_id)).steps == ()
        job = await fleet.run(job_id)
        assert (job.status, job.error, job.window) == (JobStatus.COMPLETED, None, WINDOW)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_retry_of_a_plan_that_could_not_be_used_asks_for_another(valkey: Valkey, tmp_path: Path) -> None:
    planned = step("note", "Note on {{ item.name }}") | {"kind": "note", "when": None, "output": []}
    del planned["max_output_tokens"]

    async def run() -> None:
        async with (
            scripted("no plan", "nor this", {"steps": [planned]}, "one", "two") as server,
            bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet,
        ):
            job_id = await fleet.submit(goal="Notes", items=items(2))
            assert (await fleet.run(job_id)).status is JobStatus.FAILED
            assert await Control(fleet.runtime).retry_failed(job_id) == 0
            job = await fleet.run(job_id)
            assert (job.status, job.error) == (JobStatus.COMPLETED, None)
            assert [entry.role for entry in await fleet.ledger(job_id)] == ["plan"] * 3 + ["work"] * 2

    asyncio.run(run())


def test_a_retry_whose_message_a_late_cancel_dropped_is_sent_when_it_is_asked_for_again(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        store = fleet.runtime.store
        duty = NewSubtask(id="j/retry.1.2", task="t", tier=COORDINATOR, payload="")
        assert await store.again("j", duty, [], [COORDINATOR]) == "asked"
        await store.stop("j", "cancelled", [COORDINATOR])
        assert await store.again("j", duty, [], [COORDINATOR]) == "winding"
        await store.wound_up("j", "cancelled", [COORDINATOR])
        for _ in range(2):
            assert await store.again("j", duty, [], [COORDINATOR]) == "asked"
        assert [one.id for one in await store.release(COORDINATOR, 10)] == [duty.id]

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_parts_of_a_review_end_before_one_that_is_given_back_is_told(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    """Whoever goes on finds what they paid for, instead of paying again."""

    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=items(1), steps=[step("read", "Read {{ item.name }}.")])
        job, given_back, ended = await fleet.client.job(job_id), asyncio.Event(), []

        async def remembered(purpose: object, request: object, memo: str) -> tuple[str, bool]:
            if memo.endswith(".0"):
                given_back.set()
                raise GiveBack("the worker drains")
            await given_back.wait()
            for _ in range(10):
                await asyncio.sleep(0)
            ended.append(memo)
            return "short", True

        fleet.context.executor.remembered = remembered  # type: ignore[method-assign]
        claim = Claim(f"{job_id}/review.1", "flagship", 1, "", "", 0, 1)
        with pytest.raises(GiveBack):
            await Reviewer(fleet.context)._reduce_all(job, [["a"], ["b"], ["c"]], "reduce.1.0", 0, claim)
        assert ended == ["reduce.1.0.1", "reduce.1.0.2"]

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_coordinator_with_another_gate_width_goes_on_as_the_job_was_planned(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def run() -> None:
        async with bench(valkey, tmp_path, config(gate_width=WIDTH), sim=sim.url) as fleet:
            job_id = await fleet.submit(items=items(8 * WIDTH), steps=[step("read", "Read {{ item.name }}.")])
            await fleet.perform(await fleet.run_until(job_id, PLAN_TASK), COORDINATOR)
        async with bench(valkey, tmp_path, config(gate_width=200), sim=sim.url) as fleet:
            await all_ok(fleet, await fleet.run(job_id), sim)

    asyncio.run(run())


def test_a_duty_of_a_round_that_is_over_ends_no_other(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=items(3), steps=[step("read", "Read {{ item.name }}.")])
        closing = await fleet.run_until(job_id, SHARD_TASK)
        assert await fleet.runtime.jobs.end(job_id, JobStatus.FAILED, error="a duty of it failed")
        await fleet.runtime.link.execute("HSET", f"fleet:s:{job_id}/read/0", "status", "failed")
        await Control(fleet.runtime).retry_failed(job_id)
        await fleet.perform(await fleet.run_until(job_id, RETRY_TASK), COORDINATOR)
        await fleet.runtime.link.execute("HSET", f"fleet:s:{closing.id}", "kills", 3)  # its coordinators died
        await fleet.perform(closing, COORDINATOR)
        assert (await fleet.runtime.jobs.load(job_id)).status is JobStatus.RUNNING
        job = await fleet.run(job_id)
        assert (job.status, job.error, job.round) == (JobStatus.COMPLETED, None, 2)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_rework_that_was_never_begun_does_not_take_the_place_of_what_failed(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        takes = refusing(fleet, lambda request: "item1" in request.prompt)
        job_id = await fleet.submit(items=items(3), steps=[step("read", "Read {{ item.name }}.")])
        job = await fleet.run(job_id)
        takes()
        # Its review had sent back another one, and its workers died before the round was open.
        fleet.context.rounds.write(job, 2, [Again(id=f"{job_id}/read/0", tier="nano")])
        assert await Control(fleet.runtime).retry_failed(job_id) == 1
        await all_ok(fleet, await fleet.run(job_id), sim)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)
