"""Outcomes and ledger entries of a job, wherever they are: in the store while their shard is open, else in its segment.

It owns the form of a segment. A shard is written to the blob store before its keys are dropped, so a reader finds it in one
of the two.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from fleet.blobs import Blobs
from fleet.entries import Asked
from fleet.errors import StoreUnavailableError
from fleet.jobs import Outcome
from fleet.ledger import LedgerEntry
from fleet.outcomes import NEVER_ENDED, outcome_of, output_of, with_more
from fleet.rounds import Rounds
from fleet.shards import Place, Shard, shard_of
from fleet.store import Job
from fleet.stored import read_json
from queues.store import Store

#: Segments kept in memory for needs in earlier phases.
CACHED_SEGMENTS = 32
#: Times that a shard is read again because something was added to it while it was filed.
MOST_TRIES = 100


class Archive:
    """Reads and writes the segments of jobs."""

    def __init__(self, store: Store, rounds: Rounds, blobs: Blobs) -> None:
        self._store = store
        self._rounds = rounds
        self._blobs = blobs
        self._cache: OrderedDict[str, dict[str, Outcome]] = OrderedDict()

    async def close(self, job: Job, shard: Shard, ids: Sequence[str]) -> None:
        """Write a finished shard as one segment and drop its keys. Safe to repeat.

        A store that lost its last second may run a shard again whose segment is written: the outcomes that are there stay,
        others may have been built on them, and what the second run cost is added.
        """
        for _ in range(MOST_TRIES):
            if await self._filed(job, shard, ids):
                return
        raise StoreUnavailableError(f"{shard.body_in(job.id)} could not be filed: its record kept changing.")

    async def _filed(self, job: Job, shard: Shard, ids: Sequence[str]) -> bool:
        """Whether the segment now holds all there is; another process may be filing the same shard."""
        name = shard.segment_in(job.id)
        # In this order: who files it writes the segment before they drop what is read here.
        guesses = await self._store.guesses(shard.record_in(job.id))
        ledger = await self._store.records(shard.record_in(job.id))
        results = await self._store.results(ids)
        if self._blobs.exists(name):
            lines = self._blobs.read(name).decode().splitlines()
            known = {read_json(LedgerEntry, entry).call_id: entry for entry in self._entries(name)}
            if known != known | ledger:
                outcomes = [line for line in lines if "entry" not in json.loads(line)]
                await asyncio.to_thread(self._blobs.put, name, _segment_of(outcomes, known | ledger))
        else:
            outcomes = [
                json.dumps({"id": id_, "tier": result.tier, "status": result.status, "end": result.output})
                for id_, result in zip(ids, results, strict=True)
                if result is not None and result.status is not None
            ]
            if not await asyncio.to_thread(self._blobs.create, name, _segment_of(outcomes, ledger)):
                return False
        return await self._store.forget(
            shard.body_in(job.id), ids, shard.record_in(job.id), job.id, entries=len(ledger), guesses=guesses
        )

    async def unclosed(self, job: Job) -> AsyncIterator[tuple[Shard, list[str], bool]]:
        """The shards with subtasks in the store: each with the ids of all its subtasks, and whether those there have ended."""
        plan = [Shard(1, phase.number, number) for phase in job.phases for number in range(phase.shards)]
        for shard in (*plan, *(shard for shard, _ in self._extra(job))):
            ids = self._rounds.ids(job, shard)
            there = [result for result in await self._store.results(ids) if result is not None]
            if there:
                yield shard, ids, all(result.status is not None for result in there)

    async def shard(self, job: Job, shard: Shard, ids: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes of a shard by subtask id; those that have not ended count as failed."""
        name = shard.segment_in(job.id)
        if self._blobs.exists(name):
            return self._segment(name)
        results = await self._store.results(ids)
        if any(result is None for result in results) and self._blobs.exists(name):
            return self._segment(name)  # it was closed while we looked
        return {id_: output_of(result) for id_, result in zip(ids, results, strict=True)}

    def filed(self, job: Job, shard: Shard) -> dict[str, Outcome] | None:
        """The outcomes of a shard that is closed, None of one that is not. It reads a file, and may be called in a thread."""
        name = shard.segment_in(job.id)
        return self._outcomes_in(name) if self._blobs.exists(name) else None

    async def outcomes(self, job: Job) -> AsyncIterator[tuple[Place, Outcome]]:
        """Every subtask of the plan with its latest outcome, shard by shard, item by item."""
        later, spent = await self._later(job)
        for phase in job.phases:
            for number in range(phase.shards):
                shard, places = Shard(1, phase.number, number), list(phase.places(number))
                ids = [place.id_in(job.id) for place in places]
                found = await self.shard(job, shard, ids)
                await self._count(job, shard, [id_ for id_ in ids if id_ not in later], found, spent)
                for place, id_ in zip(places, ids, strict=True):
                    outcome = later.get(id_) or found.get(id_, NEVER_ENDED)
                    if id_ in spent:
                        outcome = with_more(outcome, spent.pop(id_))
                    yield place, outcome.model_copy(update={"step": place.step})

    async def outcome(self, job: Job, place: Place) -> Outcome:
        """The latest outcome of one subtask."""
        id_ = place.id_in(job.id)
        for round_ in range(job.round, 1, -1):
            shard = self._rounds.shard_with(job, round_, id_)
            outcome = NEVER_ENDED if shard is None else (await self.shard(job, shard, [id_])).get(id_, NEVER_ENDED)
            if outcome is not NEVER_ENDED:
                return outcome
        shard = shard_of(place, job.phases)
        return (await self.shard(job, shard, [id_])).get(id_, NEVER_ENDED)

    async def ledger(self, job: Job) -> AsyncIterator[LedgerEntry]:
        """One entry per provider call of a job, in no order."""
        for body in (await self._store.records(job.id)).values():
            yield read_json(LedgerEntry, body)
        shards = [Shard(1, phase.number, number) for phase in job.phases for number in range(phase.shards)]
        for shard in (*shards, *(shard for shard, _ in self._extra(job))):
            for entry in await self._entries_of(job, shard):
                yield entry

    async def _entries_of(self, job: Job, shard: Shard) -> list[LedgerEntry]:
        """One entry per call of a shard."""
        # A late answer of a call that was given up for lost is still in the store: it is the truth about that call.
        late = await self._store.records(shard.record_in(job.id))
        name = shard.segment_in(job.id)
        filed = [read_json(LedgerEntry, body) for body in (self._entries(name) if self._blobs.exists(name) else ())]
        return [
            *(read_json(LedgerEntry, body) for body in late.values()),
            *(entry for entry in filed if entry.call_id not in late),
        ]

    async def _later(self, job: Job) -> tuple[dict[str, Outcome], dict[str, Asked]]:
        """The outcomes of rounds after the first, the last one of each subtask that has ended there; what others spent there."""
        found: dict[str, Outcome] = {}
        spent: dict[str, Asked] = {}
        for shard, ids in self._extra(job):
            outcomes = await self.shard(job, shard, ids)
            found |= {id_: outcome for id_, outcome in outcomes.items() if outcome is not NEVER_ENDED}
            for id_ in outcomes.keys() & found.keys() & spent.keys():
                if outcomes[id_] is not NEVER_ENDED:
                    del spent[id_]  # whoever ran it again was told of that
            await self._count(job, shard, ids, outcomes, spent)
        return found, spent

    async def _count(
        self, job: Job, shard: Shard, ids: Sequence[str], outcomes: Mapping[str, Outcome], spent: dict[str, Asked]
    ) -> None:
        """Count what was asked for those subtasks of a shard that never ended, their job having ended: only the ledger knows."""
        left = {id_ for id_ in ids if outcomes.get(id_, NEVER_ENDED) is NEVER_ENDED}
        if left and job.status.final:
            for entry in await self._entries_of(job, shard):
                if entry.subtask in left:
                    spent.setdefault(entry.subtask, Asked()).spend(entry)

    def _extra(self, job: Job) -> list[tuple[Shard, list[str]]]:
        """The shards of the rounds after the first, with their subtasks."""
        return [
            (Shard(round_, 0, number), [one.id for one in shard])
            for round_ in range(2, job.round + 1)
            for number, shard in enumerate(self._rounds.later(job, round_))
        ]

    def _segment(self, name: str) -> dict[str, Outcome]:
        if name not in self._cache:
            self._cache[name] = self._outcomes_in(name)
            if len(self._cache) > CACHED_SEGMENTS:
                self._cache.popitem(last=False)
        return self._cache[name]

    def _outcomes_in(self, name: str) -> dict[str, Outcome]:
        lines = (json.loads(line) for line in self._blobs.read(name).splitlines())
        return {
            line["id"]: outcome_of(line["id"], line["tier"], line["status"], line["end"])
            for line in lines
            if "id" in line
        }

    def _entries(self, name: str) -> Iterable[str]:
        lines = (json.loads(line) for line in self._blobs.read(name).splitlines())
        return [line["entry"] for line in lines if "entry" in line]


def _segment_of(outcomes: list[str], ledger: Mapping[str, str]) -> bytes:
    """A line for each outcome, and one for the entry of each call."""
    entries = (json.dumps({"entry": entry}) for entry in ledger.values())
    return "".join(f"{line}\n" for line in (*outcomes, *entries)).encode()
