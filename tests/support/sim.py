"""A simulated provider for tests: the real server as a subprocess, ended with the block that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.config import FleetConfig
from fleet.sim.settings import SimSettings

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0

#: The models of the shipped configuration, without limits unless a test sets some.
MODELS = ("gpt-5.4-nano", "gpt-5.4-mini", "gpt-5.4")


@dataclass(frozen=True)
class RunningSim:
    """A simulated provider that answers at `url` (base URL with `/v1`) and bills to `charges_path`."""

    url: str
    charges_path: Path
    process: subprocess.Popen[bytes]

    def charges(self) -> list[dict[str, Any]]:
        """The lines of the charge log so far."""
        if not self.charges_path.exists():
            return []
        return [json.loads(line) for line in self.charges_path.read_text().splitlines()]

    def charge_of(self, call_id: str) -> dict[str, Any]:
        found = [charge for charge in self.charges() if charge["call_id"] == call_id]
        assert len(found) == 1, f"{len(found)} charges for {call_id}"
        return found[0]


def fleet_config(**limits: int) -> FleetConfig:
    """The shipped models and tiers, each model with the given limits (`requests_per_minute=...`)."""
    return FleetConfig.model_validate(
        {
            "models": {name: {"context_tokens": 400_000, "limits": limits} for name in MODELS},
            "tiers": {
                "nano": {"model": MODELS[0], "escalate_to": "mini"},
                "mini": {"model": MODELS[1], "escalate_to": "flagship"},
                "flagship": {"model": MODELS[2]},
            },
        }
    )


@contextmanager
def running_sim(
    directory: Path, settings: SimSettings | None = None, config: FleetConfig | None = None, log: Path | None = None
) -> Iterator[RunningSim]:
    """Starts a simulated provider that keeps its files in `directory`, waits until it answers, and ends it.

    Without settings it is 100 times faster than life and never breaks a schema.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ready, charges, config_file = directory / "ready", directory / "charges.jsonl", directory / "fleet.json"
    ready.unlink(missing_ok=True)
    config_file.write_text((config or fleet_config()).model_dump_json())
    given = settings or SimSettings(speed=100, invalid_output=dict.fromkeys(MODELS, 0.0))
    given = given.model_copy(update={"ready_file": ready, "charges": given.charges or charges})
    with (log or Path(os.devnull)).open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "fleet.sim", given.model_dump_json(), str(config_file)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=out if log else None,
        )
    try:
        yield RunningSim(_await_ready(ready, process), given.charges or charges, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(ready: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready.exists():
        assert process.poll() is None, f"the simulated provider ended with {process.returncode}"
        assert time.monotonic() < deadline, "the simulated provider did not start in time"
        time.sleep(0.02)
    return ready.read_text()
