"""Why subtasks of a job wait: told from counts, the tier's workers and the standing of its account.

Pure functions; whoever asks has looked at the store. The first reason that holds is given: what ails the account comes
before what ails the workers, for more workers would not help then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fleet.config import Frozen
from queues.limits import Standing
from queues.survey import TierSurvey

Reason = Literal["dependencies", "outage", "rate", "budget", "workers", "fairness"]
#: A call that could start this soon does not wait for a limit.
SOON_S = 1.0


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
    quota: tuple[int | None, int, int],
) -> list[Wait]:
    """What a job's subtasks on one tier wait for.

    `counts`: of the job, by state; `quota`: of the job, (cap, used, held) in nano-dollars.
    """
    found = []
    if waiting := counts.get("waiting", 0):
        found.append(Wait(tier=tier, subtasks=waiting, reason="dependencies", text="others of the job come first"))
    if ready := counts.get("ready", 0) + counts.get("queued", 0):
        reason, text = _reason(tier, counts, survey, account, standing, quota)
        found.append(Wait(tier=tier, subtasks=ready, reason=reason, text=text))
    return found


def _reason(
    tier: str,
    counts: Mapping[str, int],
    survey: TierSurvey,
    account: str,
    standing: Standing,
    quota: tuple[int | None, int, int],
) -> tuple[Reason, str]:
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
    running, (cap, used, held) = counts.get("running", 0), quota
    if cap is not None and running and cap - used - held < held / running:
        return "budget", "running calls hold what is left of the budget until they end"
    if survey.workers == 0:
        return "workers", f"no worker of this tier is alive; `fleet worker --tier {tier}` starts one"
    if survey.out > running + counts.get("queued", 0):
        return "fairness", f"the {survey.capacity} places of the tier are shared with other jobs"
    return "workers", f"all {survey.capacity} places of the tier run subtasks of this job"


def _limits(standing: Standing) -> str:
    limits = ((standing.requests_per_minute, "requests"), (standing.tokens_per_minute, "tokens"))
    return " and ".join(f"{limit:,} {what}" for limit, what in limits if limit) + " a minute"
