"""What programs are told of a job: the same data from the command, the API and the client.

It asks `fleet.client`; it prints nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fleet.config import Frozen
from fleet.waits import Wait

if TYPE_CHECKING:  # `fleet.remote` reads views where there is no store to ask
    from fleet.client import FleetClient


class Counts(Frozen):
    """Subtasks of a job by where they stand."""

    total: int
    waiting: int
    running: int
    done: int
    failed: int


class JobView(Frozen):
    """A job now. Times are seconds since 1970 by the store's clock."""

    id: str
    name: str
    status: str
    simulated: bool
    counts: Counts
    cost_usd: float
    budget_usd: float | None
    error: str | None
    result: dict[str, Any] | None
    created_at: float
    finished_at: float | None
    #: What its subtasks wait for; None where that was not asked for.
    waits: tuple[Wait, ...] | None = None


async def job_view(client: FleetClient, job_id: str, *, waits: bool = False) -> JobView:
    """A job as it stands. Raises JobNotFoundError, LinkError."""
    job = await client.job(job_id)
    progress = await client.progress(job)
    tiers = progress.tiers.values()
    return JobView(
        id=job.id,
        name=job.spec.name,
        status=job.status.value,
        simulated=job.simulated,
        counts=Counts(
            total=progress.total,
            **{name: sum(getattr(tier, name) for tier in tiers) for name in ("waiting", "running", "done", "failed")},
        ),
        cost_usd=progress.cost_nano_usd / 1_000_000_000,
        budget_usd=None if progress.budget_nano_usd is None else progress.budget_nano_usd / 1_000_000_000,
        error=job.error,
        result=job.result,
        created_at=job.created_at,
        finished_at=job.finished_at,
        waits=tuple(await client.waits(job_id)) if waits else None,
    )
