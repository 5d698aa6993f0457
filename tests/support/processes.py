"""Real worker processes of a fleet for tests: `python -m fleet worker`, watched through the store, ended by their ids."""

from __future__ import annotations

import contextlib
import ipaddress
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

    def __init__(self, valkey: Valkey, folder: Path, config: FleetConfig, sim: str, *command: str, **more: str) -> None:
        """Start; `more` are variables of its environment."""
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
            **more,
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

    def listens_on(self) -> set[int]:
        """The TCP ports on which it accepts connections."""
        return {port for _, port in listening(self.process.pid)}

    def stop(self) -> None:
        """Drain it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(END_TIMEOUT_S)


def listening(pid: int) -> set[tuple[str, int]]:
    """The TCP addresses and ports on which a process accepts connections."""
    own = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed just now
            own.add(entry.readlink().name)
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            where, state, inode = (line.split()[i] for i in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in own:
                address, _, port = where.partition(":")
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.add((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return found


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found
