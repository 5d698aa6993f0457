"""Why subtasks of a job wait: told from counts, the tier's workers and the standing of its account.

Pure functions; whoever asks has looked at the store. The first reason that holds is given: what ails the account comes
before what ails the workers, for more workers would not help then. Nothing is said of what is about to go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from fleet.config import Frozen
from queues.limits import Standing
from queues.survey import TierSurvey

Reason = Literal["dependencies", "batch", "outage", "rate", "budget", "workers", "fairness"]
#: A call that could start this soon does not wait for a limit.
SOON_S = 1.0
#: (cap, used, held) of a job, or of a day or month that it shares with others, in nano-dollars.
Quota = tuple[int | None, int, int]


class Wait(Frozen):
    """So many subtasks of a tier wait, for what, and a sentence about it."""

    tier: str
    subtasks: int
    reason: Reason
    text: str


def waits(
    tier: str,
    counts: Mapping[str, int],
    survey: TierSurvey,
    account: str,
    standing: Standing,
    quota: Quota,
    *,
    calls: int,
    later: int = 0,
    shared: Sequence[Quota] = (),
    batched: int = 0,
) -> list[Wait]:
    """What a job's subtasks on one tier wait for.

    `counts`: of the job, by state; `calls`: of the job that are under way, on whatever tier; `later`: subtasks that are not
    in the store yet, because all of an earlier phase have to end first; `shared`: quotas that the job shares with others;
    `batched`: those that are lines of a vendor's batch.
    """
    found = []
    budget = _of_the_budget(calls, quota, shared)
    batched = min(batched, counts.get("waiting", 0))
    if batched:
        said_so = "they are lines of the vendor's batches, which end within a day"
        found.append(Wait(tier=tier, subtasks=batched, reason="batch", text=said_so))
    if waiting := counts.get("waiting", 0) - batched + later:
        found.append(Wait(tier=tier, subtasks=waiting, reason="dependencies", text="others of the job come first"))
    ready = counts.get("ready", 0) + counts.get("queued", 0)
    # A worker has them, and they wait there for leave to call.
    held = max(0, counts.get("running", 0) - calls)
    if held and (said := _of_the_account(account, standing) or budget):
        ready += held
    elif ready:
        said = (_of_the_account(account, standing) or budget or _of_the_workers(tier, counts, survey)) or _of_the_pace(
            counts, account, standing
        )
    else:
        said = None
    if said is not None:
        found.append(Wait(tier=tier, subtasks=ready, reason=said[0], text=said[1]))
    return found


def _of_the_account(account: str, standing: Standing) -> tuple[Reason, str] | None:
    if standing.outage_s is not None:
        return "outage", f"the vendor of {account} has an outage; it is tried again in {standing.outage_s:.0f} s"
    if standing.paused_s > SOON_S:
        return "rate", f"the vendor of {account} asked for a pause; it ends in {standing.paused_s:.0f} s"
    if standing.next_s > SOON_S:
        return (
            "rate",
            f"{account} is at its limit of {_limits(standing)}; the next call may start in {standing.next_s:.0f} s",
        )
    if standing.in_flight is not None and standing.calls >= standing.in_flight:
        return "rate", f"{account} is at its limit of {standing.in_flight} calls in flight"
    return None


def _of_the_budget(calls: int, quota: Quota, shared: Sequence[Quota]) -> tuple[Reason, str] | None:
    for whose, (cap, used, held) in (
        ("the budget", quota),
        *(("a budget shared with other jobs", one) for one in shared),
    ):
        if cap is not None and calls and cap - used - held < quota[2] / calls:
            return "budget", f"running calls hold what is left of {whose} until they end"
    return None


def _of_the_workers(tier: str, counts: Mapping[str, int], survey: TierSurvey) -> tuple[Reason, str] | None:
    if survey.workers == 0:
        return "workers", f"no worker of this tier is alive; `fleet worker --tier {tier}` starts one"
    if survey.out < survey.capacity:
        return None
    if survey.out > counts.get("running", 0) + counts.get("queued", 0):
        return "fairness", f"the {survey.capacity} places of the tier are shared with other jobs"
    return "workers", f"all {survey.capacity} places of the tier run subtasks of this job"


def _of_the_pace(counts: Mapping[str, int], account: str, standing: Standing) -> tuple[Reason, str] | None:
    """Where places are free, subtasks leave the backlog as fast as their calls may start."""
    if counts.get("ready", 0) and (limits := _limits(standing)):
        return "rate", f"calls of {account} start as its limit of {limits} allows"
    return None


def _limits(standing: Standing) -> str:
    limits = ((standing.requests_per_minute, "requests"), (standing.tokens_per_minute, "tokens"))
    a_minute = " and ".join(f"{limit:,} {what}" for limit, what in limits if limit)
    in_flight = f"{standing.in_flight:,} calls in flight" if standing.in_flight else ""
    return " and ".join(limit for limit in (a_minute and f"{a_minute} a minute", in_flight) if limit)
