"""Spans before a collector that others wrote: the rotel agent takes them, and understands them."""

from __future__ import annotations

import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from fleet import traces
from fleet.otlp import Exporter
from fleet.traces import root_of
from tests.support.valkey import free_port
from tests.support.worker import until


def test_a_real_agent_takes_a_jobs_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("rotel")
    assert spec is not None, "the Python package rotel is missing; `make parts` installs it"
    assert spec.origin is not None
    agent = Path(spec.origin).parent / "rotel-agent"
    port, grpc = free_port(), free_port()
    log = tmp_path / "agent.log"
    command = [
        str(agent),
        "start",
        "--otlp-http-endpoint",
        f"127.0.0.1:{port}",
        "--otlp-grpc-endpoint",
        f"127.0.0.1:{grpc}",
    ]
    command += ["--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=tmp_path)
    try:
        until(lambda: _listens(port) or process.poll() is not None, "the agent to listen")
        assert process.poll() is None, log.read_text()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        exporter = Exporter("tierfleet-test")
        traces.record_with(exporter.record)
        try:
            traces.accepted("j1", 1)
            with traces.claimed("subtask", "j1/topic/0", "nano"), traces.inside("chat m", kind="client"):
                pass
        finally:
            traces.record_with(None)
            exporter.close()
        until(lambda: f"{root_of('j1')[0]:032x}" in log.read_text() and "chat m" in log.read_text(), "the spans")
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
