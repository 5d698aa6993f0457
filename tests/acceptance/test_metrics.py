"""Real processes and their metrics: while a job waits and runs, when they are told to end, and when none were asked for."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.cli import Folder
from tests.support.processes import FleetProcess
from tests.support.sim import RunningSim, fleet_config, running_sim
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until

ITEMS = 5
CANARY = "please-refund-canary"
JOB = f"""\
name: job-name-canary
items: [{", ".join(f"{CANARY}-{i}" for i in range(ITEMS))}]
steps:
  - {{id: step_canary, each: items, tier: nano, prompt: "prompt-canary {{{{ item }}}}"}}
"""


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[RunningSim]:
    with running_sim(tmp_path / "sim") as running:
        yield running


@contextmanager
def process(valkey: Valkey, folder: Path, sim: str, *command: str, **more: str) -> Iterator[FleetProcess]:
    started = FleetProcess(valkey, folder, fleet_config(), sim, *command, **more)
    try:
        yield started.ready(valkey, "coordinator" if command == ("coordinator",) else command[-1])
    finally:
        started.stop()


def test_coordinator_and_worker_show_their_metrics_during_a_job_and_end_with_them(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    port = free_port()
    metrics = {"FLEET_METRICS_ADDRESS": f"127.0.0.1:{port}"}
    folder = Folder(
        tmp_path,
        {
            "FLEET_CONFIG": str(tmp_path / "fleet.yaml"),
            "FLEET_REDIS_URL": valkey.url,
            "FLEET_BLOBS": str(tmp_path / "blobs"),
            "FLEET_SIM_URL": sim.url,
        },
    )
    folder.write("job.yaml", JOB)
    with process(valkey, tmp_path, sim.url, "coordinator", **metrics) as coordinator:
        until(lambda: coordinator.listens_on() == {port}, "the endpoint", coordinator)
        submitted = folder.fleet("submit", "job.yaml")
        assert submitted.code == 0, submitted.err
        job_id = submitted.out.strip()
        # No worker of its tier lives yet: the job is planned and waits.
        until(lambda: _shown(port).get(("tierfleet_backlog_subtasks", "nano")) == ITEMS, "the plan", coordinator)
        assert _shown(port)["tierfleet_workers", "nano"] == 0
        # What a worker would be started for.
        assert _admissible(port) == _shown(port)["tierfleet_admissible_subtasks", "nano"] == ITEMS
        its = free_port()
        own = {"FLEET_METRICS_ADDRESS": f"127.0.0.1:{its}"}
        with process(valkey, tmp_path, sim.url, "worker", "--tier", "nano", **own) as worker:
            watched = folder.fleet("jobs", "watch", job_id)
            assert watched.code == 0, watched.out + watched.err
            shown = _shown(port)
            assert shown["tierfleet_backlog_subtasks", "nano"] == 0
            assert shown["tierfleet_workers", "nano"] == 1
            assert shown["tierfleet_capacity_subtasks", "nano"] == fleet_config().tiers["nano"].concurrency
            assert worker.listens_on() == {its}
            assert not set(_shown(its)) & {("tierfleet_workers", "nano"), ("tierfleet_backlog_subtasks", "nano")}
            assert _shown(its)["tierfleet_ready_to_start_seconds_count", "nano"] == ITEMS
            assert _shown(its)["tierfleet_spent_dollars_total", "nano"] > 0
            text = _scraped(its) + _scraped(port)
        for canary in (job_id, "canary", str(tmp_path), valkey.url):
            assert canary not in text
        coordinator.process.send_signal(signal.SIGTERM)
        assert coordinator.process.wait(30) == 0
    with pytest.raises(urllib.error.URLError):
        _scraped(port)


def test_the_api_shows_its_own_metrics_beside_its_doors_and_drains(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    port, its = free_port(), free_port()
    own = {"FLEET_METRICS_ADDRESS": f"127.0.0.1:{its}"}
    api = FleetProcess(valkey, tmp_path, fleet_config(), sim.url, "api", "--port", str(port), **own)
    try:
        until(lambda: api.listens_on() == {port, its}, "both ports", api, timeout=90)
        for path, expected in (
            ("/healthz", 200),
            ("/v1/jobs/canary-1", 404),
            ("/canary-2", 404),
            ("/v1/jobs/canary-3", 404),
        ):
            assert _status(port, path) == expected
        text = _scraped(its)
        assert "canary" not in text
        found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        values = {(s.name, *s.labels.values()): s.value for s in found}
        assert values["tierfleet_http_requests_total", "2xx"] == 1
        assert values["tierfleet_http_requests_total", "4xx"] == 3
        assert values["tierfleet_http_answer_seconds_count", "/v1/jobs/{job_id}"] == 2
        assert values["tierfleet_http_answer_seconds_count", "none"] == 1
        api.process.send_signal(signal.SIGTERM)
        assert api.process.wait(30) in (0, -signal.SIGTERM), "uvicorn sends itself what it was ended by"
    finally:
        api.stop()


def test_without_an_address_no_port_is_opened(valkey: Valkey, tmp_path: Path) -> None:
    with process(valkey, tmp_path, "http://127.0.0.1:1/v1", "coordinator") as coordinator:
        assert coordinator.listens_on() == set()
        coordinator.process.send_signal(signal.SIGTERM)
        assert coordinator.process.wait(30) == 0
    assert "metrics at http" not in coordinator.log.read_text()


def test_an_address_that_is_taken_is_said_in_the_log_and_costs_the_fleet_nothing(
    valkey: Valkey, tmp_path: Path
) -> None:
    metrics = {"FLEET_METRICS_ADDRESS": f"127.0.0.1:{valkey.port}"}
    with process(valkey, tmp_path, "http://127.0.0.1:1/v1", "coordinator", **metrics) as coordinator:
        until(lambda: "address already in use" in coordinator.log.read_text(), "the log", coordinator)
        assert coordinator.listens_on() == set()
        coordinator.process.send_signal(signal.SIGTERM)
        assert coordinator.process.wait(30) == 0


def _status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def _scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return str(page.read().decode())


def _admissible(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/admissible/nano", timeout=10) as page:
        return int(json.load(page)["admissible"])


def _shown(port: int) -> dict[tuple[str, str], float]:
    """(name, tier) -> value."""
    families = text_string_to_metric_families(_scraped(port))
    return {(s.name, s.labels["tier"]): s.value for family in families for s in family.samples if "tier" in s.labels}
