"""Probes of real processes: while they start, work, stand still, drain, and after they have gone."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.bench import config
from tests.support.cli import Folder
from tests.support.processes import FleetProcess
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until

ROOT = Path(__file__).resolve().parents[2]
JOB = '{name: one, items: [a], steps: [{id: topic, each: items, tier: nano, prompt: "{{ item }}"}]}'


class Probed:
    """A process with a health folder."""

    def __init__(self, valkey: Valkey, folder: Path, vendor: str, *words: str) -> None:
        self.folder = folder / "health" / words[-1]
        more = {"FLEET_HEALTH": str(self.folder), "OPENAI_BASE_URL": vendor, "OPENAI_API_KEY": "none"}
        self.process = FleetProcess(valkey, folder, config(), "http://127.0.0.1:9/v1", *words, **more)

    def probe(self, what: str) -> int:
        """What `python -m fleet.health` ends with."""
        variables = {"FLEET_HEALTH": str(self.folder), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "fleet.health", what]
        return subprocess.run(command, env=variables, capture_output=True, check=False).returncode

    def until(self, what: str, code: int) -> None:
        until(lambda: self.probe(what) == code, f"{what} to be {code}", self.process, 60)

    def signal(self, number: signal.Signals) -> None:
        self.process.process.send_signal(number)


class Vendor:
    """Answers nobody before it is told to."""

    def __init__(self) -> None:
        self.asked, self.may_answer = threading.Event(), threading.Event()


@contextmanager
def vendor() -> Iterator[tuple[Vendor, str]]:
    holding = Vendor()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            holding.asked.set()
            holding.may_answer.wait(60)
            self.send_error(400)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield holding, f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        holding.may_answer.set()
        server.shutdown()
        server.server_close()


def test_a_worker_is_alive_until_its_loop_hangs_and_ready_until_it_is_asked_to_end(
    valkey: Valkey, tmp_path: Path
) -> None:
    started: list[Probed] = []
    with vendor() as (holding, url):
        try:
            for words in (("coordinator",), ("worker", "--tier", "nano")):
                started.append(Probed(valkey, tmp_path, url, *words))
            coordinator, nano = started
            for one in started:
                one.until("ready", 0)
                assert one.probe("live") == 0

            coordinator.signal(signal.SIGSTOP)
            coordinator.until("live", 1)
            assert coordinator.probe("ready") == 1
            assert nano.probe("live") == 0, "each has a folder of its own"
            coordinator.signal(signal.SIGCONT)
            coordinator.until("ready", 0)

            (tmp_path / "job.yaml").write_text(JOB)
            variables = {"FLEET_REDIS_URL": valkey.url, "FLEET_BLOBS": str(tmp_path / "blobs")}
            variables["FLEET_CONFIG"] = str(tmp_path / "fleet.yaml")
            submitted = Folder(tmp_path, variables).fleet("submit", "job.yaml")
            assert submitted.code == 0, submitted.err
            assert holding.asked.wait(30), "the call"
            nano.signal(signal.SIGTERM)
            nano.until("ready", 1)
            assert nano.process.process.poll() is None, "it drains"
            assert nano.probe("live") == 0
            holding.may_answer.set()
            assert nano.process.process.wait(30) == 0
        finally:
            for one in started:
                one.signal(signal.SIGCONT)
                one.process.stop()
    assert nano.probe("ready") == 1


def test_the_api_is_ready_while_it_serves(valkey: Valkey, tmp_path: Path) -> None:
    port = free_port()
    api = Probed(valkey, tmp_path, "http://127.0.0.1:9/v1", "api", "--port", str(port))
    try:
        api.until("ready", 0)
        assert port in api.process.listens_on()
        assert api.probe("live") == 0
        api.signal(signal.SIGTERM)
        assert api.process.process.wait(30) in (0, -signal.SIGTERM)
        assert api.probe("ready") == 1
    finally:
        api.process.stop()


@pytest.mark.parametrize("words", [("coordinator",), ("api",)])
def test_a_folder_that_cannot_be_had_ends_the_process_with_a_sentence(
    valkey: Valkey, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    more = {"FLEET_HEALTH": str(tmp_path / "file" / "folder")}
    process = FleetProcess(valkey, tmp_path, config(), "http://127.0.0.1:9/v1", *words, **more)
    try:
        assert process.process.wait(60) == 2
        assert "FLEET_HEALTH is " in process.log.read_text()
    finally:
        process.stop()
