"""A subtask that kills every worker that runs it: quarantined after three, brought back once fixed, and what it costs others.

The others are a stream of jobs that keeps six workers of five slots busy with calls of 1.2 s. Their throughput
from the first claim on the poison to its quarantine is held against that of as long a time just before and just after. The
claims live for two seconds, so a worker dies about every four and is there again after less than one; with the default of
thirty it may take ten times as long to come back before the loss is the same.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from fleet.client import FleetClient
from fleet.jobs import JobSpec, JobStatus
from fleet.ledger import WORKER_LOST
from fleet.runner import MAX_KILLS
from fleet.runtime import NAMESPACE, Runtime
from fleet.sim.settings import Latency, SimSettings
from tests.chaos.arena import Arena, arena
from tests.support.sim import MODELS

DEADLY = "kills whoever reads it"
WORKERS = 6
#: Each call takes about so long.
LATENCY = Latency(base_s=1.2, per_output_token_s=0, per_1k_input_s=0)
ITEMS = 120
#: Harmless subtasks in the same job as the poison.
BESIDE = 4
#: A job of the stream is submitted when fewer subtasks than this are left.
LOW = 120
WARM_UP_S = 3.0
BEFORE_S = 10.0
LONGEST_S = 60.0
LOOK_S = 0.05


async def poisoned(folder: Path) -> tuple[list[str], float]:
    """What was wrong, and the share of the others' throughput that was kept."""
    provider = SimSettings(latency={MODELS[0]: LATENCY}, invalid_output=dict.fromkeys(MODELS, 0.0))
    async with arena(folder, "never", provider=provider, seats={"nano": WORKERS}, deadly=DEADLY) as fleet:
        runtime = Runtime(fleet.environment, fleet.config, fleet.valkey.url)
        try:
            complaints, kept = await _poisoned(fleet, FleetClient(runtime))
        finally:
            await runtime.aclose()
        books = await fleet.books()
        books.figures()
    return complaints + books.complaints, kept


async def _poisoned(fleet: Arena, client: FleetClient) -> tuple[list[str], float]:
    stream = _Stream(client)
    flowing = asyncio.create_task(stream.flow())
    try:
        await asyncio.sleep(WARM_UP_S + BEFORE_S)
        job = await client.submit(_job("poison", [f"A picture that {DEADLY}.", *["A harmless picture."] * BESIDE]))
        key = f"{NAMESPACE}:s:{job}/look/0"
        began = await _until(fleet, key, b"running")
        ended = await _until(fleet, key, b"final", None)
        await asyncio.sleep(ended - began)
        stream.dry = True
        await asyncio.wait_for(flowing, LONGEST_S)
    finally:
        flowing.cancel()
    during = stream.rate(began, ended)
    beside = (stream.rate(began - min(BEFORE_S, ended - began), began) + stream.rate(ended, 2 * ended - began)) / 2
    print(f"  others: {beside:.1f}/s without, {during:.1f}/s for {ended - began:.1f} s with a poison", flush=True)
    complaints = await _quarantined(fleet, client, job)
    if stream.failed:
        complaints.append(f"poison: {stream.failed} subtasks of other jobs failed")
    fleet.crew.deadly = ""
    await fleet.crew.roll()
    return complaints + await _brought_back(fleet, client, job), round(during / beside, 3)


async def _until(fleet: Arena, key: str, *states: bytes | None) -> float:
    """When the subtask got into one of these states; None: it is filed away."""
    deadline = time.monotonic() + LONGEST_S
    while await fleet.client.hget(key, "state") not in states:
        assert time.monotonic() < deadline, f"{key} was not {states[0]!r} in time"
        await asyncio.sleep(LOOK_S)
    return time.monotonic()


async def _quarantined(fleet: Arena, client: FleetClient, id_: str) -> list[str]:
    """After three deaths it has failed and says so, its entries show each, and nobody else came to harm."""
    complaints = []
    await _ended(client, id_)
    deaths = fleet.crew.kills
    if deaths != MAX_KILLS:
        complaints.append(f"poison: {deaths} workers died of it, not {MAX_KILLS}")
    poison, *beside = [outcome async for outcome in client.outcomes(await client.job(id_))]
    if poison.status != "failed" or f"{MAX_KILLS} workers died" not in (poison.error or ""):
        complaints.append(f"poison: not quarantined with its reason: {poison.status}, {poison.error}")
    harmed = [outcome.error for outcome in beside if outcome.status != "ok"]
    if harmed:
        complaints.append(f"poison: {len(harmed)} of {BESIDE} harmless subtasks beside it failed: {harmed[0]}")
    lost = [entry.fence async for entry in client.ledger(await client.job(id_)) if entry.reason == WORKER_LOST]
    if len(set(lost)) != MAX_KILLS:
        complaints.append(f"poison: its ledger shows {len(lost)} lost calls, not one for each worker")
    return complaints


async def _brought_back(fleet: Arena, client: FleetClient, id_: str) -> list[str]:
    """`fleet jobs retry --failed`, as a process; what was accepted before is not called again."""
    before = await _calls(client, id_)
    failed = sum([outcome.status == "failed" async for outcome in client.outcomes(await client.job(id_))])
    retry = await fleet.crew.fork("retry", "", command=["jobs", "retry", "--failed", id_])
    await asyncio.wait_for(retry.ended.wait(), LONGEST_S)
    if retry.end != 0:
        return [f"poison: retry --failed exits with {retry.end}"]
    await _ended(client, id_, round_=2)
    job = await client.job(id_)
    found = [outcome.status async for outcome in client.outcomes(job)]
    calls = await _calls(client, id_) - before
    if job.status is not JobStatus.COMPLETED or set(found) != {"ok"} or calls != failed:
        return [
            f"poison: after retry --failed the job is {job.status}, its subtasks {found}, {calls} new calls for {failed}"
        ]
    return []


async def _calls(client: FleetClient, id_: str) -> int:
    return sum([1 async for _ in client.ledger(await client.job(id_))])


def _job(name: str, texts: list[str]) -> JobSpec:
    step = {"id": "look", "each": "items", "tier": "nano", "prompt": "{{ item.text }}", "max_output_tokens": 50}
    items = [{"text": text} for text in texts]
    return JobSpec.model_validate({"name": name, "items": items, "steps": [step]})


async def _ended(client: FleetClient, id_: str, *, round_: int = 1) -> None:
    async with asyncio.timeout(LONGEST_S):
        while not ((job := await client.job(id_)).status.final and job.round >= round_):
            await asyncio.sleep(LOOK_S)


@dataclass
class _Stream:
    """Jobs, one after another, so that there is always more to do than the workers can take."""

    client: FleetClient
    #: No job is to follow.
    dry: bool = False
    #: Subtasks that ended in any other way than well.
    failed: int = 0
    #: (when, subtasks done so far)
    _looks: list[tuple[float, int]] = field(default_factory=list)

    async def flow(self) -> None:
        """Until it is dry and all has ended."""
        spec = _job("stream", [f"Note {number}" for number in range(ITEMS)])
        past, going = 0, dict[str, int]()
        while going or not self.dry:
            if not self.dry and len(going) * ITEMS - sum(going.values()) < LOW:
                going[await self.client.submit(spec)] = 0
            for job in list(going):
                counts = (await self.client.runtime.store.counts(job)).get("nano", {})
                going[job], failed = counts.get("ok", 0), counts.get("failed", 0)
                if going[job] + failed == ITEMS:
                    past += going.pop(job)
                    self.failed += failed
            self._looks.append((time.monotonic(), past + sum(going.values())))
            await asyncio.sleep(LOOK_S)

    def rate(self, start: float, end: float) -> float:
        """Subtasks done per second between two times."""
        first, last = (min(self._looks, key=lambda look: abs(look[0] - at)) for at in (start, end))
        return (last[1] - first[1]) / (last[0] - first[0])
