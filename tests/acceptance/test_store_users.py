"""A whole fleet of processes, each with its own user of the store: all of it works, and the server refuses nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.runtime import NAMESPACE
from fleet.sim.settings import SimSettings
from tests.support.cli import Folder
from tests.support.guarded import GuardedValkey
from tests.support.jobs import TRIAGE, tickets
from tests.support.processes import FleetProcess
from tests.support.sim import MODELS, RunningSim, fleet_config, running_sim
from tests.support.valkey import free_port
from tests.support.worker import until
from tests.tours.run import python_tour, stops_of

TIERS = ("nano", "mini", "flagship")
#: Six processes start at once.
START_S = 150
#: What a dead worker held is taken over after seconds.
CONFIG = fleet_config().model_copy(update={"claim_s": 10.0})


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[GuardedValkey]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = GuardedValkey(folder)
    yield server
    server.stop()


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[RunningSim]:
    settings = SimSettings(speed=20, invalid_output={MODELS[0]: 0.1, MODELS[1]: 0.0, MODELS[2]: 0.0})
    with running_sim(tmp_path / "sim", settings) as running:
        yield running


class Processes:
    """The processes of a fleet; every one with the user of its role."""

    def __init__(self, guarded: GuardedValkey, folder: Path, sim: RunningSim) -> None:
        self._guarded, self._folder, self._sim = guarded, folder, sim
        self.running: dict[str, FleetProcess] = {}

    def start(self, name: str, role: str, *command: str) -> FleetProcess:
        started = FleetProcess(
            self._guarded, self._folder, CONFIG, self._sim.url, *command, FLEET_REDIS_URL=self._guarded.url_of(role)
        )
        self.running[name] = started
        return started

    def stop(self) -> None:
        for process in self.running.values():
            process.stop()


@pytest.fixture
def processes(guarded: GuardedValkey, tmp_path: Path, sim: RunningSim) -> Iterator[Processes]:
    fleet = Processes(guarded, tmp_path, sim)
    yield fleet
    fleet.stop()


@pytest.mark.timeout(400)  # the whole tour of the vendor's client, among other things
def test_a_fleet_works_and_is_refused_nothing(
    guarded: GuardedValkey, tmp_path: Path, sim: RunningSim, processes: Processes
) -> None:
    processes.start("coordinator", "coordinator", "coordinator")
    for tier in TIERS:
        processes.start(tier, "worker", "worker", "--tier", tier)
    port = free_port()
    api = processes.start("api", "api", "api", "--port", str(port))
    flower = processes.start("flower", "flower", "flower", "--port", str(free_port()))
    with guarded.client() as store:
        for tier in ("coordinator", *TIERS):
            started = processes.running[tier]
            until(lambda tier=tier: store.zcard(f"{NAMESPACE}:w:{tier}"), f"{tier} to register", started, START_S)  # type: ignore[misc]
    for listening in (api, flower):
        until(listening.listens_on, "API and Flower to listen", listening, START_S)
    operator = Folder(
        tmp_path,
        {
            "FLEET_CONFIG": str(tmp_path / "fleet.yaml"),
            "FLEET_REDIS_URL": guarded.url_of("operator"),
            "FLEET_BLOBS": str(tmp_path / "blobs"),
            "FLEET_SIM_URL": sim.url,
        },
    )

    def said(*arguments: str) -> str:
        ran = operator.fleet(*arguments)
        assert ran.code == 0, ran.out + ran.err
        return ran.out

    key = json.loads(said("keys", "create", "--tenant", "acme", "--scope", "admin", "-o", "json"))["key"]
    assert stops_of(python_tour(f"http://127.0.0.1:{port}/v1", key, "--model", "mini")), "calls, uploads, batches"

    operator.write("triage.yaml", TRIAGE)
    operator.write("tickets.jsonl", tickets(300))
    job = said("submit", "triage.yaml").strip()
    # A worker that dies leaves messages and claims behind, which others take over; until then the job cannot end.
    nano = processes.running["nano"]
    with guarded.client() as store:
        until(lambda: int(store.hget(f"{NAMESPACE}:c:{job}", "nano:running") or 0) > 0, "work under way", nano)
    nano.process.send_signal(signal.SIGKILL)
    nano.process.wait()
    said("jobs", "pause", job)
    said("jobs", "resume", job)
    processes.start("nano", "worker", "worker", "--tier", "nano")
    assert "completed" in said("jobs", "watch", job)
    operator.write("tickets.jsonl", tickets(2_000))  # more than are done before the next command is there
    other = said("submit", "triage.yaml").strip()
    said("jobs", "cancel", other)
    for command in ("jobs list", f"jobs results {job}", f"jobs cost {job}", "limits", "webhooks secret", "webhooks list",
                    "keys list", "keys audit --tenant acme"):  # fmt: skip
        said(*command.split())
    assert "failed" not in {one["state"] for one in json.loads(said("doctor", "-o", "json"))}
    processes.stop()
    assert guarded.refusals() == []
    for process in processes.running.values():
        assert "NOPERM" not in process.log.read_text()
