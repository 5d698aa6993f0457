"""Plans over the real store: what the flagship may plan, the one repair, and what a crash costs."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fleet.jobs import JobSpec, JobStatus, Step
from fleet.store import PLAN_TASK
from tests.support.bench import Bench, bench, books, config, on_bench
from tests.support.scripted import Reply, scripted
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

ITEMS = [{"text": "The roof leaks."}, {"text": "The stock is wet."}]


def step(id_: str = "note", **fields: Any) -> dict[str, Any]:
    """A planned step that is fine unless `fields` say otherwise."""
    plain: dict[str, Any] = {"id": id_, "each": "items", "tier": "nano", "kind": "note", "needs": [], "when": None}
    return plain | {"prompt": "Note on {{ item.text }}", "output": []} | fields


def plan(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"steps": list(steps)}


def test_a_job_without_steps_runs_the_flagships_plan(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(goal="Sort the notes", items=ITEMS))
        assert job.status is JobStatus.COMPLETED, job.error
        assert [step.id for step in job.steps] == ["classify", "summarise"]
        ledger = await fleet.ledger(job.id)
        assert [(entry.role, entry.tier) for entry in ledger[:1]] == [("plan", "flagship")]
        prompt = fleet.provider.prompts("/plan.1")[0]
        assert prompt.startswith("Goal: Sort the notes\n\nThere are 2 items.")
        assert '{"text": "The roof leaks."}' in prompt
        books(ledger, sim.charges(), job.id)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


#: What is wrong with a plan, and the words of the sentence that say so.
UNUSABLE: dict[str, tuple[Reply | str | dict[str, Any], str]] = {
    "no JSON": ("Classify everything, then summarise.", "the answer is not JSON"),
    "cut off": (Reply('{"steps": [', finish="length"), "the answer was not whole"),
    "no steps": (plan(), "steps breaks the schema's rule minItems: 1"),
    "too many steps": (plan(*(step(f"s{i}") for i in range(13))), "steps breaks the schema's rule maxItems: 12"),
    "unknown tier": (plan(step(tier="huge")), "steps.0.tier breaks the schema's rule enum"),
    "circle": (
        plan(step("a", needs=["b"]), step("b", needs=["a"])),
        "the plan: needs run in a circle: a -> b -> a",
    ),
    "unknown need": (plan(step("a", needs=["c"])), 'steps.a.needs names "c"'),
    "name not needed": (plan(step("a"), step("b", prompt="{{ a }}")), 'prompt uses "a"'),
    "field that is not there": (
        plan(
            step("a", output=[{"name": "topic", "type": "string", "values": []}]),
            step("b", needs=["a"], prompt="{{ a.topics }}"),
        ),
        'steps.b.prompt asks for a.topics (did you mean "topic"?)',
    ),
    "no template": (plan(step(prompt="{{ item.text")), "The template is wrong in line 1"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_nonsense_plan_is_mended_once_with_the_reason(valkey: Valkey, tmp_path: Path, case: str) -> None:
    nonsense, sentence = UNUSABLE[case]

    async def run() -> None:
        async with (
            scripted(nonsense, plan(step()), "one", "two") as server,
            bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet,
        ):
            job = await fleet.run(await fleet.submit(goal="Notes", items=ITEMS))
            assert job.status is JobStatus.COMPLETED, job.error
            asked_again = server.prompt(1)
            assert sentence in asked_again.partition("Your plan cannot be used: ")[2].partition("\nYour plan was:")[0]
            assert server.prompt(1).endswith("Mend it.")

    asyncio.run(run())


def test_a_plan_that_stays_nonsense_fails_the_job_before_any_work(valkey: Valkey, tmp_path: Path) -> None:
    async def run() -> None:
        circle = plan(step("a", needs=["b"]), step("b", needs=["a"]))
        async with (
            scripted(circle, circle) as server,
            bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet,
        ):
            job = await fleet.run(await fleet.submit(goal="Notes", items=ITEMS))
            assert job.status is JobStatus.FAILED
            assert job.error == (
                "The flagship's plan cannot be used, nor its repair: "
                "the plan: needs run in a circle: a -> b -> a. Give steps instead."
            )
            assert [entry.role for entry in await fleet.ledger(job.id)] == ["plan", "plan"]
            assert job.steps == ()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([step(f"s{i}", needs=[f"s{i - 1}"] if i else []) for i in range(7)], "The plan is 7 steps deep; at most 6"),
        ([step("a", each="items")], "The plan makes 0 subtasks"),
    ],
)
def test_a_plan_too_deep_or_empty_is_refused_with_the_numbers(
    valkey: Valkey, tmp_path: Path, steps: list[dict[str, Any]], sentence: str
) -> None:
    async def run() -> None:
        items = ITEMS if len(steps) > 1 else []
        async with (
            scripted(plan(*steps)) as server,
            bench(valkey, tmp_path, config(), openai_base_url=server.url) as fleet,
        ):
            job = await fleet.run(await fleet.submit(goal="Notes", items=items))
            assert job.status is JobStatus.FAILED
            assert str(job.error).startswith(sentence)

    asyncio.run(run())


def test_planning_again_after_a_crash_asks_nobody_and_adds_nothing(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(goal="Sort the notes", items=ITEMS, review={"prompt": "Brief."})
        message = await fleet.run_until(job_id, PLAN_TASK)
        await fleet.perform(message, "coordinator")
        counts = await fleet.runtime.store.counts(job_id)
        store = fleet.runtime.store
        # The answer was remembered and nothing else was written, as far as the job document goes.
        await store.link.execute("HDEL", f"{store.namespace}:job:{job_id}", "plan")
        await store.link.execute("HSET", f"{store.namespace}:job:{job_id}", "status", JobStatus.PLANNING)
        await store.link.execute("HSET", f"{store.namespace}:s:{message.id}", "state", "queued")
        await fleet.perform(message, "coordinator")
        again = await store.counts(job_id)
        assert {tier: again[tier] for tier in again if tier != "coordinator"} == {
            tier: counts[tier] for tier in counts if tier != "coordinator"
        }
        assert len(fleet.provider.asked) == 1
        job = await fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED, job.error
        books(await fleet.ledger(job_id), sim.charges(), job_id)

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_items_are_kept_in_their_file_and_not_with_the_job_that_everybody_reads(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(valkey, tmp_path, config(), sim="http://127.0.0.1:1/v1") as fleet:
            step = {"id": "note", "each": "items", "tier": "nano", "prompt": "{{ item.n }}"}
            job_id = await fleet.submit(items=[{"n": number} for number in range(1_000)], steps=[step])
            job = await fleet.runtime.jobs.load(job_id)
            assert (len(job.items), job.spec.items) == (1_000, ())
            with valkey.client() as client:
                assert sum(map(len, client.hgetall(f"fleet:job:{job_id}").values())) < 20_000

    asyncio.run(scenario())


def test_a_fair_share_is_one_of_tokens_with_those_of_the_items(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        step = {"id": "read", "each": "items", "tier": "nano", "max_output_tokens": 100}
        jobs = {}
        for name, text, prompt in (
            ("long", 40_000 * "x", "Read {{ item }}."),
            ("short", "x", "Read {{ item }}."),
            ("unread", 40_000 * "x", "Read."),
        ):
            jobs[await fleet.submit(items=[text] * 40, steps=[step | {"prompt": prompt}])] = name
        for one in await fleet.runtime.store.release("coordinator", 10):
            await fleet.perform(one, "coordinator")
        released = await fleet.runtime.store.release("nano", 41)
        shares = Counter(jobs[one.id.partition("/")[0]] for one in released)
        assert shares["long"] == 1, "it has taken as many tokens as a hundred of the others"
        assert abs(shares["short"] - shares["unread"]) <= 2

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_tenants_share_by_their_weights(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        step = Step(id="read", each="items", tier="nano", prompt="Read {{ item }}.")
        tenants = {}
        for tenant in ("heavy", "light"):
            spec = JobSpec(name="read", items=tuple(range(100)), steps=(step,))
            tenants[await fleet.client.submit(spec, tenant=tenant)] = tenant
        for one in await fleet.runtime.store.release("coordinator", 10):
            await fleet.perform(one, "coordinator")
        released = await fleet.runtime.store.release("nano", 40)
        shares = Counter(tenants[one.id.partition("/")[0]] for one in released)
        assert 29 <= shares["heavy"] <= 31

    on_bench(scenario, valkey, tmp_path, config(tenants={"heavy": {"weight": 3}}), sim=sim.url)
