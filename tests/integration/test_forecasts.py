"""Forecasts against what jobs then cost on the simulated provider: the truth lies inside, and the interval says something."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fleet.config import FleetConfig
from fleet.estimate import measure
from fleet.evidence import Evidence
from fleet.forecast import Forecast, forecast
from fleet.jobs import JobSpec, JobStatus
from fleet.sampling import evidence_of, sample_job, spread
from tests.integration.test_vendor_batches import run
from tests.support.bench import BREAKS, GOOD, Bench, config, on_bench
from tests.support.lanes import LanesSim, lanes_config
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

TOPIC = {
    "type": "object",
    "additionalProperties": False,
    "required": ["topic"],
    "properties": {"topic": {"type": "string", "enum": ["billing", "bug", "other"]}},
}
TEXTS = (
    "I was charged twice, please refund the invoice. ",
    "The export crashes with error 500 whenever there are umlauts in a name. ",
    "How do I invite a colleague to my workspace? ",
)
CLASSIFY = {"id": "classify", "each": "items", "tier": "nano", "prompt": "Topic? {{ item }}", "output": TOPIC}
SUMMARISE = {
    "id": "summarise",
    "each": "items",
    "tier": "nano",
    "needs": ["classify"],
    "when": 'classify.topic != "other"',
    "prompt": "Summarise for an engineer who has no time: {{ item }}",
    "max_output_tokens": 400,
}
EXTRACT = {
    "id": "extract",
    "each": "items",
    "tier": "mini",
    "prompt": "Facts in: {{ item }}",
    "output": {
        "type": "object",
        "additionalProperties": False,
        "required": ["title", "urgent", "words"],
        "properties": {
            "title": {"type": "string"},
            "urgent": {"type": "boolean"},
            "words": {"type": "array", "items": {"type": "string"}},
        },
    },
}
REVIEW = {"prompt": "Write the briefing.", "rounds": 0, "max_output_tokens": 2_000}

#: Items grow, so that a sample that is not spread over them would mislead.
JOBS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("bulk", {"steps": [CLASSIFY]}, {}),
    ("conditional", {"steps": [CLASSIFY, SUMMARISE], "review": REVIEW}, {}),
    ("structured", {"steps": [EXTRACT]}, {}),
    ("escalating", {"steps": [CLASSIFY]}, {"nano": BREAKS}),
]


def items(count: int) -> list[str]:
    return [TEXTS[i % 3] * (1 + i // 3) for i in range(count)]


async def sampled(fleet: Bench, spec: JobSpec, few: int, on: FleetConfig) -> dict[str, Evidence]:
    """What a sample of a job says, run like any other job."""
    asked = [spec.items[i] for i in spread(few, len(spec.items))]  # type: ignore[arg-type,index]
    small = sample_job(spec, asked, Decimal(1))
    job = await fleet.run(await fleet.client.submit(small))
    assert job.status is JobStatus.COMPLETED
    outcomes = [outcome async for outcome in fleet.client.outcomes(job)]
    its, whole = measure(small, asked, few, on), measure(spec, list(spec.items), len(spec.items), on)  # type: ignore[arg-type]
    return dict(evidence_of(await fleet.ledger(job.id), outcomes, its, whole, on))


@pytest.mark.parametrize(("name", "asked", "tiers"), JOBS, ids=[name for name, _, _ in JOBS])
def test_the_true_cost_lies_inside_and_a_sample_narrows_it_down(
    name: str, asked: dict[str, Any], tiers: dict[str, Any], valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    on = config(nano=tiers.get("nano", GOOD))

    async def scenario(fleet: Bench) -> None:
        spec = JobSpec.model_validate({"name": name, "items": items(24)} | asked)
        works = measure(spec, list(spec.items), 24, on)
        guessed = forecast(works, {}, on)
        known = forecast(works, await sampled(fleet, spec, 4, on), on)
        job = await fleet.run(await fleet.client.submit(spec))
        cost = sum(entry.cost_nano_usd for entry in await fleet.ledger(job.id))
        calls = len(await fleet.ledger(job.id))
        if name != "escalating":  # that a tier never keeps a schema nobody guesses
            assert inside(guessed, cost), (cost, guessed.cost_nano_usd)
            assert width(guessed) < 30
        assert inside(known, cost), (cost, known.cost_nano_usd)
        assert sum(step.calls.low for step in known.steps) <= calls <= sum(step.calls.high for step in known.steps)
        # Four items tell what a step costs to about a factor of two to each side; a review is as unknown as before.
        if spec.review is None:
            assert width(known) < 6, known.cost_nano_usd

    on_bench(scenario, valkey, tmp_path, on, sim=sim.url)


@pytest.mark.parametrize("share", [0.0, "auto"])
@pytest.mark.parametrize("deadline", ["9m", "24h"])
def test_a_job_with_time_costs_what_its_plan_says_and_its_sample_is_asked_at_once(
    deadline: str, share: float | str, valkey: Valkey, tmp_path: Path, vendor: LanesSim
) -> None:
    on = lanes_config(audit={"share": share})

    async def scenario(fleet: Bench) -> None:
        asked = {"name": "later", "items": items(24), "steps": [CLASSIFY, EXTRACT], "deadline": deadline}
        spec = JobSpec.model_validate(asked)
        works = measure(spec, list(spec.items), 24, on)
        guessed = forecast(works, {}, on)
        known = forecast(works, await sampled(fleet, spec, 4, on), on)
        at_once = [request for request in fleet.provider.asked if request.service_tier == "default"]
        assert len(at_once) == 8
        job = await run(fleet, **asked)
        ledger = await fleet.ledger(job.id)
        work = {entry.lane for entry in ledger if entry.role == "work"}
        audits = {entry.lane for entry in ledger if entry.role == "audit"}
        assert work == {"flex" if deadline == "9m" else "batch"}
        assert audits <= {"flex"}
        cost = sum(entry.cost_nano_usd for entry in ledger)
        assert {step.lane for step in guessed.steps} == work
        if share == 0.0:
            assert width(known) < 6, known.cost_nano_usd
        for plan in (guessed, known):
            assert inside(plan, cost), (cost, plan.cost_nano_usd)

    on_bench(scenario, valkey, tmp_path, on, sim=vendor.sim.url)


def inside(told: Forecast, cost: float) -> bool:
    return told.cost_nano_usd.low <= cost <= told.cost_nano_usd.high


def width(told: Forecast) -> float:
    return told.cost_nano_usd.high / told.cost_nano_usd.low
