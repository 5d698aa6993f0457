"""How a job is cut into shards: pure functions of its steps, the number of its items and the width of a gate.

A shard is what one leaf chord gathers: the subtasks of some items for the steps that run item by item, or the steps without
`each`. Only a window of shards is in the store at a time; a closed one is a segment in the blob store. A phase ends where a
step has to see all items: what needs such a step is in the next phase.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fleet.jobs import Step, in_order


@dataclass(frozen=True, slots=True)
class Place:
    """One subtask of a plan: a step, and the position of its item where it has one."""

    step: str
    item: int | None

    def id_in(self, job_id: str) -> str:
        return f"{job_id}/{self.step}" if self.item is None else f"{job_id}/{self.step}/{self.item}"

    @classmethod
    def of(cls, subtask_id: str) -> Place:
        """The place of a subtask's id."""
        _, step, *item = subtask_id.split("/")
        return cls(step, int(item[0]) if item else None)


@dataclass(frozen=True, slots=True)
class Shard:
    """The `number`-th shard of a phase in a round; round 1 runs the plan, later ones what was sent back or retried."""

    round: int
    phase: int
    number: int

    def body_in(self, job_id: str) -> str:
        """The id of its gate's body."""
        return f"{job_id}/shard.{self.round}.{self.phase}.{self.number}"

    def record_in(self, job_id: str) -> str:
        """The record its ledger entries are written to while it is open."""
        return f"{job_id}/{self.round}.{self.phase}.{self.number}"

    def segment_in(self, job_id: str) -> str:
        """The blob that holds it once it is closed."""
        return f"{job_id}/segments/{self.round}.{self.phase}/{self.number // 1000}/{self.number}.jsonl"

    @classmethod
    def of(cls, body_id: str) -> Shard:
        """The shard of a body's id."""
        _, round_, phase, number = body_id.rpartition("/")[2].split(".")
        return cls(int(round_), int(phase), int(number))


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps that may run side by side: over all items one by one, or once."""

    number: int
    each: tuple[Step, ...]
    single: tuple[Step, ...]
    #: Items of one shard.
    span: int
    items: int

    @property
    def item_shards(self) -> int:
        return -(-self.items // self.span) if self.each else 0

    @property
    def shards(self) -> int:
        """Shards of items, and one more for the steps that run once."""
        return self.item_shards + bool(self.single)

    def places(self, number: int) -> Iterator[Place]:
        """The subtasks of a shard, item by item, needs before what needs them."""
        if number < self.item_shards:
            for item in range(number * self.span, min(self.items, (number + 1) * self.span)):
                yield from (Place(step.id, item) for step in self.each)
        else:
            yield from (Place(step.id, None) for step in self.single)


def phases(steps: Sequence[Step], items: int, width: int) -> list[Phase]:
    """The phases of a plan; a shard has at most `width` subtasks (and at least one item)."""
    by_id = {step.id: step for step in in_order({step.id: step for step in steps})}
    number: dict[str, int] = {}
    for step in by_id.values():
        needed = [number[need] + ((by_id[need].each is None) != (step.each is None)) for need in step.needs]
        number[step.id] = max(needed, default=0)
    found = []
    for phase in range(max(number.values()) + 1):
        here = [step for step in by_id.values() if number[step.id] == phase]
        each = tuple(step for step in here if step.each is not None)
        single = tuple(step for step in here if step.each is None)
        found.append(Phase(phase, each, single, max(1, width // max(1, len(each))), items))
    return found


def shard_of(place: Place, plan: Sequence[Phase]) -> Shard:
    """The shard of round 1 that a subtask is in."""
    for phase in plan:
        if place.item is None and any(step.id == place.step for step in phase.single):
            return Shard(1, phase.number, phase.item_shards)
        if place.item is not None and any(step.id == place.step for step in phase.each):
            return Shard(1, phase.number, place.item // phase.span)
    raise LookupError(f"The plan has no step {place.step}.")
