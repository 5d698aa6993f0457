"""Owns the measurement of the HTTP API: `make bench-api`.

The synchronous path (`POST /v1/chat/completions`) beside LiteLLM's proxy, each in one process before the same mock provider and
asked by the same client: what a call takes longer than one to the provider itself, one caller at a time, and how many answers a
second they give to 200 callers. Then what `POST /v1/jobs` takes with 200 callers, each job on the store's disk before its 202.
The rows run in turn, `--rounds` times over; figures are of medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import redis

from benchmarks.bench import LIMITS
from benchmarks.peers.call import MOST_TOKENS, PROMPT
from benchmarks.processes import FailedError, Processes, free_port
from benchmarks.rows import OURS, PROXY
from fleet.keys import Keys
from fleet.runtime import NAMESPACE
from queues.link import Link

#: Seconds that the provider takes for an answer; those of a window; and before it.
LATENCY_S, WINDOW_S, WARM_UP_S = 0.05, 10.0, 3.0
CALLERS, CALLS, SUBMITS = 200, 200, 2_000
ROUNDS = 5
PATIENCE_S = 60.0
JOB = {"name": "bench", "items": ["a", "b"], "steps": [{"id": "do", "each": "items", "tier": "nano", "prompt": "x"}]}


@dataclass(frozen=True)
class Target:
    """Who is asked, under which model's name and with which key."""

    name: str
    url: str
    model: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def body(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": MOST_TOKENS,
        }


class Scene:
    """The provider, and before it the fleet with its API, and the proxy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes = Processes(folder)

    async def start(self) -> tuple[Target, Target, Target]:
        """The provider itself, the fleet, the proxy. FailedError when one does not come up."""
        port = free_port()
        latency = ("--latency", str(LATENCY_S))
        self.processes.start("provider", str(OURS), "-m", "benchmarks.mock_openai", "--port", str(port), *latency)
        self.processes.until_open("provider", port)
        provider = Target("the provider itself", f"http://127.0.0.1:{port}/v1", "mock", "none")
        return provider, await self._fleet(provider), self._proxy(provider)

    async def _fleet(self, provider: Target) -> Target:
        url = self.processes.start_store()
        with redis.Redis.from_url(url) as store:
            store.config_set("appendfsync", "always")  # as `fleet up` has it
        model = {"context_tokens": 100_000, "price": {"input": 1, "output": 1}, "limits": LIMITS}
        tier = {"model": "mock", "background": "never", "concurrency": 1_000}
        config = {"models": {"mock": model}, "tiers": dict.fromkeys(("nano", "mini", "flagship"), tier)}
        (self._folder / "fleet.yaml").write_text(json.dumps(config))
        environment = {
            "FLEET_REDIS_URL": url,
            "FLEET_CONFIG": str(self._folder / "fleet.yaml"),
            "FLEET_BLOBS": str(self._folder / "blobs"),
            "OPENAI_BASE_URL": provider.url,
            "OPENAI_API_KEY": "none",
        }
        port = free_port()
        commands = (
            ("coordinator", "coordinator"),
            ("worker", "worker", "--tier", "nano"),
            ("api", "api", "--port", str(port)),
        )
        for name, *words in commands:
            self.processes.start(name, str(OURS), "-m", "fleet", *words, environment=environment)
        with redis.Redis.from_url(url) as store:
            self.processes.until_registered(store, {"coordinator": 1, "nano": 1})
        self.processes.until_open("api", port)
        link = Link.from_url(url)
        try:
            _, key = await Keys(link, NAMESPACE).create("default", ("submit", "read"), "bench", 0.0)
        finally:
            await link.aclose()
        return Target("tierfleet", f"http://127.0.0.1:{port}/v1", "nano", key)

    def _proxy(self, provider: Target) -> Target:
        port, key = free_port(), f"sk-{secrets.token_hex(16)}"
        parameters = {"model": "openai/mock", "api_base": provider.url, "api_key": "none"}
        config = self._folder / "litellm.yaml"
        config.write_text(json.dumps({"model_list": [{"model_name": "mock", "litellm_params": parameters}]}))
        command = (part.format(port=port, config=config) for part in PROXY.command)
        environment = dict(PROXY.environment) | {"LITELLM_MASTER_KEY": key}
        self.processes.start("proxy", *command, environment=environment)
        self.processes.until_open("proxy", port)
        return Target("LiteLLM's proxy", f"http://127.0.0.1:{port}/v1", "mock", key)


async def latencies(target: Target) -> list[float]:
    """Milliseconds of calls, one after the other."""
    found = []
    async with aiohttp.ClientSession(headers=target.headers) as session:
        for number in range(CALLS + 20):
            start = time.perf_counter()
            await _call(session, target)
            if number >= 20:
                found.append(1000 * (time.perf_counter() - start))
    return found


async def rate(target: Target) -> float:
    """Answers a second to many callers, each of whom asks again as soon as it has one."""
    answered = 0
    counting = False
    ends = time.monotonic() + WARM_UP_S + WINDOW_S

    async def caller(session: aiohttp.ClientSession) -> None:
        nonlocal answered
        while time.monotonic() < ends:
            await _call(session, target)
            answered += counting

    async with aiohttp.ClientSession(headers=target.headers, connector=aiohttp.TCPConnector(limit=0)) as session:
        callers = [asyncio.create_task(caller(session)) for _ in range(CALLERS)]
        await asyncio.sleep(WARM_UP_S)
        counting = True
        await asyncio.sleep(WINDOW_S)
        counting = False
        await asyncio.gather(*callers)
    return answered / WINDOW_S


async def submits(target: Target) -> tuple[list[float], float]:
    """Milliseconds of submits from many callers at once, and submits a second."""
    found: list[float] = []
    left = SUBMITS

    async def caller(session: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            start = time.perf_counter()
            async with session.post(f"{target.url}/jobs", json=JOB) as answer:
                if answer.status != 202:
                    raise FailedError(f"A submit was answered with {answer.status}: {await answer.text()}")
                await answer.read()
            found.append(1000 * (time.perf_counter() - start))

    async with aiohttp.ClientSession(headers=target.headers, connector=aiohttp.TCPConnector(limit=0)) as session:
        start = time.monotonic()
        await asyncio.gather(*(caller(session) for _ in range(CALLERS)))
        return found, SUBMITS / (time.monotonic() - start)


async def _call(session: aiohttp.ClientSession, target: Target) -> None:
    async with session.post(f"{target.url}/chat/completions", json=target.body) as answer:
        if answer.status != 200:
            raise FailedError(f"{target.name} answered with {answer.status}: {await answer.text()}")
        await answer.read()


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


async def measure(folder: Path, rounds: int) -> dict[str, float]:
    """All figures."""
    scene = Scene(folder)
    added: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    try:
        async with asyncio.timeout(PATIENCE_S + rounds * 300):
            provider, fleet, proxy = await scene.start()
            for number in range(rounds):
                alone = statistics.median(await latencies(provider))
                for target in (fleet, proxy):
                    longer = statistics.median(await latencies(target)) - alone
                    added.setdefault(target.name, []).append(longer)
                    rates.setdefault(target.name, []).append(await rate(target))
                    said = f"{longer:.1f} ms more than {alone:.1f}, {rates[target.name][-1]:.0f} answers/s"
                    print(f"[{number + 1}/{rounds}] {target.name}: {said}", flush=True)
            waits, submitted = await submits(fleet)
    except FailedError as error:
        raise FailedError(f"{error}\n{scene.processes.last_words()}") from None
    finally:
        scene.processes.kill()
    medians: Mapping[str, Mapping[str, float]] = {
        what: {name: statistics.median(values) for name, values in found.items()}
        for what, found in (("added", added), ("rates", rates))
    }
    return {
        "added_latency_p50_ms": medians["added"][fleet.name],
        "added_latency_p50_ms_litellm": medians["added"][proxy.name],
        "requests_per_s": medians["rates"][fleet.name],
        "requests_per_s_litellm": medians["rates"][proxy.name],
        "requests_vs_litellm": medians["rates"][fleet.name] / medians["rates"][proxy.name],
        "submit_p50_ms": statistics.median(waits),
        "submit_p99_ms": percentile(waits, 0.99),
        "submits_per_s": submitted,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the HTTP API beside LiteLLM's proxy.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    os.environ.pop("FLEET_REDIS_URL", None)
    with tempfile.TemporaryDirectory(prefix="bench-api-") as folder:
        for name, value in asyncio.run(measure(Path(folder), rounds)).items():
            print(f"{name}: {value:.3f}")


if __name__ == "__main__":
    main()
