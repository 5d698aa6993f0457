"""Calls as lines of the vendor's batches, from a worker's side: written down, held and waited for; their answers found.

It owns the forms of what a worker and whoever carries a batch (`fleet.vendor_batches`) write down for each other: a blob per
line, and one per lot with what became of its lines. It asks no vendor, and it judges no answer.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b

from fleet.blobs import Blobs
from fleet.choices import choose
from fleet.config import FleetConfig
from fleet.entries import Call, Purpose
from fleet.executor import Executor
from fleet.ledger import LedgerEntry
from fleet.outcomes import Trail
from fleet.prices import Usage
from fleet.providers.base import Completion, ModelRequest
from fleet.store import COORDINATOR, Job
from fleet.stored import read
from queues.failpoints import failpoint
from queues.lots import Family, Lots
from queues.subtasks import Claim, Intent, Refused

#: Wire name of the task that carries a batch.
BATCH_TASK = "fleet.vendor_batch.v1"
#: Lots whose answers' places are kept in memory.
KEPT_LOTS = 16


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a line: its ledger entry, the record that it goes to, and its answer, None where there is none."""

    entry: LedgerEntry
    record: str
    completion: Completion | None

    def written(self) -> bytes:
        said = (
            None if self.completion is None else asdict(self.completion) | {"usage": self.completion.usage.model_dump()}
        )
        line = {"entry": self.entry.model_dump(mode="json"), "record": self.record, "completion": said}
        return json.dumps(line).encode()

    @classmethod
    def of(cls, line: bytes) -> Sent:
        data = json.loads(line)
        said = data["completion"]
        completion = None if said is None else Completion(**said | {"usage": read(Usage, said["usage"])})
        return cls(read(LedgerEntry, data["entry"]), data["record"], completion)


@dataclass(frozen=True, slots=True)
class Route:
    """Whose batch a lot is, which lines are in it, and when they are due (Unix seconds): the payload of a lot."""

    job: str
    provider: str
    model: str
    route: str
    due: float

    def written(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, payload: str) -> Route:
        data = json.loads(payload)
        return cls(data["job"], data["provider"], data["model"], data["route"], data["due"])


class Lines:
    """Joins lines to lots, and reads their answers."""

    def __init__(self, config: FleetConfig, executor: Executor, lots: Lots, blobs: Blobs) -> None:
        self._config = config
        self._executor = executor
        self._blobs = blobs
        self.lots = lots
        #: By the blob of a lot: where the answer of each call stands in it.
        self._places: OrderedDict[str, dict[str, tuple[int, int]]] = OrderedDict()

    async def join(self, purpose: Purpose, request: ModelRequest, trail: Trail) -> Call | None:
        """Let a claimed subtask wait for a batch with this request as a line of it; then its claim is no longer held.

        The call of an earlier worker, if it can be asked for, instead: then the claim still is. Raises as `Executor.call`.
        """
        claim, name = purpose.claim, self._config.tiers[purpose.tier].model
        choice = choose(self._config, purpose.tier, name, request, reattaches=False, says_default=False, lane="batch")
        batches = self._executor.batches_of(purpose.tier)
        assert batches is not None  # noqa: S101  or the lane would be another
        call_id = f"{purpose.subtask}.{claim.fence}.batch"
        route, line = batches.line(replace(choice.request, call_id=call_id))
        await asyncio.to_thread(self._blobs.put, line_blob(purpose.job, call_id), line)
        family = self._family(Route(purpose.job, choice.model.provider, name, route, purpose.due or 0.0))
        trail.line = call_id

        async def journal(intent: Intent) -> Refused | None:
            counted = replace(trail, asked=replace(trail.asked, number=trail.asked.number + 1))
            return await self.lots.join(claim, family, len(line) + 1, counted.dump(), intent)

        try:
            call = await self._executor.join(purpose, choice, call_id, journal)
        finally:
            trail.line = None
        failpoint("joined")
        return call

    async def answer(self, claim: Claim, call_id: str) -> Sent | None:
        """What became of a line; None where nobody could find that out, and it is booked as lost."""
        name = await self.lots.output_of(claim.id)
        return None if not name else await asyncio.to_thread(self._sent, name, call_id)

    def _sent(self, name: str, call_id: str) -> Sent | None:
        places = self._places.get(name)
        if places is None:
            places = self._places[name] = _places(self._blobs.read(name))
            while len(self._places) > KEPT_LOTS:
                self._places.popitem(last=False)
        place = places.get(call_id)
        return None if place is None else Sent.of(self._blobs.read(name, *place))

    def _family(self, route: Route) -> Family:
        lanes, payload = self._config.lanes, route.written()
        digest = blake2b(payload.encode(), digest_size=8).hexdigest()
        return Family(
            name=f"lots/{route.job}.{digest}",
            job=route.job,
            task=BATCH_TASK,
            tier=COORDINATOR,
            payload=payload,
            most=lanes.lines,
            most_size=lanes.bytes,
            patience_ms=round(lanes.gather_s * 1000),
        )


async def batched(lots: Lots, config: FleetConfig, job: Job) -> dict[str, int]:
    """How many subtasks of a job wait for batches, by the first tier on their model; one without a deadline has none."""
    found: dict[str, int] = {}
    if job.spec.deadline is None and all(step.deadline is None for step in job.steps):
        return found
    for lot in await lots.unended(job.id):
        payload, number = await lots.gathered(lot)
        name = Route.of(payload).model if payload else ""
        tier = next((tier for tier, its in config.tiers.items() if its.model == name), None)
        if tier is not None and number:
            found[tier] = found.get(tier, 0) + number
    return found


def _places(data: bytes) -> dict[str, tuple[int, int]]:
    """By call id, where its line begins and how long it is."""
    places: dict[str, tuple[int, int]] = {}
    start = 0
    for line in data.splitlines(keepends=True):
        places[json.loads(line)["entry"]["call_id"]] = start, len(line)
        start += len(line)
    return places


def write_answers(blobs: Blobs, name: str, sent: Iterable[Sent]) -> None:
    """Write down what became of a lot's lines."""
    blobs.put(name, b"".join(one.written() + b"\n" for one in sent))


def read_answers(blobs: Blobs, name: str) -> list[Sent]:
    """All of them."""
    return [Sent.of(line) for line in blobs.read(name).split(b"\n") if line]


def read_lines(blobs: Blobs, job: str, call_ids: Sequence[str]) -> bytes:
    """The file of a batch with these lines; one that is not there any more is left out."""
    found = []
    for call_id in call_ids:
        name = line_blob(job, call_id)
        if blobs.exists(name):
            found.append(blobs.read(name) + b"\n")
    return b"".join(found)


def remove_lines(blobs: Blobs, job: str, call_ids: Sequence[str]) -> None:
    """What was sent is in nobody's way."""
    for call_id in call_ids:
        blobs.remove(line_blob(job, call_id))


def line_blob(job: str, call_id: str) -> str:
    digest = blake2b(call_id.encode(), digest_size=16).hexdigest()
    return f"{job}/lines/{digest[:2]}/{digest}.json"


def lot_blob(job: str, lot: str, fence: int) -> str:
    """The blob that says what became of a lot's lines, written under this claim."""
    return f"{job}/lots/{lot.rpartition('/')[2]}.{fence}.jsonl"
