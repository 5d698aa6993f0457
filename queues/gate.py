"""The gate: a real Celery chord whose members are sent late, and trees of chords above a few hundred members.

It owns the shape of the tree, the chord sizes in the result backend and the signatures of the bodies. A gate's body
is a subtask like any other, so when a chord is lost the reconciler sends the body, under the same id, and its claim
makes firing twice free. It does not know what the body does with what was gathered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from celery import Celery
from celery.canvas import Signature

from queues.failpoints import failpoint
from queues.store import Store
from queues.subtasks import NewSubtask

#: Wire name of the body of an inner chord: it only passes on that its members are final.
GATHER_TASK = "queues.gather.v1"


@dataclass(frozen=True, slots=True)
class Body:
    """What a signature of a gate's body needs: the subtask's task and queue, and its own place in a parent chord."""

    id: str
    task: str
    tier: str
    gate: str | None
    gate_index: int | None


class Gates:
    """Opens gates and builds the signatures of their bodies."""

    def __init__(self, app: Celery, store: Store, *, gather_tier: str) -> None:
        self._app = app
        self._store = store
        self._gather_tier = gather_tier
        self._bodies: dict[str, Body] = {}

    async def open(self, body: NewSubtask, members: Sequence[str], *, width: int) -> dict[str, tuple[str, int]]:
        """Make the gate of `body` over `members`, `width` in a chord, and say where each belongs: id -> (gate, index).

        The chord sizes are set before any member can be sent and only once: setting one again would delete the claim
        that keeps a body from being sent twice. Safe to repeat after a crash, with the same members.
        """
        plan = tree(body.id, len(members), width)
        for gate_id, (parent, index, size) in plan.items():
            if (await self._store.fields(gate_id, "state"))[0] is None:
                await self._set_size(gate_id, size)
                await self._store.add([self._subtask(body, gate_id, parent, index, size)])
        failpoint("gate_opened")
        leaves = [gate_id for gate_id in plan if gate_id not in {parent for parent, _, _ in plan.values()}]
        return {member: (leaves[position // width], position % width) for position, member in enumerate(members)}

    def place(self, root: str, members: int, position: int, *, width: int) -> tuple[str, int]:
        """(gate, index) of the `position`-th of a gate's members."""
        depth, leaves = 0, -(-members // width)
        while leaves > 1:
            depth, leaves = depth + 1, -(-leaves // width)
        return _name(root, depth, position // width), position % width

    async def open_leaf(self, body: NewSubtask) -> None:
        """Make a single chord whose body is `body`, itself a member of the gate it names. Safe to repeat."""
        if body.members is None:
            raise ValueError(f"{body.id} is the body of no gate; say how many members it has.")
        if (await self._store.fields(body.id, "state"))[0] is None:
            await self._set_size(body.id, body.members)
            await self._store.add([body])

    async def _set_size(self, gate: str, size: int) -> None:
        """As `set_chord_size` of Celery's backend, whose keys are in the same store, without a wait that nobody else can use."""
        backend, execute = self._app.backend, self._store.link.execute
        kept = ("EX", backend.chord_expires) if backend.chord_expires else ()
        await asyncio.gather(
            execute("DEL", backend.get_key_for_group(gate, ".c"), idempotent=True),
            execute("SET", backend.get_key_for_group(gate, ".s"), size, *kept, idempotent=True),
        )

    async def body(self, gate: str) -> Signature:
        """What the messages of a gate's members carry: the signature of its body, itself a member of the gate above."""
        body = await self._body(gate)
        above = {}
        if body.gate is not None:
            above = {"group_id": body.gate, "group_index": body.gate_index, "chord": await self.body(body.gate)}
        return self._app.signature(body.task, args=(body.id,), queue=body.tier, task_id=body.id, **above)

    async def _body(self, gate: str) -> Body:
        if gate not in self._bodies:
            task, tier, parent, index = await self._store.fields(gate, "task", "tier", "gate", "gate_index")
            if task is None or tier is None:
                raise LookupError(f"The gate {gate} is not in the store; its job was deleted or never opened.")
            if len(self._bodies) >= 10_000:
                self._bodies.clear()
            self._bodies[gate] = Body(gate, task, tier, parent, None if index is None else int(index))
        return self._bodies[gate]

    def _subtask(self, body: NewSubtask, gate_id: str, parent: str | None, index: int, size: int) -> NewSubtask:
        inner = gate_id != body.id
        return NewSubtask(
            id=gate_id,
            task=GATHER_TASK if inner else body.task,
            tier=self._gather_tier if inner else body.tier,
            payload="" if inner else body.payload,
            cost=body.cost,
            gate=parent,
            gate_index=None if parent is None else index,
            members=size,
        )


def tree(root: str, members: int, width: int) -> dict[str, tuple[str | None, int, int]]:
    """The chords of a gate, parents first: id -> (parent, index in it, size); leaves hold up to `width` members."""
    if members < 1 or width < 2:
        raise ValueError(f"A gate needs at least one member and a width of two; got {members} and {width}.")
    sizes = [min(width, members - start) for start in range(0, members, width)]
    levels = [sizes]
    while len(levels[0]) > 1:
        below = len(levels[0])
        levels.insert(0, [min(width, below - start) for start in range(0, below, width)])
    plan: dict[str, tuple[str | None, int, int]] = {}
    for depth, level in enumerate(levels):
        for position, size in enumerate(level):
            parent = None if depth == 0 else _name(root, depth - 1, position // width)
            plan[_name(root, depth, position)] = (parent, position % width, size)
    return plan


def _name(root: str, depth: int, position: int) -> str:
    return root if depth == 0 else f"{root}/{depth}.{position}"
