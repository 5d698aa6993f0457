"""What stands where in the store, and what had to be put right there, in numbers: what a fleet's metrics are made of.

It reads, in one script that looks at a bounded number of things, and changes nothing. The scripts that put something
right count it themselves, so the counts are as durable as the store and those of the whole fleet. No id leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from queues.link import Link
from queues.subtasks import by_tier

#: Jobs with something ready on one tier, and overdue subtasks, that one survey looks at: of more jobs it counts one subtask
#: each, more overdue subtasks it does not tell apart.
MOST_LANES, MOST_OVERDUE = 200, 200
#: Open jobs, and tenants, that one look at quotas reads, and the share of a cap from which it is nearly used up.
MOST_JOBS, MOST_TENANTS, NEARLY = 500, 500, 0.9
#: Subtasks whose states one script looks up: a millisecond of the store's time, about.
STATES_AT_ONCE = 500


class Righted(StrEnum):
    """What was not as it should be and was put right; the scripts count under these names, by tier."""

    #: `reconcile`, and `claim` of a suspect: a claim that nobody renewed.
    CLAIM_EXPIRED = "claim_expired"
    #: `reconcile`: a message that was never sent, or that no worker took.
    MESSAGE_LOST = "message_lost"
    #: `reconcile`: the body of a gate that its chord did not deliver.
    GATE_SWEPT = "gate_swept"
    #: `sent`: a message for a subtask that was put back.
    RESENT = "resent"
    #: `claim`: an expired claim that a worker took over before the reconciler saw it.
    TAKEN_OVER = "taken_over"
    #: `claim`, `reconcile`: a worker that died holding the subtask.
    KILL = "kill"
    #: `finish`: a subtask that was ended because its workers keep dying.
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class TierSurvey:
    """One tier now."""

    #: Subtasks in its backlog that may be released, not those of paused jobs; and suspects that wait for their turn.
    ready: int
    #: Subtasks released: their message on its way or waiting, or running.
    out: int
    workers: int
    #: Subtasks that the live workers can run at once.
    capacity: int
    #: Of those that are ready, as many as the quotas of their jobs let run at once beside what is out; of a job that has
    #: something ready one at least, for somebody has to find that its quota is used up.
    affordable: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """The whole store now."""

    tiers: Mapping[str, TierSurvey]
    #: Claims, messages and gates that the reconciler keeps an eye on; those whose time is over, and by how much.
    watched: int
    overdue: int
    oldest_overdue_s: float
    #: Bodies of gates among the overdue.
    gates_overdue: int
    #: By tier and what it was (`Righted`, or what a newer version counts); what never happened is not in it.
    righted: Mapping[tuple[str, str], int]
    #: Of the job that was asked about, at the same moment: tier -> state or final status -> number.
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    #: And its calls that are under way: what else is running has not come to its call, or is done with it.
    calls: int = 0
    #: How long the oldest of the overdue gates has been complete without its body having begun, beyond the time it may take.
    oldest_gate_s: float = 0.0


@dataclass(frozen=True, slots=True)
class OpenJobs:
    """The jobs that have not ended, and their quotas added up, now. Amounts are in the unit of the quotas."""

    open: int
    paused: int
    #: Of the paused ones, those that nobody asked to pause: somebody has to mend something first.
    halted: int
    #: Of those, the ones that are paused at a cap.
    at_cap: int
    #: Caps of the jobs that have one, and what is used and held of these.
    caps: int
    used: int
    held: int
    #: Jobs that have used `NEARLY` all of their cap.
    nearly_used_up: int
    #: By tenant that was asked about ('*': all of them), what was used in this day and month (UTC), by jobs that have ended, too.
    used_by: Mapping[str, tuple[int, int]]


class Surveyor:
    """Surveys over one `Link`, for the given tiers."""

    def __init__(self, link: Link, namespace: str, tiers: Sequence[str]) -> None:
        self._link = link
        self._namespace = namespace
        self._tiers = tiers

    async def survey(self, job: str = "") -> Survey:
        """The numbers now, and where a job's subtasks stand. Raises RedisError when the store does not answer."""
        watched, overdue, oldest_ms, gates, righted, counts, calls, *tiers, gate_ms = await self._link.call(
            "survey", [self._namespace], [MOST_LANES, MOST_OVERDUE, job, *self._tiers], idempotent=True
        )
        return Survey(
            tiers={tier: TierSurvey(*numbers) for tier, numbers in zip(self._tiers, tiers, strict=True)},
            watched=watched,
            overdue=overdue,
            oldest_overdue_s=oldest_ms / 1000,
            gates_overdue=gates,
            righted={
                (tier, what): number for tier, by_what in by_tier(righted).items() for what, number in by_what.items()
            },
            counts=by_tier(counts),
            calls=calls,
            oldest_gate_s=gate_ms / 1000,
        )

    async def open_jobs(self, tenants: Sequence[str]) -> OpenJobs:
        """The open jobs of these tenants (at most `MOST_TENANTS`), and of others of whom jobs were accepted.

        Raises RedisError when the store does not answer.
        """
        reply = await self._link.call(
            "survey_jobs", [self._namespace], [MOST_JOBS, NEARLY, MOST_TENANTS, *tenants], idempotent=True
        )
        used = reply[8:]
        by_tenant = dict(zip(tenants, zip(used[::2], used[1::2], strict=True), strict=True))
        open_, paused, halted, at_cap, caps, used_of, held_of, nearly = reply[:8]
        return OpenJobs(open_, paused, halted, at_cap, caps, used_of, held_of, nearly, by_tenant)

    async def states(self, ids: Sequence[str]) -> list[str]:
        """Where each subtask stands: its state, its status once it is final; '' for one that is not in the store."""
        found: list[str] = []
        for start in range(0, len(ids), STATES_AT_ONCE):
            some = ids[start : start + STATES_AT_ONCE]
            reply = await self._link.call("states", [self._namespace], some, idempotent=True)
            found += [state.decode() for state in reply]
        return found
