"""Owns the measurement of pipelining: how near a job's makespan comes to its critical path: `make bench-pipeline`.

A real embedded fleet runs a job of three steps per item and a review against a server that takes as long over each call as
the prompt says. The latencies are skewed (log-normal), so that a barrier after each step would wait for the slowest item of
each; the critical path is the slowest chain of one item, and the review. Every seed is one run; the last line is the median.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aiohttp import web

from fleet.client import FleetClient
from fleet.config import Environment
from fleet.embedded import EmbeddedFleet
from fleet.jobs import JobSpec, JobStatus
from fleet.runtime import Runtime

ITEMS = 60
SEEDS = range(1, 6)
STEPS = ("nano", "mini", "mini")
MEDIAN_S, SIGMA, LONGEST_S = 0.6, 0.9, 6.0
REVIEW_S = 1.0
_WAIT = re.compile(r"wait (\d+\.\d+) s")
_REVIEW = json.dumps({"verdict": "accept", "result": "done", "rework": [], "gaps": []})


async def answer(request: web.Request) -> web.Response:
    """A chat completion after as many seconds as the prompt says."""
    body = await request.json()
    text = body["messages"][-1]["content"]
    prompt = text if isinstance(text, str) else text[0]["text"]
    schema = body.get("response_format", {}).get("json_schema", {}).get("name")
    found = _WAIT.search(prompt)
    await asyncio.sleep(REVIEW_S if schema == "review" else float(found.group(1)) if found else 0.0)
    message = {"role": "assistant", "content": _REVIEW if schema == "review" else "done"}
    return web.json_response(
        {
            "id": "chatcmpl-pipeline",
            "object": "chat.completion",
            "created": 1_790_000_000,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 55},
        }
    )


def serve(port: int) -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=lambda _: None)


def latencies(seed: int) -> list[list[float]]:
    """Seconds by item and step."""
    drawn = random.Random(seed)
    return [[round(min(LONGEST_S, drawn.lognormvariate(0, SIGMA) * MEDIAN_S), 3) for _ in STEPS] for _ in range(ITEMS)]


def job(seed: int) -> JobSpec:
    names = [f"step{number}" for number in range(len(STEPS))]
    return JobSpec.model_validate(
        {
            "name": f"pipeline {seed}",
            "goal": "measure",
            "items": [{"waits": [f"{wait:.3f}" for wait in waits]} for waits in latencies(seed)],
            "steps": [
                {
                    "id": name,
                    "each": "items",
                    "tier": STEPS[number],
                    "needs": names[number - 1 : number] if number else [],
                    "prompt": "wait {{ item.waits[" + str(number) + "] }} s",
                    "max_output_tokens": 50,
                }
                for number, name in enumerate(names)
            ],
            "review": {"prompt": "Say done.", "rounds": 0, "max_output_tokens": 500},
        }
    )


async def makespan(client: FleetClient, seed: int) -> float:
    """Seconds from submission to the job's end."""
    job_id = await client.submit(job(seed))
    async for progress in client.follow(job_id):
        status = progress.status
    assert status is JobStatus.COMPLETED, progress.note
    ended = await client.job(job_id)
    assert ended.finished_at is not None
    return ended.finished_at - ended.created_at


async def measure(environment: Environment) -> list[float]:
    runtime = Runtime.from_environment(environment)
    client = FleetClient(runtime)
    ratios = []
    try:
        await makespan(client, 0)  # connections and caches are warm after it
        print(f"{'seed':>4} {'critical path':>14} {'makespan':>9} {'ratio':>6} {'with barriers':>14}")
        for seed in SEEDS:
            drawn = latencies(seed)
            critical = max(sum(waits) for waits in drawn) + REVIEW_S
            barriers = sum(max(waits[number] for waits in drawn) for number in range(len(STEPS))) + REVIEW_S
            took = await makespan(client, seed)
            ratios.append(took / critical)
            print(
                f"{seed:>4} {critical:>12.2f} s {took:>7.2f} s {took / critical:>6.3f} {barriers:>12.2f} s", flush=True
            )
    finally:
        await runtime.aclose()
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=int, help="only serve, on this port")
    port = parser.parse_args().serve
    if port is not None:
        serve(port)
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.pipeline", "--serve", str(port)])
    try:
        with tempfile.TemporaryDirectory() as folder:
            # The children inherit the environment: it says which server is the provider.
            os.environ |= {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "benchmark"}
            environment = Environment(fleet_state=Path(folder), fleet_blobs=Path(folder) / "blobs")
            fleet = EmbeddedFleet(environment)
            began = time.monotonic()
            fleet.start(lambda name: print(f"starting {name}", flush=True))
            print(f"started in {time.monotonic() - began:.1f} s; {ITEMS} items, {len(STEPS)} steps each", flush=True)
            try:
                ratios = asyncio.run(measure(fleet.environment))
            finally:
                fleet.stop()
    finally:
        server.terminate()
        server.wait()
    print(f"makespan_over_critical_path: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
