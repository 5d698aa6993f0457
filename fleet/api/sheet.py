"""A job as its page shows it now: one look at the store, and its numbers as the words that stand on the page.

The page and what comes after it, live, take their words from here, so that they agree. It writes no HTML.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleet.client import FleetClient
from fleet.jobs import JobStatus
from fleet.plan_graph import REVIEW
from fleet.prices import usd
from fleet.progress import Progress
from fleet.receipt_view import duration, fine_usd, tokens
from fleet.steps import StepCount, StepCounter, Steps
from fleet.store import Job
from fleet.waits import Wait

#: A word of the page, or a bar: the shares of `rendering.SEGMENTS` in percent.
Values = Mapping[str, str | Sequence[float]]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What was seen of a job at one moment, in Unix seconds."""

    job: Job
    progress: Progress
    steps: Steps
    waits: tuple[Wait, ...]
    at: float

    @property
    def shape(self) -> str:
        """Changes with what no number of the page can say: then the page is asked for anew."""
        job, steps = self.job, self.steps
        parts = (
            *(job.status, job.round, job.error, job.finished_at, len(job.steps), list(self.progress.tiers)),
            *([(one.tier, one.reason) for one in self.waits], steps.whole, len(steps.reasons), len(steps.failures)),
        )
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def values(self) -> Values:
        """The words of the page that change as the job runs, by their names there."""
        progress = self.progress
        tiers = progress.tiers.values()
        done, failed, running, waiting = (
            sum(getattr(tier, what) for tier in tiers) for what in ("done", "failed", "running", "waiting")
        )
        all_ = {"done": done, "failed": failed, "running": running, "waiting": waiting, "total": progress.total}
        found: dict[str, str | Sequence[float]] = {name: f"{number:,}" for name, number in all_.items()}
        found["bar"] = bar(progress.total, done, 0, failed, running)
        found |= {
            "elapsed": duration((self.job.finished_at or self.at) - self.job.created_at),
            "tokens": tokens(progress.tokens),
            "cost": fine_usd(progress.cost_nano_usd),
            "spent": _spent(progress),
            "spent.bar": bar(progress.budget_nano_usd or 0, progress.cost_nano_usd, 0, 0, 0),
            "summary": (
                f"{self.job.status.value}: {done:,} of {progress.total:,} subtasks done, {failed:,} failed, "
                f"{usd(progress.cost_nano_usd)} spent"
            ),
        }
        for name, tier in progress.tiers.items():
            here = {"waiting": tier.waiting, "running": tier.running, "done": tier.done, "failed": tier.failed}
            found |= {f"tier.{name}.{what}": f"{number:,}" for what, number in here.items()}
            found[f"tier.{name}.bar"] = bar(tier.total, tier.done, 0, tier.failed, tier.running)
        for step in (*self.steps.counts, self.review):
            found |= _of_step(step)
        for wait in self.waits:
            found[f"wait.{wait.tier}.{wait.reason}"] = f"{wait.subtasks:,}"
            found[f"wait.{wait.tier}.{wait.reason}.text"] = wait.text
        return found

    @property
    def review(self) -> StepCount:
        """The review as a step of one subtask; of a job without one, or that never came to it, it waits."""
        job = self.job
        done = job.status is JobStatus.COMPLETED and job.result is not None
        running = job.status is JobStatus.REVIEWING
        return StepCount(REVIEW, 1, int(not done and not running), int(running), int(done), 0, 0)


async def sheet_of(client: FleetClient, counter: StepCounter, job_id: str) -> Sheet:
    """A job as it stands. Raises JobNotFoundError, BlobError, RedisError."""
    job = await client.job(job_id)
    progress, steps = await client.progress(job), await counter.look(job)
    return Sheet(job, progress, steps, tuple(await client.waits(job_id)), time.time())


def _of_step(step: StepCount) -> Values:
    numbers = {what: getattr(step, what) for what in ("waiting", "running", "done", "skipped", "failed")}
    ended = step.done + step.skipped + step.failed
    return {f"step.{step.step}.{what}": f"{number:,}" for what, number in numbers.items()} | {
        f"step.{step.step}.share": f"{ended * 100 // step.total if step.total else 0}%",
        f"step.{step.step}.bar": bar(step.total, step.done, step.skipped, step.failed, step.running),
    }


def bar(total: int, *parts: int) -> list[float]:
    """Shares of a whole in percent; together they are at most all of it."""
    whole = max(total, sum(parts), 1)
    return [round(100 * part / whole, 2) for part in parts]


def _spent(progress: Progress) -> str:
    if progress.budget_nano_usd is None:
        return "no cap"
    share = progress.cost_nano_usd / progress.budget_nano_usd if progress.budget_nano_usd else 1.0
    return f"{share:.0%} of {usd(progress.budget_nano_usd)}"
