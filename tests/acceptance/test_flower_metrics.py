"""Flower behind a password: scrapers, which have none, find its metrics at an address of their own, and nothing else there."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from tests.support.processes import FleetProcess
from tests.support.sim import fleet_config
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until


def _status(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_metrics_need_no_password_where_nothing_else_is_shown(valkey: Valkey, tmp_path: Path) -> None:
    port, metrics = free_port(), free_port()
    more = {"FLEET_METRICS_ADDRESS": f"127.0.0.1:{metrics}", "FLEET_FLOWER_BASIC_AUTH": "ops:a long password"}
    more["FLEET_STATE"] = str(tmp_path / "state")
    words = ("flower", "--port", str(port))
    flower = FleetProcess(valkey, tmp_path, fleet_config(), "http://127.0.0.1:9/v1", *words, **more)
    try:
        until(lambda: {port, metrics} <= flower.listens_on(), "Flower to listen", flower, 120)
        assert _status(f"http://127.0.0.1:{port}/metrics") == (401, "")
        status, text = _status(f"http://127.0.0.1:{metrics}/metrics")
        assert status == 200
        assert "flower_worker_online" in text
        assert "process_cpu_seconds_total" in text
        for path in ("/", "/tasks", "/api/tasks", "/api/workers"):
            assert _status(f"http://127.0.0.1:{metrics}{path}")[0] == 404
    finally:
        flower.stop()
