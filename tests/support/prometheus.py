"""Debian's Prometheus and promtool for tests: a real server on a loopback port, ended by its id, and what it is asked."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.valkey import free_port
from tests.support.worker import until

ROOT = Path(__file__).resolve().parents[2]


def program(name: str) -> str:
    """The path of a program of Debian's package `prometheus`; the test fails without it."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"There is no {name} on this machine; `apt-get install prometheus` brings it.")
    return found


def promtool(*arguments: str) -> None:
    """Run promtool; it has to find nothing wrong."""
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A running server; `config` and its data are in `folder`."""

    def __init__(self, folder: Path, config: Path) -> None:
        port = free_port()
        self.log = folder / "prometheus.log"
        self._url = f"http://127.0.0.1:{port}/api/v1/"
        command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stdout=log, stderr=log
            )
        until(self._answers, "Prometheus to answer", self)

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of its HTTP API."""
        with urllib.request.urlopen(f"{self._url}{path}?{urllib.parse.urlencode(query)}", timeout=10) as page:
            return json.loads(page.read())["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The instant vector of an expression: labels and value."""
        return [(one["metric"], float(one["value"][1])) for one in self.ask("query", query=expression)["result"]]

    def value(self, expression: str) -> float | None:
        """The one value of an expression, None where it has none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def _answers(self) -> bool:
        try:
            self.ask("status/runtimeinfo")
        except OSError:
            return False
        return True
