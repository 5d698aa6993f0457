"""Owns the measurement of how a rate limit is used and shared: `make bench-limits`.

A real Valkey, coordinator and four workers run jobs against the simulated provider, which keeps a strict sliding minute and
answers 429 over it. Five scenes: a limit on requests and one on tokens, both configured; the same two unknown (`limits: auto`)
and halved half-way; and a job of five subtasks, alone and beside one of 100,000. Use is what was let in over what the limit
allowed in that time (after a change: over the sum of both halves); the vendor counts a call at its input and its highest
output, and so does this. The share of 429s is of all calls that were sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.processes import FailedError, Processes, free_port
from fleet.client import FleetClient
from fleet.config import Environment, Limits
from fleet.control import Control
from fleet.jobs import JobSpec, JobStatus
from fleet.ledger import LedgerEntry
from fleet.runtime import Runtime
from fleet.sim.settings import Latency, SimSettings

#: Seconds over which use is measured; of an unknown limit so long before and after it is halved.
MEASURED_S = 180.0
WORKERS, CONCURRENCY = 4, 60
MODEL, OUTPUT_TOKENS = "model", 400
#: Words of a prompt for the scenes that count tokens: about 1,600 tokens.
WORDS = 1_200
REQUESTS, TOKENS = Limits(requests_per_minute=3_000), Limits(tokens_per_minute=2_000_000)
SMALL, LARGE, PAIRS = 5, 100_000, 5
KEY = "sk-benchmark"


@dataclass(frozen=True)
class Scene:
    """A fleet against a vendor's limit that it knows or not."""

    name: str
    limits: Limits
    auto: bool
    words: int

    @property
    def halved(self) -> Limits:
        return Limits(
            requests_per_minute=_half(self.limits.requests_per_minute),
            tokens_per_minute=_half(self.limits.tokens_per_minute),
        )


SCENES = (
    Scene("3,000 requests a minute", REQUESTS, False, 5),
    Scene("2,000,000 tokens a minute", TOKENS, False, WORDS),
    Scene("3,000 requests a minute, unknown and halved", REQUESTS, True, 5),
    Scene("2,000,000 tokens a minute, unknown and halved", TOKENS, True, WORDS),
)


class Fleet:
    """One fleet of processes and its provider."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes
        self.vendors_limits = folder / "limits.json"

    def start(self, vendors: Limits, ours: Limits) -> Runtime:
        """Start everything; the runtime of a client."""
        for name, limits in (("sim", vendors), ("fleet", ours)):
            (self.folder / f"{name}.yaml").write_text(json.dumps(_config(limits)))
        port = free_port()
        settings = SimSettings(
            port=port,
            api_key=KEY,
            limits_file=self.vendors_limits,
            latency={MODEL: Latency(base_s=0.8, per_output_token_s=0, per_1k_input_s=0)},
        )
        sim = (sys.executable, "-m", "fleet.sim", settings.model_dump_json(), str(self.folder / "sim.yaml"))
        self.processes.start("provider", *sim)
        url = self.processes.start_store()
        os.environ |= {
            "FLEET_REDIS_URL": url,
            "FLEET_CONFIG": str(self.folder / "fleet.yaml"),
            "FLEET_BLOBS": str(self.folder / "blobs"),
            "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "OPENAI_API_KEY": KEY,
        }
        self.processes.start("coordinator", sys.executable, "-m", "fleet", "coordinator")
        for number in range(WORKERS):
            self.processes.start(f"worker {number}", sys.executable, "-m", "fleet", "worker", "--tier", "nano")
        with redis.Redis.from_url(url) as store:
            self.processes.until_registered(store, {"coordinator": 1, "nano": WORKERS})
        return Runtime.from_environment(Environment())

    def change(self, limits: Limits) -> None:
        """Let the vendor allow something else from now on."""
        draft = self.vendors_limits.with_suffix(".draft")
        draft.write_text(json.dumps({MODEL: limits.model_dump()}))
        draft.replace(self.vendors_limits)


async def use(scene: Scene, fleet: Fleet, runtime: Runtime) -> tuple[float, float]:
    """(Use of the limit, share of 429s)."""
    client = FleetClient(runtime)
    minutes = MEASURED_S / 60
    a_minute = scene.limits.requests_per_minute or 3_000
    job_id = await client.submit(_job("steady", round(a_minute * minutes * 2.5), scene.words))
    began = await _first_call(client, job_id)
    allowed = _allowed(scene.limits) * minutes
    await _until(fleet, client, job_id, began + MEASURED_S, scene.name)
    ended = began + MEASURED_S
    if scene.auto:
        fleet.change(scene.halved)
        ended += MEASURED_S
        allowed += _allowed(scene.halved) * minutes
        await _until(fleet, client, job_id, ended, f"{scene.name} (halved)")
    await Control(runtime).cancel(job_id)
    let_in = refused = 0.0
    calls = 0
    async for entry in client.ledger(await client.job(job_id)):
        if began <= entry.started_at <= ended:
            calls += 1
            refused += entry.reason == "rate_limit"
            let_in += 0 if entry.reason == "rate_limit" else _counted(entry, scene.limits)
    return let_in / allowed, refused / calls


async def slowdown(fleet: Fleet, runtime: Runtime) -> float:
    """The makespan of a small job of one tenant beside a large one of another, over its makespan alone."""
    client = FleetClient(runtime)
    alone = [await _makespan(client, "small") for _ in range(PAIRS)]
    large = await client.submit(_job("large", LARGE, 5), tenant="other")
    began = await _first_call(client, large)
    await _until(fleet, client, large, began + 10, "a large job runs")
    beside = [await _makespan(client, "small") for _ in range(PAIRS)]
    await Control(runtime).cancel(large)
    print("alone  " + " ".join(f"{took:.2f}" for took in alone) + " s")
    print("beside " + " ".join(f"{took:.2f}" for took in beside) + " s")
    return statistics.median(beside) / statistics.median(alone)


async def _makespan(client: FleetClient, name: str) -> float:
    job_id = await client.submit(_job(name, SMALL, 5))
    async for progress in client.follow(job_id):
        status = progress.status
    if status is not JobStatus.COMPLETED:
        raise FailedError(f"The job of {SMALL} subtasks is {status}.")
    job = await client.job(job_id)
    return (job.finished_at or 0.0) - job.created_at


async def _first_call(client: FleetClient, job_id: str) -> float:
    """Unix seconds of the first call that was answered, less what an answer takes."""
    deadline = time.time() + 60
    while time.time() < deadline:
        started = [entry.started_at async for entry in client.ledger(await client.job(job_id))]
        if started:
            return min(started)
        await asyncio.sleep(0.1)
    raise FailedError("No call was made within a minute.")


async def _until(fleet: Fleet, client: FleetClient, job_id: str, moment: float, what: str) -> None:
    while (left := moment - time.time()) > 0:
        fleet.processes.check()
        progress = await client.progress(await client.job(job_id))
        print(f"\r{what}: {progress.final:,} done, {left:.0f} s left  ", end="", file=sys.stderr, flush=True)
        await asyncio.sleep(min(1.0, left))
    print(file=sys.stderr)


def _counted(entry: LedgerEntry, limits: Limits) -> float:
    return 1 if limits.requests_per_minute else entry.usage.input_tokens + OUTPUT_TOKENS


def _allowed(limits: Limits) -> int:
    return limits.requests_per_minute or limits.tokens_per_minute or 0


def _half(limit: int | None) -> int | None:
    return None if limit is None else limit // 2


def _job(name: str, items: int, words: int) -> JobSpec:
    step = {"id": "do", "each": "items", "tier": "nano", "max_output_tokens": OUTPUT_TOKENS}
    prompt = "Number {{ item.n }}. " + "Some words to be read. " * (words // 5)
    steps = [step | {"prompt": prompt}]
    return JobSpec.model_validate({"name": name, "items": [{"n": n} for n in range(items)], "steps": steps})


def _config(limits: Limits) -> dict[str, Any]:
    model = {"context_tokens": 100_000, "price": {"input": 1, "output": 1}, "limits": limits.model_dump()}
    tier = {"model": MODEL, "concurrency": CONCURRENCY, "background": "never"}
    return {"models": {MODEL: model}, "tiers": dict.fromkeys(("nano", "mini", "flagship"), tier)}


@contextmanager
def _fleet(vendors: Limits, ours: Limits) -> Iterator[tuple[Fleet, Runtime]]:
    with tempfile.TemporaryDirectory() as name:
        processes = Processes(Path(name))
        fleet = Fleet(Path(name), processes)
        try:
            yield fleet, fleet.start(vendors, ours)
        except FailedError as error:
            sys.exit(f"\n{error}\n{processes.last_words()}")
        finally:
            processes.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", type=int, help="only this one, from 1; 5 is that of the small job")
    only = parser.parse_args().scene
    uses: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for number, scene in enumerate(SCENES, 1):
        if only in (None, number):
            with _fleet(scene.limits, Limits(auto=True) if scene.auto else scene.limits) as (fleet, runtime):
                used, refused = asyncio.run(_closing(runtime, use(scene, fleet, runtime)))
            print(f"{scene.name}: {used:.3f} used, {refused:.4f} of the calls refused", flush=True)
            uses[scene.auto].append((used, refused))
    for auto, name in ((False, "limit"), (True, "auto")):
        if uses[auto]:
            print(f"{name}_use: {min(used for used, _ in uses[auto]):.3f}")
            print(f"{name}_429: {max(refused for _, refused in uses[auto]):.5f}")
    if only in (None, len(SCENES) + 1):
        with _fleet(Limits(), Limits()) as (fleet, runtime):
            print(f"small_job_slowdown: {asyncio.run(_closing(runtime, slowdown(fleet, runtime))):.3f}")


async def _closing(runtime: Runtime, work: Any) -> Any:
    try:
        return await work
    finally:
        await runtime.aclose()


if __name__ == "__main__":
    main()
