"""Runner and duties over the real store and a provider over HTTP: checks, escalation, needs and conditions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fleet.jobs import JobStatus
from fleet.runner import NotOurs
from queues.subtasks import Claim
from tests.support.bench import BREAKS, DEAR, GOOD, Bench, books, config, on_bench
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

TOPIC = {
    "type": "object",
    "additionalProperties": False,
    "required": ["topic"],
    "properties": {"topic": {"type": "string", "enum": ["billing", "bug", "other"]}},
}
TICKETS = ["I was charged twice, refund the invoice", "The export crashes with error 500", "Hello there"]
CLASSIFY = {"id": "classify", "each": "items", "tier": "nano", "prompt": "Topic? {{ item }}", "output": TOPIC}
SUMMARISE = {"id": "summarise", "each": "items", "tier": "nano", "prompt": "Summarise {{ item }}."}


def test_a_job_without_review_ends_with_its_outputs_and_equal_books(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(items=TICKETS, steps=[CLASSIFY]))
        assert job.status is JobStatus.COMPLETED
        outcomes = await fleet.outcomes(job)
        assert [outcomes[f"classify/{i}"].output for i in range(3)] == [
            {"topic": "billing"},
            {"topic": "bug"},
            {"topic": "other"},
        ]
        ledger = await fleet.ledger(job.id)
        assert [entry.status for entry in ledger] == ["ok"] * 3
        assert await fleet.money(job.id) == (books(ledger, sim.charges(), job.id), 0)

    _with(scenario, valkey, tmp_path, sim)


def test_a_rejected_answer_goes_up_with_the_answer_and_the_reason(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job = await fleet.run(await fleet.submit(items=TICKETS[:1], steps=[CLASSIFY]))
        outcome = (await fleet.outcomes(job))["classify/0"]
        assert (outcome.status, outcome.tier, outcome.attempts) == ("ok", "mini", 2)
        first, second = fleet.provider.prompts("classify/0")
        rejected, accepted = await fleet.ledger(job.id)
        assert (rejected.tier, rejected.status, rejected.model) == ("nano", "rejected", BREAKS)
        assert (accepted.tier, accepted.status, accepted.model) == ("mini", "ok", GOOD)
        assert rejected.reason is not None
        assert second.startswith(first)
        assert f"Reason: {rejected.reason}" in second
        assert fleet.provider.answered[0].text in second
        assert outcome.cost_usd * 1e9 == books([rejected, accepted], sim.charges(), job.id)

    _with(scenario, valkey, tmp_path, sim, nano=BREAKS)


def test_the_ladder_ends_at_max_tier_and_what_needs_the_failed_one_is_skipped(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        steps = [
            CLASSIFY | {"max_tier": "mini"},
            SUMMARISE | {"needs": ["classify"]},
            {"id": "brief", "needs": ["summarise"], "tier": "nano", "prompt": "Brief: {{ summarise }}"},
        ]
        job = await fleet.run(await fleet.submit(items=TICKETS[:1], steps=steps))
        outcomes = await fleet.outcomes(job)
        failed = outcomes["classify/0"]
        assert (failed.status, failed.tier, failed.attempts) == ("failed", "mini", 2)
        assert failed.error is not None
        assert failed.error.startswith("no valid answer up to tier mini: ")
        skipped = outcomes["summarise/0"]
        assert (skipped.status, skipped.error) == ("skipped", "it needs classify, which is failed")
        assert skipped.attempts == 0
        assert fleet.provider.prompts("summarise") == []
        assert outcomes["brief"].status == "ok", "a step over all outputs runs with those there are"
        assert fleet.provider.prompts("brief") == ["Brief: []"]

    _with(scenario, valkey, tmp_path, sim, nano=BREAKS, mini=BREAKS)


def test_a_job_without_any_accepted_output_has_failed_and_says_why(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(fleet: Bench) -> None:
        step = CLASSIFY | {"max_tier": "nano"}
        job = await fleet.run(await fleet.submit(items=TICKETS, steps=[step], review={"prompt": "Brief."}))
        assert job.status is JobStatus.FAILED
        assert job.error is not None
        assert "No subtask gave an accepted output. The first: no valid answer up to tier nano" in job.error
        told = [record.getMessage() for record in caplog.records if record.name == "fleet.duties"]
        assert told == ["the job failed: no subtask gave an accepted output"], "the log quotes no answer"
        assert {entry.tier for entry in await fleet.ledger(job.id)} == {"nano"}, "nobody pays for a review of nothing"

    _with(scenario, valkey, tmp_path, sim, nano=BREAKS)


def test_a_subtask_whose_condition_is_false_is_skipped_without_a_call(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        steps = [CLASSIFY, SUMMARISE | {"needs": ["classify"], "when": 'classify.topic != "other"'}]
        job = await fleet.run(await fleet.submit(items=TICKETS, steps=steps))
        outcomes = await fleet.outcomes(job)
        assert [outcomes[f"summarise/{i}"].status for i in range(3)] == ["ok", "ok", "skipped"]
        assert outcomes["summarise/2"].error == 'when: classify.topic != "other"'
        assert fleet.provider.prompts("summarise/2") == []
        assert len(fleet.provider.prompts("summarise")) == 2

    _with(scenario, valkey, tmp_path, sim)


def test_a_step_over_all_items_gets_the_accepted_outputs_and_starts_after_the_last(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        brief = {
            "id": "brief",
            "needs": ["classify"],
            "tier": "mini",
            "prompt": "{% for one in classify %}[{{ one.topic }}]{% endfor %} of {{ items | length }}",
        }
        job = await fleet.run(await fleet.submit(items=TICKETS, steps=[brief, CLASSIFY]))
        assert job.status is JobStatus.COMPLETED
        assert fleet.provider.prompts("brief") == ["[billing][bug][other] of 3"]
        assert [request.call_id.split("/")[1].split(".")[0] for request in fleet.provider.asked][-1] == "brief"

    _with(scenario, valkey, tmp_path, sim)


def test_a_template_that_fails_on_its_values_fails_that_subtask_only(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        step = SUMMARISE | {"prompt": "{{ item.text }}"}
        job = await fleet.run(await fleet.submit(items=[{"text": "fine"}, {"other": "no text"}], steps=[step]))
        outcomes = await fleet.outcomes(job)
        assert [outcomes[f"summarise/{i}"].status for i in range(2)] == ["ok", "failed"]
        assert "has no attribute 'text'" in str(outcomes["summarise/1"].error)
        assert job.status is JobStatus.COMPLETED

    _with(scenario, valkey, tmp_path, sim)


def test_steps_may_be_called_plan_and_end(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(fleet: Bench) -> None:
        steps = [
            {"id": "plan", "tier": "nano", "prompt": "Plan it."},
            {"id": "end", "tier": "nano", "needs": ["plan"], "prompt": "End it: {{ plan }}"},
        ]
        job = await fleet.run(await fleet.submit(steps=steps))
        assert job.status is JobStatus.COMPLETED
        assert {one.status for one in (await fleet.outcomes(job)).values()} == {"ok"}
        books(await fleet.ledger(job.id), sim.charges(), job.id)

    _with(scenario, valkey, tmp_path, sim)


def test_a_duplicate_message_returns_the_reference_again_or_nothing_and_calls_nobody(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(items=TICKETS[:1], steps=[CLASSIFY])
        message = await fleet.run_until(job_id, "fleet.run_subtask.v1")
        for _ in range(3):
            reference = await fleet.runner.run(message.id, "nano")
            assert reference == {"id": message.id, "status": "ok"}
        await fleet.run(job_id)
        with pytest.raises(NotOurs, match="gone"):  # its shard is closed and no chord waits for it
            await fleet.runner.run(message.id, "nano")
        assert len(fleet.provider.asked) == 1

    _with(scenario, valkey, tmp_path, sim)


def test_a_subtask_that_killed_three_workers_fails_without_another_call(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[{"id": "poison", "tier": "flagship", "prompt": "Go."}])
        message = await fleet.run_until(job_id, "fleet.run_subtask.v1")
        store = fleet.runtime.store
        for _ in range(3):
            await fleet.release()
            assert isinstance(await store.claim(message.id, "flagship"), Claim)
            await store.link.execute("ZADD", f"{store.namespace}:watch", 1, message.id)  # its lease is over
            assert [id_ for id_, _ in await store.reconcile()] == [message.id]
        job = await fleet.run(job_id)
        outcome = (await fleet.outcomes(job))["poison"]
        assert (outcome.status, outcome.error) == ("failed", "3 workers died while running it")
        assert fleet.provider.asked == []

    _with(scenario, valkey, tmp_path, sim, flagship=DEAR)


def test_a_subtask_whose_record_cannot_be_read_ends_as_failed(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    """Raised out of its task it would be sent again for ever, and its gate would never fire."""

    async def scenario(fleet: Bench) -> None:
        job_id = await fleet.submit(steps=[{"id": "write", "tier": "nano", "prompt": "Go."}])
        message = await fleet.run_until(job_id, "fleet.run_subtask.v1")
        await fleet.runtime.link.execute("HSET", f"{fleet.runtime.store.namespace}:s:{message.id}", "trail", "{half")
        assert await fleet.runner.run(message.id, "nano") == {"id": message.id, "status": "failed"}
        job = await fleet.run(job_id)
        assert job.status is JobStatus.FAILED
        assert "cannot be read" in str((await fleet.outcomes(job))["write"].error)
        assert fleet.provider.asked == []

    _with(scenario, valkey, tmp_path, sim)


def _with(
    scenario: Callable[[Bench], Awaitable[None]], valkey: Valkey, folder: Path, sim: RunningSim, **models: str
) -> None:
    on_bench(scenario, valkey, folder, config(**models), sim=sim.url)  # type: ignore[arg-type]
