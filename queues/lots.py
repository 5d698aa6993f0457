"""Lots: many subtasks that wait while one subtask does something for all of them at once, and may be put by in between.

A lot gathers until it is full, or has gathered for long enough; who joins it does so under its claim, in the moment in which what
it is about to use is journalled. It does not know what is done for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from queues.store import Store
from queues.subtasks import Claim, Intent, Refused, State

#: For how long an ended lot can still be asked for, so that a late message finds that it has ended.
KEPT_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Family:
    """Lots of the same kind: those of one job that may be in one lot."""

    #: What the ids of its lots begin with: `lots/...`, so that stopping the job stops none of them.
    name: str
    job: str
    #: Wire name of the task that runs a lot, its tier and payload.
    task: str
    tier: str
    payload: str
    #: Members of a lot and the sum of their sizes, at most, and for how long it gathers.
    most: int
    most_size: int
    patience_ms: int


class Lots:
    """The lots of a store. Errors: `queues.link.LinkError` when it does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def join(self, claim: Claim, family: Family, size: int, trail: str, intent: Intent) -> Refused | None:
        """Let a claimed subtask wait for a lot, its intent journalled, or say why not."""
        lot = (family.job, family.name, family.task, family.tier, family.payload)
        most = (family.most, family.most_size, family.patience_ms, size)
        what = (claim.id, claim.fence, trail, *lot, *most, *intent.arguments())
        return Refused.of(await self._call("join", *what))

    async def output_of(self, subtask: str) -> str | None:
        """What the lot that a subtask has last joined has for it; None: it still waits, or the lot ended long ago."""
        (lot,) = await self._store.fields(subtask, "lot")
        return None if lot is None else (await self._store.fields(lot, "output"))[0]

    async def members(self, lot: str) -> set[str]:
        """The subtasks that wait for a lot; of one that was claimed there come no more."""
        name = f"{self._store.namespace}:d:{lot}"
        return {id_.decode() for id_ in await self._store.link.execute("SMEMBERS", name, idempotent=True)}

    async def gathered(self, lot: str) -> tuple[str | None, int]:
        """The payload of a lot, and how many wait for it."""
        name = f"{self._store.namespace}:d:{lot}"
        number = await self._store.link.execute("SCARD", name, idempotent=True)
        return (await self._store.fields(lot, "payload"))[0], int(number)

    async def put_by(self, claim: Claim, trail: str, seconds: float) -> bool:
        """Let a claimed subtask rest, nobody woken for it until then. False: the claim was lost."""
        return bool(await self._call("snooze", claim.id, claim.fence, trail, round(seconds * 1000)))

    async def dismiss(self, claim: Claim, output: str) -> bool:
        """Let all go on who wait for a claimed lot, which has `output` for them and itself goes on. False: the claim was lost."""
        return bool(await self._call("dismiss", claim.id, claim.fence, output))

    async def unended(self, job: str) -> list[str]:
        """The lots of a job that have not ended."""
        flat = await self._store.link.execute("HGETALL", f"{self._store.namespace}:lots:{job}", idempotent=True)
        families = zip(flat[::2], flat[1::2], strict=True)
        lots = [f"{name.decode()}.{number}" for name, latest in families for number in range(1, int(latest) + 1)]
        states = [(await self._store.fields(lot, "state"))[0] for lot in lots]
        return [lot for lot, state in zip(lots, states, strict=True) if state not in (None, State.FINAL)]

    async def forget(self, lot: str) -> None:
        """Let what is kept of an ended lot go by itself."""
        name = f"{self._store.namespace}:s:{lot}"
        await self._store.link.execute("PEXPIRE", name, KEPT_MS, idempotent=True)

    async def _call(self, script: str, *args: str | int | float) -> object:
        return await self._store.link.call(script, [self._store.namespace], args, idempotent=True)
