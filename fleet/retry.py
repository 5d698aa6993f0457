"""Running again what failed in an ended job: which subtasks, after which needs, behind which gate."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fleet.config import FleetConfig
from fleet.context import Context
from fleet.outcomes import output_of
from fleet.planner import body_of
from fleet.router import start_tier
from fleet.store import Job
from queues.store import Store
from queues.subtasks import Reopened

RETRY_TASK = "fleet.retry_job.v1"


@dataclass(frozen=True, slots=True)
class Again:
    """A subtask that is to run again, on its step's own tier and without the trail of before."""

    id: str
    tier: str
    needs: tuple[str, ...]


async def failed_again(job: Job, store: Store, config: FleetConfig) -> list[Again]:
    """The failed subtasks of a job and those skipped because of them, needs before what needs them."""
    again: dict[str, Again] = {}
    for step in job.steps:
        ids = list(job.ids_of(step))
        outcomes = [output_of(result) for result in await store.results(ids)]
        for item, (id_, outcome) in enumerate(zip(ids, outcomes, strict=True)):
            needs = job.needs_of(step, item)
            if outcome.status == "failed" or (outcome.status == "skipped" and again.keys() & set(needs)):
                again[id_] = Again(id_, start_tier(step, config), needs)
    return list(again.values())


async def retry(job: Job, round_: int, context: Context) -> None:
    """Open round `round_` over what failed. Safe to repeat: who its members are is written down first."""
    memo = f"retry.{round_}"
    if await context.store.memo(job.id, memo) is None:
        again = await failed_again(job, context.store, context.config)
        await context.store.set_memo(job.id, memo, json.dumps([asdict(one) for one in again]))
    members = [Again(**one) for one in json.loads(await context.store.memo(job.id, memo) or "[]")]
    gate_of = await context.gates.open(body_of(job, round_), [one.id for one in members])
    if job.round != round_:
        # The job first: once its members are open, the gate may fire at any time.
        await context.jobs.reopen(job.id, round_)
    await context.store.reopen(
        Reopened(one.id, one.tier, "", *gate_of[one.id], needs=tuple(one.needs)) for one in members
    )
