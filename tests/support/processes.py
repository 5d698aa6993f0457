"""Real worker processes of a fleet for tests: `python -m fleet worker`, watched through the store, ended by their ids."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fleet.config import FleetConfig
from fleet.runtime import NAMESPACE
from tests.support.valkey import Valkey
from tests.support.worker import until

ROOT = Path(__file__).resolve().parents[2]
END_TIMEOUT_S = 30


class FleetProcess:
    """One `python -m fleet ...` on a test's Valkey and simulated provider."""

    def __init__(self, valkey: Valkey, folder: Path, config: FleetConfig, sim: str, *command: str) -> None:
        self.log = folder / f"{'-'.join(command).replace('--', '')}.log"
        (folder / "fleet.yaml").write_text(config.model_dump_json())  # JSON is YAML
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "FLEET_CONFIG": str(folder / "fleet.yaml"),
            "FLEET_REDIS_URL": valkey.url,
            "FLEET_BLOBS": str(folder / "blobs"),
            "FLEET_SIM_URL": sim,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fleet", *command], stdout=log, stderr=log, cwd=folder, env=variables
            )

    def ready(self, valkey: Valkey, tier: str) -> FleetProcess:
        """Wait until it has said that it lives."""
        with valkey.client() as client:
            until(lambda: client.zcard(f"{NAMESPACE}:w:{tier}"), f"the {tier} worker to register", self)
        return self

    def stop(self) -> None:
        """Drain it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(END_TIMEOUT_S)
