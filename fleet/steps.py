"""Where each step of a job stands, and what failed of it and why: counted shard by shard, a closed one only once.

It owns the tallies of the jobs that somebody looks at, in memory. A look costs what is open, and a bounded number of shards
that were closed since; of a large job that nobody has looked at yet the first looks know a part. What a shard and a round are
belongs to `fleet.shards` and `fleet.rounds`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fleet.jobs import Outcome
from fleet.outcomes import output_of
from fleet.runtime import Runtime
from fleet.shards import Place, Shard
from fleet.store import Job

#: Jobs whose tallies are kept.
MOST_TALLIES = 64
#: Closed shards that one look reads, and failures of open ones whose reasons it asks for.
MOST_SHARDS, MOST_ASKED = 50, 200
#: Subtasks of open shards whose states one look asks for; the window of the largest plan has fewer.
MOST_OPEN = 20_000
#: Failures and reasons that are named; the rest is counted.
MOST_FAILURES, MOST_REASONS = 100, 100
MAX_REASON_CHARS = 300
#: The reason of those whose own is not named.
OTHERS = "other reasons"


@dataclass(frozen=True, slots=True)
class StepCount:
    """One step of a plan: its subtasks by where they stand. `waiting`: for its turn, a limit, or in a job that has ended."""

    step: str
    total: int
    waiting: int
    running: int
    done: int
    skipped: int
    failed: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A subtask that failed for good."""

    place: Place
    reason: str
    tier: str | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a job at one moment; `whole`: every shard that is closed has been counted."""

    counts: tuple[StepCount, ...]
    failed: int
    #: Some of the failures; and of all of them: step, reason, how many.
    failures: tuple[Failure, ...]
    reasons: tuple[tuple[str, str, int], ...]
    whole: bool


@dataclass
class _Sums:
    """Subtasks by step and status, and their failures."""

    states: dict[str, Counter[str]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, place: Place, state: str) -> None:
        self.states.setdefault(place.step, Counter())[state] += 1

    def fail(self, id_: str, failure: Failure) -> None:
        reason = (failure.place.step, failure.reason)
        if reason not in self.reasons and len(self.reasons) >= MOST_REASONS:
            reason = (failure.place.step, OTHERS)
        self.reasons[reason] += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures[id_] = failure


@dataclass
class _Tally:
    """What is known of one job at one round."""

    #: Shards of later rounds with their subtasks; those subtasks count as they stand in the last of these rounds.
    later: list[tuple[Shard, list[str]]]
    again: dict[str, int] = field(default_factory=dict)
    closed: set[Shard] = field(default_factory=set)
    #: Of the closed shards, without what ran again; of that, the ends by round.
    known: _Sums = field(default_factory=_Sums)
    ends: dict[str, tuple[int, str, Failure | None]] = field(default_factory=dict)
    #: Failures in shards that are open.
    asked: dict[str, Failure] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        for shard, ids in self.later:
            self.again |= dict.fromkeys(ids, shard.round)

    def close(self, shard: Shard, outcomes: dict[str, Outcome]) -> None:
        self.closed.add(shard)
        for id_, outcome in outcomes.items():
            failure = _failure(id_, outcome) if outcome.status == "failed" else None
            if id_ in self.again:
                if self.ends.get(id_, (0,))[0] <= shard.round:
                    self.ends[id_] = (shard.round, outcome.status, failure)
            else:
                self.known.add(Place.of(id_), outcome.status)
                if failure is not None:
                    self.known.fail(id_, failure)


class StepCounter:
    """Counts the steps of jobs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tallies: OrderedDict[tuple[str, int], _Tally] = OrderedDict()

    async def look(self, job: Job) -> Steps:
        """Where the steps of a job stand, as it was loaded just now. Raises LinkError, BlobError."""
        tally = await self._tally(job)
        async with tally.turn:
            open_, whole = await self._close(job, tally)
            states = await self._runtime.surveyor.states(open_)
            return await self._steps(job, tally, dict(zip(open_, states, strict=True)), whole)

    async def _tally(self, job: Job) -> _Tally:
        key = (job.id, job.round)
        tally = self._tallies.get(key)
        if tally is None:
            later = await asyncio.to_thread(self._later, job)
            tally = self._tallies.setdefault(key, _Tally(later))
            if len(self._tallies) > MOST_TALLIES:
                self._tallies.popitem(last=False)
        self._tallies.move_to_end(key)
        return tally

    def _later(self, job: Job) -> list[tuple[Shard, list[str]]]:
        return [
            (Shard(round_, 0, number), [one.id for one in shard])
            for round_ in range(2, job.round + 1)
            for number, shard in enumerate(self._runtime.rounds.later(job, round_))
        ]

    async def _close(self, job: Job, tally: _Tally) -> tuple[list[str], bool]:
        """Count what was closed since the last look; the subtasks of what is open, and whether nothing closed is left."""
        open_: list[str] = []
        left = MOST_SHARDS
        for shard, ids in self._due(job, tally):
            if left == 0:
                return open_, False
            outcomes = await asyncio.to_thread(self._runtime.archive.filed, job, shard)
            if outcomes is None:
                open_ += ids[: MOST_OPEN - len(open_)]
            else:
                tally.close(shard, outcomes)
                left -= 1
        return open_, True

    def _due(self, job: Job, tally: _Tally) -> Iterator[tuple[Shard, Sequence[str]]]:
        """The shards that are open, or closed and not counted; a window of each phase, as one opens when another closes."""
        for phase in job.phases:
            whole = True
            for number in range(phase.shards):
                shard = Shard(1, phase.number, number)
                if shard in tally.closed:
                    continue
                if number < job.window or Shard(1, phase.number, number - job.window) in tally.closed:
                    yield shard, [place.id_in(job.id) for place in phase.places(number)]
                whole = whole and shard in tally.closed
            if not whole:  # the next phase is not open yet
                break
        for shard, ids in tally.later:
            if shard not in tally.closed and shard.round <= job.round:
                yield shard, ids

    async def _steps(self, job: Job, tally: _Tally, states: dict[str, str], whole: bool) -> Steps:
        sums = _Sums({step: Counter(known) for step, known in tally.known.states.items()})
        sums.failures, sums.reasons = dict(tally.known.failures), Counter(tally.known.reasons)
        failed = []
        for id_, state in states.items():
            if id_ not in tally.again or state:
                sums.add(Place.of(id_), state)
                if state == "failed":
                    failed.append(id_)
        for id_, round_ in tally.again.items():
            # What has not begun again in the last of its rounds waits, unless the job has ended without it.
            ended_in, status, failure = tally.ends.get(id_, (0, "", None))
            if not states.get(id_) and ended_in and (ended_in == round_ or job.status.final):
                sums.add(Place.of(id_), status)
                if failure is not None:
                    sums.fail(id_, failure)
        for id_, failure in (await self._asked(tally, failed)).items():
            sums.fail(id_, failure)
        counts = tuple(
            _count(step.id, len(job.items) if step.each else 1, sums.states.get(step.id, Counter()))
            for step in job.steps
        )
        return Steps(
            counts=counts,
            failed=sum(one.failed for one in counts),
            failures=tuple(sums.failures.values()),
            reasons=tuple((step, reason, number) for (step, reason), number in sums.reasons.most_common()),
            whole=whole,
        )

    async def _asked(self, tally: _Tally, failed: Sequence[str]) -> dict[str, Failure]:
        """Why these subtasks of open shards failed, of so many more at each look."""
        new = [id_ for id_ in failed if id_ not in tally.asked][:MOST_ASKED]
        results = await self._runtime.store.results(new)
        tally.asked = {id_: tally.asked[id_] for id_ in failed if id_ in tally.asked} | {
            id_: _failure(id_, output_of(result))
            for id_, result in zip(new, results, strict=True)
            if result is not None
        }
        return tally.asked


def _count(step: str, total: int, states: Counter[str]) -> StepCount:
    running, done, skipped, failed = (states[state] for state in ("running", "ok", "skipped", "failed"))
    return StepCount(step, total, max(0, total - running - done - skipped - failed), running, done, skipped, failed)


def _failure(id_: str, outcome: Outcome) -> Failure:
    reason = (outcome.error or "no reason was given")[:MAX_REASON_CHARS]
    return Failure(Place.of(id_), reason, outcome.tier, outcome.attempts)
