"""Owns the measurement of how hard budgets are and how much of them is used: `python -m benchmarks.budgets`.

A real Valkey, coordinator and two workers of 600 calls each against the simulated provider, over HTTP, whose answers are of
unequal length. Three budgets are used up at the same time: a job's, a tenant's of a day, by two jobs, and the fleet's of a
day, by what a third tenant runs beside them. All of it is looked at many times a second, in one script each, so that what is
settled and what is held are of one instant. In the end, when every job is paused, it is compared with the charge log.

`budget_overshoot_nano`: the most that settled + held was over any of the caps, at any look and in the end, or what the charge
log has over a cap; `budget_use`: the share of its cap that the charge log has, of the least used of the three;
`budget_spent_when_exhausted_nano`: what was charged in the seconds after every job was paused.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.processes import FailedError, Processes
from benchmarks.scenes import simulated
from fleet.client import FleetClient
from fleet.jobs import JobSpec, JobStatus
from fleet.prices import NANO_PER_USD
from fleet.runtime import NAMESPACE, Runtime
from fleet.sim.settings import Latency

WORKERS, CONCURRENCY = 2, 600
MODEL = "model"
#: A call takes so long at least: as many are under way as the fleet begins in that time.
CALL_S = 10.0
#: A call may write so much, and writes a quarter of it, more or less.
MOST_OUTPUT = 700
#: Budgets in dollars, and items that would cost more than all of them.
JOB_USD, TENANT_USD, FLEET_USD = 0.25, 0.25, 1.1
ITEMS = 6_000
SAMPLES_S, PATIENCE_S, AFTER_S = 0.02, 900.0, 5.0
WORDS = (
    "invoice",
    "crash",
    "password",
    "export",
    "team",
    "billing",
    "page",
    "slow",
    "login",
    "refund",
    "report",
    "sync",
)
#: Settled and held of the job and of the two days, and calls under way, of one instant.
LOOK = """
local found = {}
local function add(of_it, used, held)
  found[#found + 1] = tonumber(redis.call('HGET', of_it[1], used) or 0)
  found[#found + 1] = tonumber(redis.call('HGET', of_it[2], held) or 0)
end
local today = string.format('%d', math.floor(redis.call('TIME')[1] / 86400))
add({KEYS[1], KEYS[1]}, 'used', 'held')
add({KEYS[2], KEYS[3]}, today, today)
add({KEYS[4], KEYS[5]}, today, today)
found[#found + 1] = redis.call('HLEN', KEYS[6])
return found
"""


@dataclass
class Seen:
    """What the looks have found."""

    looks: int = 0
    overshoot: int = 0
    most_in_flight: int = 0
    last: list[int] = field(default_factory=list)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        processes = Processes(Path(name))
        try:
            figures = asyncio.run(_measured(Path(name), processes))
        except FailedError as error:
            sys.exit(f"\n{error}\n{processes.last_words()}")
        finally:
            processes.stop()
    for figure, value in figures.items():
        print(f"{figure}: {value:.4f}" if isinstance(value, float) else f"{figure}: {value}")


async def _measured(folder: Path, processes: Processes) -> dict[str, float | int]:
    runtime, charges = _start(folder, processes)
    caps = [int(usd * NANO_PER_USD) for usd in (JOB_USD, TENANT_USD, FLEET_USD)]
    try:
        client = FleetClient(runtime)
        job = await client.submit(_job("capped", JOB_USD), tenant="acme")
        others = [await client.submit(_job(f"of bravo {n}"), tenant="bravo") for n in range(2)]
        rest = [await client.submit(_job(f"of charlie {n}"), tenant="charlie") for n in range(2)]
        seen = Seen()
        looking = asyncio.create_task(_look(runtime, job, caps, seen))
        began = time.monotonic()
        await _until_paused(client, [job, *others, *rest], processes)
        seconds = time.monotonic() - began
        spent = _charged(charges)
        await asyncio.sleep(AFTER_S)
        later = _charged(charges)
        looking.cancel()
        groups = (later.get("acme", 0), later.get("bravo", 0), sum(later.values()))
        if seen.last[1::2][:3] != [0, 0, 0]:
            raise FailedError(f"Something is still held: {seen.last}.")
        if tuple(seen.last[:6:2]) != groups:
            raise FailedError(f"The store has settled {seen.last[:6:2]}, the provider charged {groups}.")
        use = [charged / cap for charged, cap in zip(groups, caps, strict=True)]
        return {
            "budget_overshoot_nano": max(
                seen.overshoot, *(sum_ - cap for sum_, cap in zip(groups, caps, strict=True)), 0
            ),
            "budget_use": min(use),
            "budget_use_job": use[0],
            "budget_use_tenant_day": use[1],
            "budget_use_fleet_day": use[2],
            "budget_spent_when_exhausted_nano": sum(later.values()) - sum(spent.values()),
            "budget_calls": sum(1 for _ in charges.open()),
            "budget_calls_in_flight_most": seen.most_in_flight,
            "budget_looks": seen.looks,
            "budget_seconds": seconds,
        }
    finally:
        await runtime.aclose()


def _start(folder: Path, processes: Processes) -> tuple[Runtime, Path]:
    """Start everything; the runtime of a client, and the charge log."""
    tier = {"model": MODEL, "concurrency": CONCURRENCY}
    config = {
        "models": {MODEL: {"context_tokens": 1_000_000, "price": {"input": 0.2, "output": 1}}},
        "tiers": dict.fromkeys(("nano", "mini", "flagship"), tier),
        "tenants": {"bravo": {"usd_per_day": TENANT_USD}},
        "budgets": {"usd_per_day": FLEET_USD},
    }
    charges = folder / "charges.jsonl"
    sim = {
        "charges": charges,
        "latency": {MODEL: Latency(base_s=CALL_S, per_output_token_s=0.002, per_1k_input_s=0)},
        "invalid_output": {MODEL: 0},
    }
    return simulated(processes, folder, config, sim, {"nano": WORKERS}), charges


def _job(name: str, budget_usd: float | None = None) -> JobSpec:
    dice = random.Random(name)  # the same work every time
    items = [{"text": _text(dice)} for _ in range(ITEMS)]
    step = {
        "id": "reply",
        "each": "items",
        "tier": "nano",
        "prompt": "{{ item.text }}",
        "max_output_tokens": MOST_OUTPUT,
    }
    spec: dict[str, Any] = {"name": name, "items": items, "steps": [step], "budget_usd": budget_usd}
    return JobSpec.model_validate(spec)


def _text(dice: random.Random) -> str:
    """One to four sentences, short or long: about as long are the answers."""
    sentences = [dice.choices(WORDS, k=round(dice.lognormvariate(3.2, 0.7)) + 3) for _ in range(dice.randint(1, 4))]
    return " ".join(" ".join(words).capitalize() + "." for words in sentences)


async def _look(runtime: Runtime, job: str, caps: Sequence[int], seen: Seen) -> None:
    """Look until cancelled."""
    pairs = [f"day:{what}:{whom}" for whom in ("bravo", "*") for what in ("used", "held")]
    keys = [f"{NAMESPACE}:{name}" for name in (f"q:{job}", *pairs, "sh")]
    while True:
        seen.last = await runtime.link.execute("EVAL", LOOK, len(keys), *keys, idempotent=True)
        *sums, in_flight = seen.last
        for settled, held, cap in zip(sums[::2], sums[1::2], caps, strict=True):
            seen.overshoot = max(seen.overshoot, settled + held - cap)
        seen.most_in_flight = max(seen.most_in_flight, in_flight)
        seen.looks += 1
        await asyncio.sleep(SAMPLES_S)


async def _until_paused(client: FleetClient, jobs: Sequence[str], processes: Processes) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        processes.check()
        states = [(await client.job(job)) for job in jobs]
        if all(job.status is JobStatus.PAUSED for job in states):
            for job in states:
                print(f"{job.spec.name}: {job.error}", file=sys.stderr)
            return
        if any(job.status.final for job in states) or time.monotonic() > deadline:
            raise FailedError(f"Not every job came to its cap: {[(job.spec.name, str(job.status)) for job in states]}.")
        await asyncio.sleep(0.5)


def _charged(charges: Path) -> dict[str, int]:
    """What the provider has charged, by tenant."""
    found: dict[str, int] = {}
    with charges.open() as lines:
        for line in lines:
            charge = json.loads(line)
            tenant = str(charge["call_id"]).partition(".")[0]
            found[tenant] = found.get(tenant, 0) + charge["cost_nano_usd"]
    return found


if __name__ == "__main__":
    main()
