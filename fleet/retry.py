"""Running again what failed in an ended job: which subtasks, and in which round."""

from __future__ import annotations

from fleet.archive import Archive
from fleet.context import Context
from fleet.entries import Asked
from fleet.errors import BadInputError
from fleet.outcomes import Trail
from fleet.prices import NANO_PER_USD
from fleet.rounds import Again
from fleet.routes import Routes
from fleet.shards import Place
from fleet.store import Job
from queues.store import Store
from queues.subtasks import Claim, State

RETRY_TASK = "fleet.retry_job.v1"
#: The payload of a retry that makes the plan, because there never was one.
PLAN_AGAIN = "plan"
#: Retries of one round that may be given up before there are no more.
MAX_GIVEN_UP = 100


async def failed_again(job: Job, archive: Archive, routes: Routes) -> list[Again]:
    """The failed subtasks of a job and those skipped because of them, item by item and needs before what needs them."""
    again: dict[str, Again] = {}
    async for place, outcome in archive.outcomes(job):
        step = job.step(place.step)
        needs = [Place(need, place.item if job.step(need).each else None).id_in(job.id) for need in step.needs]
        behind = tuple(need for need in needs if need in again)
        if outcome.status == "failed" or (outcome.status == "skipped" and behind):
            id_ = place.id_in(job.id)
            asked = Asked(outcome.asked, outcome.usage, round(outcome.cost_usd * NANO_PER_USD))
            trail = Trail(asked=asked).dump() if outcome.asked else ""
            tier = await routes.start(step, job.tenant, None)
            again[id_] = Again(id=id_, tier=tier, needs=behind, trail=trail)
    return list(again.values())


async def retry(job: Job, round_: int, context: Context, claim: Claim) -> bool:
    """Open round `round_` over what failed, or only its end where nothing but that failed. Safe to repeat.

    False: the claim was lost on the way.

    Raises:
        BadInputError: something of the job is still ending.
    """
    if job.round > round_:
        return True  # It was done, and the job retried again since; whoever did it died before it could say so.
    if job.round != round_:
        await check_ended(job, context.archive)
        # What a plan that broke off left behind would otherwise be taken for the subtasks of the new round.
        async for shard, ids, _ in context.archive.unclosed(job):
            await context.archive.close(job, shard, ids)
        again = await failed_again(job, context.archive, context.routes)
        # A rework that its review asked for before it failed is not what is retried.
        context.rounds.write(job, round_, again, replaces=True)
        # The job first: once the round is open, its gate may fire at any time.
        if not await context.jobs.reopen(job, round_, claim=claim):
            return False
    await context.rounds.open_round(await context.jobs.load(job.id), round_)
    return True


async def check_ended(job: Job, archive: Archive) -> None:
    """BadInputError while subtasks of a job that failed early are still being ended."""
    async for _, _, ended in archive.unclosed(job):
        if not ended:
            raise BadInputError(f"Subtasks of the job {job.id} are still ending; retry it in a moment.")


async def retry_id(job: Job, store: Store) -> str:
    """The id of the duty that retries a job: the one that is under way, else one that was not given up yet."""
    for number in range(1, MAX_GIVEN_UP):
        id_ = f"{job.id}/retry.{number}.{job.round + 1}"
        if (await store.fields(id_, "state"))[0] != State.FINAL:
            return id_
    raise BadInputError(f"The job {job.id} was retried too often without success; submit it again.")
