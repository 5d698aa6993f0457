"""Opening what a job runs: the phases of its plan, shard by shard within a window, and the rounds after the first.

Every opening writes the gate before the subtasks behind it and may be repeated after a crash. It knows the store, the gates
and the blobs; it calls no model.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fleet import templates
from fleet.blobs import Blobs
from fleet.config import Frozen
from fleet.conversation import DEFAULT_OUTPUT_TOKENS
from fleet.items import sizes
from fleet.lanes import due_s
from fleet.routes import FIRST, Routes
from fleet.shards import Phase, Place, Shard, shard_of
from fleet.store import COORDINATOR, Job, at_round, not_ended
from fleet.stored import read
from fleet.tokens import estimate_tokens
from queues.gate import Gates
from queues.store import Store
from queues.subtasks import NewSubtask

RUN_TASK = "fleet.run_subtask.v1"
REVIEW_TASK = "fleet.review_job.v1"
END_TASK = "fleet.end_job.v1"
SHARD_TASK = "fleet.close_shard.v1"
PHASE_TASK = "fleet.open_phase.v1"


#: Bytes of an item to a token of its prompt, about.
BYTES_PER_TOKEN = 4
#: Rounds that are kept in memory, of at most so many subtasks each.
KEPT_ROUNDS, KEPT_SUBTASKS = 4, 20_000


class Again(Frozen):
    """A subtask that runs again in a later round: where, with what trail, after which others of that round."""

    id: str
    tier: str
    trail: str = ""
    needs: tuple[str, ...] = ()
    #: The phase of the plan that it is in: what is in a later one begins when all of this one have ended.
    stage: int = 0


@dataclass(frozen=True, slots=True)
class _Later:
    """A later round as it was written down: its shards, and in which of them each subtask is."""

    shards: list[list[Again]]
    where: dict[str, int]


class Rounds:
    """Opens phases, shards and rounds."""

    def __init__(self, routes: Routes, store: Store, gates: Gates, blobs: Blobs) -> None:
        self._routes = routes
        self._store = store
        self._gates = gates
        self._blobs = blobs
        self._kept: OrderedDict[str, _Later] = OrderedDict()

    async def open_phase(self, job: Job, number: int) -> None:
        """The gate of a phase and its first shards."""
        phase = job.phases[number]
        bodies = [Shard(1, number, shard).body_in(job.id) for shard in range(phase.shards)]
        await self._gates.open(self._root(job, Shard(1, number, 0)), bodies, width=job.width)
        due = [(step, due_s(step, job.steps, job.spec.deadline)) for step in phase.each]
        if tiers := await self._routes.unknown(due, job.tenant):
            await self._store.begin_slowly(job.id, FIRST, number, tiers)
        for shard in range(min(job.window, phase.shards)):
            await self._open_shard(job, Shard(1, number, shard))

    def write(self, job: Job, round_: int, again: Sequence[Again], *, replaces: bool = False) -> None:
        """Write down what round `round_` runs, item by item and needs before what needs them; what was written first stays.

        Of the needs only those of the same stage are kept: what is in an earlier one has ended. `replaces`: what was written
        for this round was never opened.
        """
        name = f"{job.id}/rounds/{round_}.json"
        if replaces or not self._blobs.exists(name):
            stages = {one.id: shard_of(Place.of(one.id), job.phases).phase for one in again}
            shards: list[list[Again]] = []
            last: tuple[int, int | None] | None = None
            for one in sorted(again, key=lambda one: stages[one.id]):
                stage, item = here = stages[one.id], Place.of(one.id).item
                # The subtasks of an item, who may wait for each other, are in one shard: a closed one has none left to wait for.
                if last is None or last[0] != stage or (len(shards[-1]) >= job.width and last[1] != item):
                    shards.append([])
                last = here
                needs = tuple(need for need in one.needs if stages.get(need) == stage)
                shards[-1].append(one.model_copy(update={"needs": needs, "stage": stage}))
            self._blobs.put(name, json.dumps([[_written(one) for one in shard] for shard in shards]).encode())

    async def open_round(self, job: Job, round_: int) -> None:
        """The gate of a round that was written down, and its first shards; the job has to stand at it already.

        A round of nothing is only its end: the review is made once more.
        """
        shards = self.later(job, round_)
        if not shards:
            await self._store.add([self._end(job, round_)])
        else:
            await self.open_stage(job, round_, shards[0][0].stage)

    async def open_stage(self, job: Job, round_: int, stage: int) -> None:
        """The gate of a stage of a later round, and its first shards."""
        numbers = self._stage(job, round_, stage)
        bodies = [Shard(round_, 0, number).body_in(job.id) for number in numbers]
        await self._gates.open(self._root(job, Shard(round_, 0, numbers[0])), bodies, width=job.width)
        for number in numbers[: job.window]:
            await self._open_shard(job, Shard(round_, 0, number))

    async def open_next(self, job: Job, closed: Shard) -> None:
        """The shard whose turn it is now that one is closed, if there is one left."""
        following = Shard(closed.round, closed.phase, closed.number + job.window)
        if following.number in self._beside(job, closed):
            await self._open_shard(job, following)

    def ids(self, job: Job, shard: Shard) -> list[str]:
        """The ids of a shard's subtasks."""
        if shard.round == 1:
            return [place.id_in(job.id) for place in job.phases[shard.phase].places(shard.number)]
        return [one.id for one in self.later(job, shard.round)[shard.number]]

    def later(self, job: Job, round_: int) -> list[list[Again]]:
        """The shards of a later round; none before it is opened."""
        return self._later(job, round_).shards

    def shard_with(self, job: Job, round_: int, id_: str) -> Shard | None:
        """The shard of a later round that a subtask runs again in."""
        number = self._later(job, round_).where.get(id_)
        return None if number is None else Shard(round_, 0, number)

    def _later(self, job: Job, round_: int) -> _Later:
        name = f"{job.id}/rounds/{round_}.json"
        if (found := self._kept.get(name)) is None:
            if not self._blobs.exists(name):
                return _Later([], {})
            shards = [[read(Again, one) for one in shard] for shard in json.loads(self._blobs.read(name))]
            found = _Later(shards, {one.id: number for number, shard in enumerate(shards) for one in shard})
            if len(found.where) <= KEPT_SUBTASKS:
                self._kept[name] = found  # What is written stays as it is.
                if len(self._kept) > KEPT_ROUNDS:
                    self._kept.popitem(last=False)
        return found

    async def _open_shard(self, job: Job, shard: Shard) -> None:
        beside = self._beside(job, shard)
        root = self._root(job, shard)
        gate, index = self._gates.place(root.id, len(beside), shard.number - beside[0], width=job.width)
        body_id = shard.body_in(job.id)
        subtasks = await self._planned(job, shard) if shard.round == 1 else self._again(job, shard)
        body = NewSubtask(
            id=body_id,
            task=SHARD_TASK,
            tier=COORDINATOR,
            payload="",
            gate=gate,
            gate_index=index,
            members=len(subtasks),
        )
        await self._gates.open_leaf(body)
        # Somebody who stood still since may open a shard of a round that is over, or of a job that has ended.
        await self._store.add(subtasks, [at_round(job.id, shard.round), not_ended(job.id)])

    def _stage(self, job: Job, round_: int, stage: int) -> range:
        """The numbers of the shards of a stage; they follow each other."""
        numbers = [number for number, shard in enumerate(self.later(job, round_)) if shard[0].stage == stage]
        return range(numbers[0], numbers[-1] + 1)

    def _beside(self, job: Job, shard: Shard) -> range:
        """The numbers of the shards behind the same gate as this one."""
        if shard.round == 1:
            return range(job.phases[shard.phase].shards)
        return self._stage(job, shard.round, self.later(job, shard.round)[shard.number][0].stage)

    def _root(self, job: Job, shard: Shard) -> NewSubtask:
        """The body of the gate that this shard is behind: what opens the next phase or stage, or the round's end."""
        if shard.round == 1:
            if shard.phase + 1 < len(job.phases):
                id_ = phase_id(job.id, shard.phase + 1)
                return NewSubtask(id=id_, task=PHASE_TASK, tier=COORDINATOR, payload="")
            return self._end(job, 1)
        shards = self.later(job, shard.round)
        stage = shards[shard.number][0].stage
        following = [one[0].stage for one in shards if one[0].stage > stage]
        if following:
            id_ = f"{job.id}/stage.{shard.round}.{following[0]}"
            return NewSubtask(id=id_, task=PHASE_TASK, tier=COORDINATOR, payload="")
        return self._end(job, shard.round)

    def _end(self, job: Job, round_: int) -> NewSubtask:
        """What is due once all of a round has ended."""
        if job.spec.review is not None:
            return NewSubtask(id=job.review_id(round_), task=REVIEW_TASK, tier="flagship", payload="")
        return NewSubtask(id=f"{job.id}/end.{round_}", task=END_TASK, tier=COORDINATOR, payload="")

    async def _planned(self, job: Job, shard: Shard) -> list[NewSubtask]:
        phase = job.phases[shard.phase]
        return self._costed(
            job,
            shard,
            [
                Again(id=place.id_in(job.id), tier=await self._tier(job, place), needs=_needs(job, phase, place))
                for place in phase.places(shard.number)
            ],
        )

    def _again(self, job: Job, shard: Shard) -> list[NewSubtask]:
        return self._costed(job, shard, self.later(job, shard.round)[shard.number])

    def _costed(self, job: Job, shard: Shard, all_: Sequence[Again]) -> list[NewSubtask]:
        """Subtasks with what each takes of a fair share: the tokens of its prompt, about, and all that it may answer.

        What the outputs of needs will add to a prompt nobody knows yet.
        """
        places = [Place.of(one.id) for one in all_]
        known = self._sizes(job, {place.item for place in places if place.item is not None})
        fixed, reads = {}, set()
        for step in {place.step: job.step(place.step) for place in places}.values():
            # What each conversation of a step's items may answer is in the item.
            most = min(step.max_output_tokens, DEFAULT_OUTPUT_TOKENS) if step.conversation else step.max_output_tokens
            fixed[step.id] = most + estimate_tokens(step.instructions + step.prompt)
            if step.conversation == "item" or "item" in templates.names_used(step.prompt):
                reads.add(step.id)
        subtasks = []
        for index, (one, place) in enumerate(zip(all_, places, strict=True)):
            cost = fixed[place.step]
            if place.item is not None and place.step in reads:
                cost += known[place.item] // BYTES_PER_TOKEN
            subtasks.append(self._subtask(job, shard, index, one, cost))
        return subtasks

    def _sizes(self, job: Job, items: Collection[int]) -> dict[int, int]:
        """The bytes of items, read in runs of such as stand next to each other: those of a plan are one run."""
        found: dict[int, int] = {}
        run: list[int] = []
        for item in [*sorted(items), None]:
            if run and item != run[-1] + 1:
                found |= zip(run, sizes(self._blobs, job.items, run[0], len(run)), strict=True)
                run = []
            if item is not None:
                run.append(item)
        return found

    def _subtask(self, job: Job, shard: Shard, index: int, one: Again, cost: int) -> NewSubtask:
        place = Place.of(one.id)
        payload = {"step": place.step, "item": place.item, "record": shard.record_in(job.id)}
        return NewSubtask(
            id=one.id,
            task=RUN_TASK,
            tier=one.tier,
            payload=json.dumps(payload),
            trail=one.trail,
            needs=one.needs,
            cost=cost,
            gate=shard.body_in(job.id),
            gate_index=index,
        )

    async def _tier(self, job: Job, place: Place) -> str:
        return await self._routes.start(job.step(place.step), job.tenant, None)


def phase_id(job_id: str, number: int) -> str:
    """The id of what opens a phase of the plan, from the second on."""
    return f"{job_id}/phase.{number}"


def _written(one: Again) -> dict[str, Any]:
    """As it is kept: versions that know no stages find none where there is only one."""
    return one.model_dump(exclude=None if one.stage else {"stage"})


def _needs(job: Job, phase: Phase, place: Place) -> tuple[str, ...]:
    """The ids of its phase that a subtask waits for; what is in an earlier phase has ended."""
    here = {step.id for step in (*phase.each, *phase.single)}
    step = job.step(place.step)
    return tuple(Place(need, place.item).id_in(job.id) for need in step.needs if need in here)
