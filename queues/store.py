"""The state of jobs and subtasks: the one place that decides what runs, what is done and what comes next.

Every change is one Lua script (queues/lua), so it happens wholly or not at all; time is the server's. Payloads, trails and
outputs are opaque text to it. Celery messages only wake workers up: one that is lost, late or doubled changes nothing here.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, TypeVar

from redis.exceptions import RedisError

from queues.failpoints import failpoint
from queues.link import Link, passes
from queues.subtasks import (
    Charge,
    Claim,
    Intent,
    NewSubtask,
    Refusal,
    Refused,
    Released,
    Result,
    State,
    Status,
    by_tier,
    document,
    result_of,
)
from queues.tiers import Pace

T = TypeVar("T")

#: (key below the namespace, field of that hash, the value it has to have, '' for none): something is done only while all
#: of them hold.
Guards = Sequence[tuple[str, str, str]]

#: Subtasks added, reopened or read in one script or batch: bounds how long the server is busy with one of them.
SHARD = 500
#: How long, and how often, the end of something that was paid for is written again to a store that is away or full; and how
#: long by a process that was asked to end.
INSIST_S, INSIST_DELAY_S, HURRY_S = 300.0, 0.5, 10.0


class Store:
    """All scripts of the store over one `Link`. Errors: `queues.link.LinkError` when the store does not answer."""

    def __init__(self, link: Link, namespace: str, *, lease_ms: int = 30_000) -> None:
        self.link = link
        self.namespace = namespace
        self.lease_ms = lease_ms
        #: How long a sent subtask may wait for a worker before it is sent again, one that was only released before it is
        #: sent at all, and a full gate for its chord.
        self.resend_ms = lease_ms
        self.unsent_ms = 2_000
        self.gate_grace_ms = 3_000
        #: Which process claims through this store.
        self.worker = secrets.token_hex(8)
        #: Set when the process was asked to end.
        self.hurry = asyncio.Event()

    async def open_job(self, job: str, *, tenant: str, share: float) -> None:
        """Let `job` take part in the fair order; `share` is its weight among its tenant's jobs."""
        await self.link.execute("HSET", self._key("j", job), "tenant", tenant, "share", share, idempotent=True)

    async def begin_slowly(self, job: str, first: int, phase: int, tiers: Iterable[str]) -> None:
        """From this phase on let `first` of a job's subtasks be out in these tiers, then twice as many as have ended."""
        slow = f"{first} {phase} {','.join(tiers)}"
        await self.link.execute("HSET", self._key("j", job), "slow", slow, idempotent=True)

    async def now(self) -> float:
        """The server's time, by which times of different processes can be told apart: seconds since 1970."""
        seconds, microseconds = await self.link.execute("TIME", idempotent=True)
        return int(seconds) + int(microseconds) / 1e6

    async def add(self, subtasks: Iterable[NewSubtask], guards: Guards = ()) -> int:
        """Add subtasks in order, in shards, while the guards hold; the number that were new. Safe to repeat."""
        added = 0
        for shard in _shards(subtasks, SHARD):
            added += await self._call("add", json.dumps([document(subtask) for subtask in shard]), json.dumps(guards))
            failpoint("shard_added")
        return added

    async def release(self, tier: str, most: int, pace: Pace | None = None) -> list[Released]:
        """Up to `most` subtasks of a tier, in fair order, within its window and at its pace, now queued."""
        account, sharing = (("", 0, 0, 0, 0), (0,)) if pace is None else pace.arguments()
        flat = await self.link.call("release", [self.namespace], [*account, tier, most, self.unsent_ms, *sharing])
        texts = [value.decode() for value in flat]
        return [
            Released(id=id_, task=task, gate=gate or None, gate_index=int(index) if index else None)
            for id_, task, gate, index in _shards(texts, 4)
        ]

    async def sent(self, ids: Iterable[str]) -> None:
        """Say that the messages of released subtasks are out."""
        for shard in _shards(ids, SHARD):
            await self._call("sent", self.resend_ms, *shard)

    async def claim(self, id_: str, tier: str) -> Claim | Refusal:
        """The right to work on a subtask for `lease_ms`, or why not."""
        reply = await self._each("claim", (tier, self.lease_ms, self.worker), id_, secrets.token_hex(8))
        verdict = reply[0].decode()
        if verdict != "run":
            return Refusal(verdict, reply[1].decode() if verdict == "final" else None)
        _, fence, payload, trail, kills, claims, waited = reply
        return Claim(id_, tier, fence, payload.decode(), trail.decode(), kills, claims, waited if waited >= 0 else None)

    async def renew(self, claims: Sequence[Claim]) -> list[Claim]:
        """Extend claims by `lease_ms`; those that are lost."""
        lost: list[Claim] = []
        for shard in _shards(claims, SHARD):
            pairs = [value for claim in shard for value in (claim.id, claim.fence)]
            held = await self._call("renew", self.lease_ms, *pairs)
            lost += [claim for claim, alive in zip(shard, held, strict=True) if not alive]
        return lost

    async def finish(
        self, claim: Claim, status: Status, output: str, charges: Sequence[Charge] = (), *, quarantined: bool = False
    ) -> bool:
        """End a claimed subtask and free what waited for it. False: the claim was lost and only the charges count.

        `quarantined`: it ends because its workers keep dying.
        """
        what = (claim.id, claim.fence, status, output, _charges(charges), int(quarantined))
        return bool(await self._insist(self._each, "finish", (self.gate_grace_ms,), *what))

    async def hand_on(self, claim: Claim, tier: str, trail: str, charges: Sequence[Charge] = ()) -> bool:
        """Give a claimed subtask to `tier`, in front. False: the claim was lost and only the charges count."""
        return bool(await self._insist(self._call, "hand_on", claim.id, claim.fence, tier, trail, _charges(charges)))

    async def settle(self, charges: Sequence[Charge]) -> None:
        """Write charges that belong to no change of state."""
        await self._insist(self._call, "settle", _charges(charges))

    async def forget(
        self, gate: str, ids: Iterable[str], record: str, quota: str, *, entries: int, guesses: int
    ) -> bool:
        """Drop the final ones of a gate's members, and a record, whose content was kept elsewhere. Safe to repeat.

        `entries`, `guesses`: of the record as it was read. False: it has others by now, and nothing was dropped.
        """
        return bool(await self._call("forget", record, quota, gate, entries, guesses, *ids))

    async def results(self, ids: Iterable[str]) -> list[Result | None]:
        """What is known of each subtask, in the order asked; None for an unknown one."""
        found: list[Result | None] = []
        for shard in _shards(ids, SHARD):
            what = ("state", "tier", "status", "output")
            pending = [self.link.execute("HMGET", self._key("s", id_), *what, idempotent=True) for id_ in shard]
            for id_, reply in zip(shard, await asyncio.gather(*pending), strict=True):
                found.append(result_of(id_, reply))
        return found

    async def fields(self, id_: str, *names: str) -> list[str | None]:
        """Fields of a subtask's record, None where there is none."""
        reply = await self.link.execute("HMGET", self._key("s", id_), *names, idempotent=True)
        return [None if value is None else value.decode() for value in reply]

    async def counts(self, job: str) -> dict[str, dict[str, int]]:
        """How many subtasks of a job stand where: tier -> state or final status -> number."""
        return by_tier(await self.link.execute("HGETALL", self._key("c", job), idempotent=True))

    async def reconcile(self, most: int = SHARD) -> list[tuple[str, State]]:
        """Put back into the backlog what should be moving and is not; each with the state it was found in."""
        flat = await self.link.call("reconcile", [self.namespace], [most, self.lease_ms])
        return [(id_.decode(), State(state.decode())) for id_, state in _shards(flat, 2)]

    async def events(self, job: str, after: str, most: int = SHARD) -> list[tuple[str, dict[str, str]]]:
        """What happened to a job after the event of this id ('0-0': from the first that is kept on): id and fields, in order."""
        reply = await self.link.execute(
            "XRANGE", self._key("ev", job), f"({after}", "+", "COUNT", most, idempotent=True
        )
        return [
            (id_.decode(), {name.decode(): value.decode() for name, value in _shards(flat, 2)}) for id_, flat in reply
        ]

    async def memo(self, job: str, name: str) -> str | None:
        """What was written down for a job under `name`, None where nothing was."""
        body = await self.link.execute("HGET", self._key("m", job), name, idempotent=True)
        return None if body is None else str(body.decode())

    async def memos(self, job: str, prefix: str) -> dict[str, str]:
        """What was written down for a job under names that begin so."""
        flat = await self.link.execute("HGETALL", self._key("m", job), idempotent=True)
        return {name.decode(): body.decode() for name, body in _shards(flat, 2) if name.startswith(prefix.encode())}

    async def set_memo(self, job: str, name: str, body: str, charges: Sequence[Charge] = ()) -> None:
        """Write something down for a job, together with charges; what stands under `name` already stays."""
        await self._insist(self._call, "memo", job, name, body, _charges(charges))

    async def records(self, record: str) -> dict[str, str]:
        """The entries written by charges under `record`, by id."""
        flat = await self.link.execute("HGETALL", self._key("r", record), idempotent=True)
        return {id_.decode(): body.decode() for id_, body in _shards(flat, 2)}

    async def guesses(self, record: str) -> int:
        """How many of a record's entries are guesses."""
        return int(await self.link.execute("HLEN", self._key("rp", record), idempotent=True))

    async def tally(self, quota: str) -> dict[str, int]:
        """The counters kept beside a quota."""
        flat = await self.link.execute("HGETALL", self._key("t", quota), idempotent=True)
        return {name.decode(): int(number) for name, number in _shards(flat, 2)}

    async def intend(self, intent: Intent, *, under_way: bool = False) -> Refused | None:
        """Journal an intent and hold its amount, or say why not; repeating it replaces it. The last step before a call.

        `under_way`: what it announces has begun, so that a store that is away or full is insisted upon.
        """
        what = intent.arguments()
        asking = self._insist(self._each, "hold", (), *what) if under_way else self._each("hold", (), *what)
        return Refused.of(await asking)

    async def let_go(self, intent: Intent) -> None:
        """Free the hold of an intent that was not carried out."""
        await self._call("let_go", intent.quota, intent.hold, intent.id)

    async def unsettled(self, quota: str, hold: str | None = None) -> list[str]:
        """The notes of the intents whose end nobody has written yet: of running calls, and of those whose worker died.

        `hold`: only the one that is journalled under it.
        """
        what = ("HVALS", self._key("i", quota)) if hold is None else ("HMGET", self._key("i", quota), hold)
        left = await self.link.execute(*what, idempotent=True)
        return [intent.decode().partition("\n")[2] for intent in left if intent is not None]

    async def stop(
        self,
        job: str,
        how: Literal["paused", "cancelled"],
        tiers: Iterable[str],
        *,
        why: str = "",
        short: int | None = None,
        guards: Guards = (),
    ) -> None:
        """Let nothing more of a job start on `tiers`; cancelled, what is ready is dropped and running claims are lost.

        `why`: for whoever has to resume it, where nobody asked for it. `short`: an amount that did not fit under a cap; the job
        goes on when it does (`Quotas.relieve`). Nothing is done where a guard does not hold.
        """
        await self._call("stop", job, how, why, json.dumps(guards), "" if short is None else short, *tiers)

    async def winding(self) -> list[str]:
        """The cancelled jobs of which something may be left."""
        return [job.decode() for job in await self.link.execute("SMEMBERS", self._key("winding"), idempotent=True)]

    async def wound_up(self, job: str, stopped: str | None, tiers: Iterable[str]) -> None:
        """Say that nothing of a job that was found `stopped` so is left to be done."""
        await self._call("wound_up", job, stopped or "", *tiers)

    async def keep_for_a_while(self, job: str, subtask: str) -> None:
        """Have what is left of a cancelled job of one subtask go by itself."""
        await self._call("keep_for", job, subtask)

    async def resume(self, job: str, tiers: Iterable[str]) -> bool:
        """Let a paused job go on; False when it was not paused."""
        return bool(await self._call("resume", job, *tiers))

    async def again(
        self, job: str, duty: NewSubtask, guards: Guards, tiers: Iterable[str]
    ) -> Literal["asked", "elsewhere", "winding"]:
        """Ask for an ended job to be run again by `duty`; a pause, or a cancel that came as it ended, is dropped."""
        what = (job, json.dumps(guards), duty.id, duty.task, duty.tier, duty.payload)
        replies: dict[int, Literal["asked", "elsewhere", "winding"]] = {1: "asked", 0: "elsewhere", 2: "winding"}
        return replies[await self._call("again", *what, *tiers)]

    async def stopped(self, job: str) -> tuple[str | None, str]:
        """`paused` or `cancelled` for a stopped job, and why, where nobody asked for it."""
        how, why = await self.link.execute("HMGET", self._key("j", job), "stop", "why", idempotent=True)
        return None if how is None else how.decode(), (why or b"").decode()

    async def quota(self, quota: str) -> tuple[int | None, int, int]:
        """(cap, used, held) of a quota."""
        cap, used, held = await self.link.execute(
            "HMGET", self._key("q", quota), "cap", "used", "held", idempotent=True
        )
        return (None if cap is None else int(cap), int(used or 0), int(held or 0))

    async def register(self, tier: str, worker: str, capacity: int, lives_ms: int) -> None:
        """Count a worker's capacity into its tier's window for `lives_ms`; 0 takes it out."""
        await self._call("register", tier, worker, capacity, lives_ms)

    async def capacity(self, tier: str) -> int:
        """Subtasks that the live workers of a tier can run at once."""
        members = await self.link.execute("ZRANGE", self._key("w", tier), 0, -1, idempotent=True)
        return sum(int(member.decode().rpartition("|")[2]) for member in members)

    async def await_ring(self, timeout_s: float) -> None:
        """Wait until something is ready to be released, or a bounded time."""
        await self.link.blocking("BLPOP", self._key("wake"), timeout=timeout_s)

    async def advance(
        self,
        key: str,
        field: str,
        allowed: Iterable[str],
        value: str,
        others: Mapping[str, str | int] | None = None,
        *,
        guards: Guards = (),
    ) -> bool:
        """Compare and set `field` of the hash `key`, writing `others` with it; False when it held another value.

        Nor is anything written where a guard does not hold.
        """
        pairs = [part for pair in (others or {}).items() for part in pair]
        what = (json.dumps(list(allowed)), value, json.dumps(guards))
        return bool(await self._call("advance", key, field, *what, *pairs))

    def _key(self, *parts: str) -> str:
        return ":".join((self.namespace, *parts))

    async def _insist(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Make a call that writes what was paid for: a store that is away or full for a while must not cost it.

        All such scripts may run twice; whether they still count is decided by the fence.
        """
        began = time.monotonic()
        while True:
            try:
                return await call(*args)
            except RedisError as error:
                patience = HURRY_S if self.hurry.is_set() else INSIST_S
                if not passes(error) or time.monotonic() - began > patience:
                    raise
                await asyncio.sleep(INSIST_DELAY_S)

    async def _call(self, script: str, *args: str | int | float) -> Any:
        return await self.link.call(script, [self.namespace], args, idempotent=True)

    async def _each(self, script: str, head: tuple[str | int, ...], *args: str | int) -> Any:
        return await self.link.each(script, (self.namespace,), head, args)


def _shards(values: Iterable[T], size: int) -> Iterable[tuple[T, ...]]:
    rest = iter(values)
    while shard := tuple(islice(rest, size)):
        yield shard


def _charges(charges: Sequence[Charge]) -> str:
    # An empty Lua table would come back as a list; pairs() takes both.
    return json.dumps([document(charge) for charge in charges])
