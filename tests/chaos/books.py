"""The judgement: what was accepted, done, charged and booked, against each other, as figures.

`paid_twice_outside_window`: charge lines with a call id that was charged before, charges that the ledger does not know,
lost calls that were paid again although their handle was journalled, and calls intended after an answer for the same
subtask had been accepted.
`paid_twice_per_kill`: per killed process the calls that were charged, that it never wrote an end of, and that were therefore
made again (ledger reason "worker lost"), as many as were lost at once: it may have stood still beyond its claims before it was
killed, and lost some then. What is lost at once had claims that were renewed together, so they ran out within a lease of each
other. The most over all kills; a process cannot lose more than it had in flight, which is `in_flight_per_process`.
`restart_paid_twice`: the same for all processes that were asked to drain (SIGTERM), in sum.
`paid_without_answer`: calls that were charged and brought no answer, and are not among those paid twice: a timeout, a reset,
a call that ran when its claim was lost or its job cancelled.
`recovery_p99_over_lease_s`: from the expiry of a killed process's claim to the next claim on the same subtask, whatever else
happened meanwhile, less the time for which the store itself was away: without it nobody can claim anything.
`jobs_given_up`: failed because three workers died at their plan or review; `jobs_cancelled`: a user did, `jobs_at_cap`: paused at
their budget, so their subtasks and gates need not end, but their money is judged as ever.
`stale_writes`: accepted outputs whose entry was made under another fence than the current one, background calls collected
by the next worker aside, and intents journalled under another fence than the current one.
`calls_by_wrong_clocks`: ledger entries dated far from the charge of the same call.
`wrong_books`: true entries that differ from the charge by a nano-dollar, guesses below it, either where they do not come of
their own usage and prices, money still held at the end.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fleet.ledger import WORKER_LOST, LedgerEntry
from fleet.replay import adds_up
from fleet.rounds import RUN_TASK
from fleet.stored import read
from fleet.tenants import tenant_of
from tests.chaos.crew import SLOTS, Incarnation
from tests.chaos.history import History, Recovery

#: No call takes so long.
WRONG_S = 300.0
#: How a job ends whose planner or reviewer killed too many workers.
GIVEN_UP = "workers died at"


@dataclass(frozen=True, slots=True)
class JobEnd:
    """A job as the store has it at the end."""

    status: str | None
    error: str
    cap: int | None
    used: int
    held: int
    #: The ids of its subtasks, from its plan; empty if it never had one.
    members: tuple[str, ...]
    #: It was cancelled, and something of it may still be left to be done.
    winding: bool
    #: It is paused at its cap, and nobody gives it more.
    at_cap: bool = False

    @property
    def final(self) -> bool:
        return self.at_cap or self.status in ("completed", "failed", "cancelled")

    @property
    def stopped(self) -> bool:
        """Its subtasks and gates need not end."""
        return self.at_cap or self.cancelled

    @property
    def cancelled(self) -> bool:
        return self.status == "cancelled"

    @property
    def given_up(self) -> bool:
        return self.status == "failed" and GIVEN_UP in self.error


@dataclass(frozen=True, slots=True)
class TenantEnd:
    """A tenant's days together: what it may spend, and what it has spent and holds."""

    cap: int
    used: int
    held: int


class Books:
    """One fleet's end, judged."""

    def __init__(
        self,
        history: History,
        charges: list[dict[str, Any]],
        jobs: Mapping[str, JobEnd],
        crew: dict[str, Incarnation],
        tenants: Mapping[str, TenantEnd] = MappingProxyType({}),
    ) -> None:
        self._tenants = tenants
        self._history = history
        self._charges = charges
        self._jobs = jobs
        self._crew = crew
        self._charged = {charge["call_id"]: charge["cost_nano_usd"] for charge in charges}
        #: Sentences about what is wrong, for whoever has to find out why.
        self.complaints: list[str] = []

    def figures(self) -> dict[str, float]:
        """Every figure by its name; recoveries as a list of their own: see `recoveries`."""
        lost = self._lost_by_process()
        killed = [
            self._most_at_once(moments)
            for name, moments in lost.items()
            if (one := self._crew.get(name)) is None or one.killed
        ]
        return {
            "jobs_unfinished": self._unfinished(),
            "subtasks_lost": self._subtasks_lost(),
            "gates_not_once": self._gates_not_once(),
            "paid_twice_outside_window": self._outside_window(),
            "paid_twice_per_kill": max(killed, default=0),
            "in_flight_per_process": max(SLOTS.values()),
            "restart_paid_twice": sum(
                len(moments)
                for name, moments in lost.items()
                if (one := self._crew.get(name)) is not None and not one.killed
            ),
            "stale_writes": self._stale_writes(),
            "budget_overshoot_nano": self._overshoot(),
            "wrong_books": self._wrong_books(),
            "jobs": len(self._jobs),
            "jobs_failed": sum(job.status == "failed" for job in self._jobs.values()),
            "jobs_given_up": sum(job.given_up for job in self._jobs.values()),
            "jobs_cancelled": sum(job.cancelled for job in self._jobs.values()),
            "jobs_at_cap": sum(job.at_cap for job in self._jobs.values()),
            "calls_charged": len(self._charges),
            "calls_paid_twice": sum(map(len, lost.values())),
            "paid_without_answer": self._without_answer() - sum(map(len, lost.values())),
            "calls_by_wrong_clocks": self._by_wrong_clocks(),
            "claims_lost": len(self._history.recoveries),
        }

    def recoveries(self, outages: Sequence[tuple[float, float]]) -> list[tuple[float, Recovery]]:
        """Seconds after which each claim of a killed process was taken over, from the end of its lease.

        `outages`: of the store, in ms since 1970, apart from each other; they do not count.
        """
        killed = {name for name, one in self._crew.items() if one.killed}
        found = []
        for one in self._history.recoveries:
            if one.owner in killed:
                start, end = one.expired_at, one.claimed_at
                away = sum(max(0.0, min(end, until) - max(start, since)) for since, until in outages)
                found.append(((end - start - away) / 1000, one))
        return found

    def claimants(self) -> dict[str, set[str]]:
        """The names of the processes that claimed each subtask, by its id."""
        return {life.id: set(life.owners.values()) for life in self._history.lives.values()}

    def _complain(self, about: str, what: list[str]) -> int:
        self.complaints += [f"{about}: {one}" for one in what]
        return len(what)

    def _unfinished(self) -> int:
        return self._complain(
            "unfinished job",
            [
                f"{id_} {job.status}{', not wound up' if job.winding else ''}"
                for id_, job in self._jobs.items()
                if not job.final or job.winding
            ],
        )

    def _planned(self, job: str) -> bool:
        """Whether the job's plan was carried out; one that died three times with its planner ends without."""
        life = self._history.lives.get(f"{job}/plan.1")
        return bool(self._jobs[job].members) and not (life is None or GIVEN_UP in self._jobs[job].error)

    def _unplanned(self, job: str) -> bool:
        """Whether the job has no plan to tell its subtasks by, and none of them may be left."""
        return not self._planned(job) and not self._jobs[job].stopped

    def _subtasks_lost(self) -> int:
        lives = self._history.lives
        missing = [
            f"{id_} {lives[id_].state if id_ in lives else 'never written'}"
            for job, end in self._jobs.items()
            if self._planned(job) and not end.stopped
            for id_ in end.members
            if id_ not in lives or lives[id_].state != "final"
        ]
        stuck = [
            f"{life.id} {life.state}"
            for life in lives.values()
            if life.task == RUN_TASK and life.state != "final" and self._unplanned(life.id.split("/")[0])
        ]
        return self._complain("lost subtask", missing + stuck)

    def _gates_not_once(self) -> int:
        gates = [life for life in self._history.lives.values() if life.members is not None]
        return self._complain(
            "gate",
            [f"{gate.id} ended {gate.ends} times" for gate in gates if gate.ends != 1 and self._gate_counts(gate.id)],
        )

    def _gate_counts(self, gate: str) -> bool:
        job = gate.split("/", 1)[0]
        return self._planned(job) and not self._jobs[job].stopped

    def _by_wrong_clocks(self) -> int:
        charged = {charge["call_id"]: charge["at"] for charge in self._charges}
        return sum(
            abs(entry["started_at"] - charged[id_]) > WRONG_S
            for id_, entry in self._history.ledger.items()
            if id_ in charged
        )

    def _lost_by_process(self) -> dict[str, list[float]]:
        """By process, when the claims ran out under which its lost calls had been made, in ms since 1970."""
        ran_out: dict[tuple[str, str], list[float]] = defaultdict(list)
        for one in self._history.recoveries:
            ran_out[one.subtask, one.owner].append(one.expired_at)
        lost: dict[str, list[float]] = defaultdict(list)
        for entry in self._lost():
            if entry["call_id"] in self._charged and self._may_be_made_again(entry):
                life = self._history.lives.get(entry["subtask"])
                owner = life.owners.get(entry["fence"], "?") if life is not None else "?"
                claimed_at = entry["fence"] / 1000  # fences are times in microseconds
                ends = [end for end in ran_out[entry["subtask"], owner] if end >= claimed_at]
                lost[owner].append(min(ends, default=claimed_at + self._history.lease_ms))
        return lost

    def _most_at_once(self, moments: list[float]) -> int:
        """The largest number of moments of which each is within a lease of the one before it."""
        most = run = 0
        before = float("-inf")
        for moment in sorted(moments):
            run = run + 1 if moment - before <= self._history.lease_ms else 1
            most, before = max(most, run), moment
        return most

    def _may_be_made_again(self, entry: dict[str, Any]) -> bool:
        """Not where the job was cancelled first."""
        job = self._jobs.get(entry["job"])
        return job is None or not job.cancelled or self._made_again(entry)

    def _without_answer(self) -> int:
        """Charged calls, those that were made again included."""
        return sum(entry["status"] == "failed" and id_ in self._charged for id_, entry in self._history.ledger.items())

    def _lost(self) -> list[dict[str, Any]]:
        return [entry for entry in self._history.ledger.values() if entry["reason"] == WORKER_LOST]

    def _outside_window(self) -> int:
        times = Counter(charge["call_id"] for charge in self._charges)
        handled = [
            entry["call_id"]
            for entry in self._lost()
            if entry["call_id"] in self._history.handles & self._charged.keys() and self._made_again(entry)
        ]
        return (
            self._complain("charged again under the same id", [id_ for id_, count in times.items() if count > 1])
            + self._complain("charged, not in the ledger", [id_ for id_ in times if id_ not in self._history.ledger])
            + self._complain("paid again although it could be asked for", handled)
            + self._complain("called after an accepted answer", self._history.needless)
        )

    def _made_again(self, entry: dict[str, Any]) -> bool:
        return any(
            other["subtask"] == entry["subtask"] and other["fence"] > entry["fence"]
            for other in self._history.ledger.values()
        )

    def _stale_writes(self) -> int:
        return self._complain("stale write", self._history.stale_writes) + self._complain(
            "intended under a lost claim", self._history.stale_intents
        )

    def _overshoot(self) -> int:
        spent: dict[str, int] = defaultdict(int)
        for charge in self._charges:
            spent[str(charge["call_id"]).split("/")[0]] += charge["cost_nano_usd"]
        over = {
            id_: max(spent[id_], job.used) - job.cap
            for id_, job in self._jobs.items()
            if job.cap is not None and max(spent[id_], job.used) > job.cap
        }
        for name, tenant in self._tenants.items():
            most = max(tenant.used, sum(nano for id_, nano in spent.items() if tenant_of(id_) == name))
            if most > tenant.cap:
                over[name] = most - tenant.cap
        self._complain("over its budget", [f"{id_} by {nano}" for id_, nano in over.items()])
        return sum(over.values())

    def _wrong_books(self) -> int:
        wrong = []
        for id_, entry in self._history.ledger.items():
            booked, charged = entry["cost_nano_usd"], self._charged.get(id_, 0)
            if booked < charged if not entry["usage_reported"] else booked != charged:
                wrong.append(f"{id_} {entry['status']} {entry['reason']}: booked {booked}, charged {charged}")
            if entry.get("price") is not None and not adds_up(read(LedgerEntry, entry)):
                wrong.append(f"{id_}: booked {booked}, which is not its usage at its own prices")
        held = [f"{id_} still holds {job.held}" for id_, job in self._jobs.items() if job.held]
        for name, tenant in self._tenants.items():
            booked = sum(e["cost_nano_usd"] for e in self._history.ledger.values() if tenant_of(e["job"]) == name)
            held += [f"the tenant {name} still holds {tenant.held}"] if tenant.held else []
            wrong += [f"the tenant {name} has used {tenant.used}, the ledger {booked}"] if tenant.used != booked else []
        sums: dict[str, int] = defaultdict(int)
        for entry in self._history.ledger.values():
            sums[entry["job"]] += entry["cost_nano_usd"]
        used = [
            f"{id_} used {job.used}, booked {sums[id_]}" for id_, job in self._jobs.items() if job.used != sums[id_]
        ]
        return self._complain("books", wrong) + self._complain("hold", held) + self._complain("quota", used)


def read_charges(path: Path) -> list[dict[str, Any]]:
    """The charge log of the simulated provider."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
