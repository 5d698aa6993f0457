"""Owns the fleets that several measurements start: with the simulated provider over HTTP, or with one that answers at once.

A fleet is what the environment of this process says from then on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from benchmarks.processes import Processes, free_port
from fleet.config import Environment
from fleet.runtime import Runtime
from fleet.sim.settings import SimSettings

KEY = "sk-benchmark"


def simulated(
    processes: Processes, folder: Path, config: Mapping[str, Any], sim: Mapping[str, Any], workers: Mapping[str, int]
) -> Runtime:
    """A fleet whose models are the simulated provider's, with so many workers of each tier, and the runtime of a client.

    `sim`: of `SimSettings`, what is to be other than its defaults. Raises FailedError: it does not come up.
    """
    port = free_port()
    settings = SimSettings.model_validate({"port": port, "api_key": KEY, **sim})
    url = processes.start_store()
    _configure(folder, config, url)
    os.environ |= {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": KEY}
    provider = (sys.executable, "-m", "fleet.sim", settings.model_dump_json(), str(folder / "fleet.yaml"))
    processes.start("provider", *provider)
    processes.start("coordinator", sys.executable, "-m", "fleet", "coordinator")
    for tier, count in workers.items():
        for number in range(count):
            processes.start(f"{tier} {number}", sys.executable, "-m", "fleet", "worker", "--tier", tier)
    return _runtime(processes, url, {"coordinator": 1, **workers})


def bare(
    processes: Processes, folder: Path, config: Mapping[str, Any], slots: int, broker: str | None = None
) -> Runtime:
    """A coordinator and one worker of nano whose calls are answered in it at once; `broker`: instead of the store.

    Raises FailedError: it does not come up.
    """
    url = processes.start_store()
    _configure(folder, config, url)
    os.environ |= {"FLEET_BROKER_URL": broker or url, "FLEET_SIM_URL": "http://127.0.0.1:1/v1"}
    for tier, concurrency in (("coordinator", 20), ("nano", slots)):
        processes.start(tier, sys.executable, "-m", "benchmarks.scale_worker", tier, str(concurrency))
    return _runtime(processes, url, {"coordinator": 1, "nano": 1})


def _configure(folder: Path, config: Mapping[str, Any], store: str) -> None:
    (folder / "fleet.yaml").write_text(json.dumps(config))
    os.environ |= {
        "FLEET_REDIS_URL": store,
        "FLEET_CONFIG": str(folder / "fleet.yaml"),
        "FLEET_BLOBS": str(folder / "blobs"),
    }


def _runtime(processes: Processes, url: str, expected: Mapping[str, int]) -> Runtime:
    with redis.Redis.from_url(url) as store:
        processes.until_registered(store, expected)
    return Runtime.from_environment(Environment())
