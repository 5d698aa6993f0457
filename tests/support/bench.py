"""A fleet in one test process: the real store, runner, duties and provider client, with the test in Celery's place.

`Bench.run` releases and runs what is ready until a job stands still. A gate's body is delivered by the reconciler, as
it is when a chord was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.client import FleetClient
from fleet.config import Environment, FleetConfig
from fleet.context import Context
from fleet.duties import Duties
from fleet.jobs import JobSpec, Outcome
from fleet.ledger import LedgerEntry
from fleet.lines import BATCH_TASK
from fleet.providers.base import BatchProvider, Completion, ModelRequest, Provider, Started
from fleet.retry import RETRY_TASK
from fleet.rounds import END_TASK, PHASE_TASK, REVIEW_TASK, RUN_TASK, SHARD_TASK
from fleet.runner import NotOurs, Runner
from fleet.runtime import Runtime
from fleet.store import PLAN_TASK, Job
from fleet.vendor_batches import VendorBatches
from queues.gate import GATHER_TASK
from queues.subtasks import Released
from tests.support.valkey import Valkey

MAX_ROUNDS = 200
#: Models of the simulated provider, by how they behave; see tests/integration/conftest.py.
GOOD, DEAR, BREAKS = "good", "dear", "breaks"


def config(
    nano: str = GOOD, mini: str = GOOD, flagship: str = DEAR, *, context_tokens: int = 400_000, **others: Any
) -> FleetConfig:
    """A configuration whose three tiers use the given models."""
    prices = {GOOD: ("0.2", "1"), BREAKS: ("0.1", "0.5"), DEAR: ("2", "10")}
    return FleetConfig.model_validate(
        {
            "models": {
                name: {"context_tokens": context_tokens, "price": {"input": into, "output": out}}
                for name, (into, out) in prices.items()
            },
            "tiers": {
                "nano": {"model": nano, "escalate_to": "mini"},
                "mini": {"model": mini, "escalate_to": "flagship"},
                "flagship": {"model": flagship},
            },
            "claim_s": 600,
        }
        | others
    )


@dataclass
class Recording:
    """A provider that keeps what it was asked and what it answered."""

    inner: Provider
    asked: list[ModelRequest] = field(default_factory=list)
    answered: list[Completion] = field(default_factory=list)

    @property
    def reattaches(self) -> bool:
        return self.inner.reattaches

    @property
    def says_default(self) -> bool:
        return self.inner.says_default

    @property
    def batches(self) -> BatchProvider | None:
        return self.inner.batches

    async def complete(self, request: ModelRequest, started: Started | None = None) -> Completion:
        self.asked.append(request)
        completion = await self.inner.complete(request, started)
        self.answered.append(completion)
        return completion

    async def collect(self, handle: str, request: ModelRequest) -> Completion:
        return await self.inner.collect(handle, request)

    async def cancel(self, handle: str) -> None:
        await self.inner.cancel(handle)

    async def aclose(self) -> None:
        await self.inner.aclose()

    def prompts(self, part: str) -> list[str]:
        """The prompts of the calls whose id holds `part`, in order."""
        return [request.prompt for request in self.asked if part in request.call_id]


@dataclass
class Bench:
    """What a test works with."""

    runtime: Runtime
    context: Context
    runner: Runner
    duties: Duties
    client: FleetClient
    provider: Recording

    async def submit(self, **spec: Any) -> str:
        """Submit a job; `name` may be left out."""
        return await self.client.submit(JobSpec.model_validate({"name": "test"} | spec))

    async def run(self, job_id: str) -> Job:
        """Run what is ready until nothing is; the job then."""
        for _ in range(MAX_ROUNDS):
            released = await self.release()
            if not released and not await self.runtime.store.reconcile():
                return await self.runtime.jobs.load(job_id)
            await asyncio.gather(*(self.perform(one, tier) for one, tier in released))
        raise AssertionError(f"the job {job_id} still moves after {MAX_ROUNDS} rounds")

    async def work(self) -> None:
        """Run what is ready, as soon as it is, until cancelled: for a scenario in which somebody waits for answers."""
        running: set[asyncio.Task[Any]] = set()
        try:
            while True:
                for one, tier in [*await self.release(), *await self._sent()]:
                    task = asyncio.create_task(self.perform(one, tier))
                    running.add(task)
                    task.add_done_callback(running.discard)
                await self.runtime.store.await_ring(0.05)
        finally:
            for task in running:
                task.cancel()

    async def _sent(self) -> list[tuple[Released, str]]:
        """What others than the bench have sent, with its tier."""
        found = []
        for tier in self.runtime.tiers:
            for message in await self.runtime.link.execute("LPOP", tier, 200) or []:
                headers = json.loads(message)["headers"]
                found.append((Released(headers["id"], headers["task"], None, None), tier))
        return found

    async def run_until(self, job_id: str, task: str) -> Released:
        """Run until a message for `task` is due, and give that message instead of running it."""
        for _ in range(MAX_ROUNDS):
            released = await self.release()
            held = [one for one, _ in released if one.task == task]
            await asyncio.gather(*(self.perform(one, tier) for one, tier in released if one.task != task))
            if held:
                return held[0]
            if not released:
                assert await self.runtime.store.reconcile(), f"{task} was never due"
        raise AssertionError(f"the job {job_id} still moves after {MAX_ROUNDS} rounds")

    async def release(self) -> list[tuple[Released, str]]:
        """What the dispatcher would send now, with its tier."""
        released = [(one, tier) for tier in self.runtime.tiers for one in await self.runtime.store.release(tier, 200)]
        await self.runtime.store.sent([one.id for one, _ in released])
        return released

    async def perform(self, released: Released, tier: str) -> dict[str, str] | None:
        """What the Celery task of a message does; None when there was nothing to do."""
        works: dict[str, Callable[[str, str], Awaitable[dict[str, str]]]] = {
            RUN_TASK: self.runner.run,
            PLAN_TASK: self.duties.plan,
            REVIEW_TASK: self.duties.review,
            END_TASK: self.duties.end,
            RETRY_TASK: self.duties.retry,
            SHARD_TASK: self.duties.close_shard,
            PHASE_TASK: self.duties.open_phase,
            GATHER_TASK: self.duties.gather,
            BATCH_TASK: VendorBatches(self.context, self.runtime.providers).carry,
        }
        with contextlib.suppress(NotOurs):
            return await works[released.task](released.id, tier)
        return None

    async def outcomes(self, job: Job) -> dict[str, Outcome]:
        """The outcomes by subtask id without the job: `step` or `step/item`."""
        found = self.context.archive.outcomes(job)
        return {place.id_in("").removeprefix("/"): outcome async for place, outcome in found}

    async def ledger(self, job_id: str) -> list[LedgerEntry]:
        """In the order in which the calls were made."""
        entries = [entry async for entry in self.client.ledger(await self.client.job(job_id))]
        return sorted(entries, key=lambda entry: (entry.started_at, entry.call_id))

    async def money(self, job_id: str) -> tuple[int, int]:
        """(used, held) of the job's budget, in nano-dollars."""
        _, used, held = await self.runtime.store.quota(job_id)
        return used, held


@contextlib.asynccontextmanager
async def bench(
    valkey: Valkey, folder: Path, config: FleetConfig, *, sim: str | None = None, **environment: Any
) -> AsyncIterator[Bench]:
    """A bench on the simulated provider at `sim`, or on whatever `environment` (`openai_base_url=...`) names."""
    variables = {"openai_api_key": None, "openai_base_url": None, "fleet_broker_url": None} | environment
    address = variables["openai_base_url"] or sim
    assert str(address).startswith("http://127.0.0.1:"), "no test may reach a provider that charges"
    settings = Environment(fleet_redis_url=valkey.url, fleet_blobs=folder / "blobs", fleet_sim_url=sim, **variables)
    runtime = Runtime(settings, config, valkey.url)
    runtime.store.gate_grace_ms = 0
    context = runtime.context(runtime.claims([*runtime.tiers], lambda: 1_000))
    provider = Recording(runtime.providers["openai"])
    runtime.providers["openai"] = provider
    for tier in runtime.tiers:
        await runtime.store.register(tier, "bench", 1_000, 600_000)
    try:
        yield Bench(runtime, context, Runner(context), Duties(context), FleetClient(runtime), provider)
    finally:
        runtime.app.backend.client.connection_pool.disconnect()
        runtime.app.close()
        await runtime.aclose()


def on_bench(
    scenario: Callable[[Bench], Awaitable[None]], valkey: Valkey, folder: Path, config: FleetConfig, **environment: Any
) -> None:
    """Run a scenario on a bench of its own."""

    async def run() -> None:
        async with bench(valkey, folder, config, **environment) as fleet:
            await scenario(fleet)

    asyncio.run(run())


def books(ledger: list[LedgerEntry], charges: list[dict[str, Any]], job_id: str) -> int:
    """The job's nano-dollars, after checking that ledger and charge log agree call by call."""
    charged = {c["call_id"]: c["cost_nano_usd"] for c in charges if str(c["call_id"]).startswith(f"{job_id}/")}
    booked = {entry.call_id: entry.cost_nano_usd for entry in ledger}
    assert len(booked) == len(ledger)
    assert {call: cost for call, cost in booked.items() if cost} == charged, json.dumps(charged)
    return sum(charged.values())
