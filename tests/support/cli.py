"""The real command in a folder of its own, and a whole fleet that stays up for several tests."""

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

ROOT = Path(__file__).resolve().parents[2]
UP_TIMEOUT_S = 150.0
END_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Folder:
    """A working folder and the environment that commands get there: nothing of the caller's but the path."""

    path: Path
    variables: dict[str, str]

    def environment(self) -> dict[str, str]:
        base = {"PATH": os.environ["PATH"], "HOME": str(self.path), "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
        return base | {"FLEET_CONFIG": str(ROOT / "config" / "fleet.yaml")} | self.variables

    def fleet(self, *arguments: str, timeout_s: float = 150.0, **variables: str) -> Ran:
        """Run `fleet ...` to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "fleet", *arguments],
            cwd=self.path,
            env=self.environment() | variables,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def write(self, name: str, content: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[str]]:
        """`fleet up` in this folder until the block ends; SIGTERM drains it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "fleet", "up"],
            cwd=self.path,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            deadline = time.monotonic() + UP_TIMEOUT_S
            while not (self.path / ".fleet" / "fleet.json").exists():
                assert process.poll() is None, process.stdout.read() if process.stdout else ""
                assert time.monotonic() < deadline, "the fleet did not come up in time"
                time.sleep(0.1)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def lines(path: Path) -> list[dict[str, Any]]:
    """A JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def books_agree(out: Path) -> tuple[int, int]:
    """(calls, nano-dollars) after checking that ledger, charge log and receipt agree to the call and the nano-dollar."""
    ledger = {entry["call_id"]: entry["cost_nano_usd"] for entry in lines(out / "ledger.jsonl")}
    charges = lines(out / "charges.jsonl")
    charged = {charge["call_id"]: charge["cost_nano_usd"] for charge in charges}
    assert len(charged) == len(charges), "a call id was charged twice"
    assert {call: cost for call, cost in ledger.items() if cost} == charged
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["cost_nano_usd"] == sum(charged.values())
    assert receipt["calls"] == len(ledger)
    return len(charged), sum(charged.values())
