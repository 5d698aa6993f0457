"""Processes of a fleet on a real RabbitMQ that are killed, or whose broker is: jobs end whole, and are paid for once."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from fleet.config import FleetConfig
from fleet.intake import INTAKE_TASK
from fleet.ledger import WORKER_LOST
from fleet.runtime import NAMESPACE
from fleet.sim.settings import Latency, SimSettings
from queues.app import QueueSettings, build_app
from queues.tiers import Tier
from tests.support.api import JOB
from tests.support.cli import Folder, lines
from tests.support.envelopes import enveloped
from tests.support.jobs import TRIAGE, tickets
from tests.support.processes import FleetProcess
from tests.support.rabbitmq import RabbitMQ
from tests.support.sim import MODELS, RunningSim, fleet_config, running_sim
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until

#: A fleet and its broker start and stop in each test, and each wait has its bound.
pytestmark = pytest.mark.timeout(600)
PATIENCE_S = 150
COORDINATOR = Tier(name="coordinator", queue="coordinator")
TIERS = ("coordinator", "nano", "mini", "flagship")
#: Calls in flight in one worker: no more can be lost at once.
SLOTS = 10
#: How long a worker's claims live when it is silent: one that is killed is to be missed soon, and one that a busy machine lets
#: wait is not to be taken for dead.
CLAIM_S, DEAD_CLAIM_S = 30.0, 10.0
COUNT = 60
#: By role, what its user may configure, write and read: all that a fleet needs.
QUEUES = "nano|mini|flagship|coordinator"
OURS = rf"{QUEUES}|fleet(\..*)?|.*fleet\.control\.pidbox|amq\.default"
ROLES = {
    "api": (f"^({QUEUES})$", r"^amq\.default$", "^$"),
    "worker": (f"^({OURS})$", f"^({OURS})$", f"^({OURS})$"),
}


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    try:
        server.define("fleet", {role: (role, rights) for role, rights in ROLES.items()})
        yield server
    finally:
        server.stop()


@dataclass
class Crew:
    """The processes of a fleet, by tier, and the command line beside them."""

    valkey: Valkey
    path: Path
    sim: RunningSim
    broker: str
    config: FleetConfig
    folder: Folder
    processes: dict[str, FleetProcess]

    def start(self, tier: str) -> FleetProcess:
        words = ("coordinator",) if tier == "coordinator" else ("worker", "--tier", tier)
        made = FleetProcess(self.valkey, self.path, self.config, self.sim.url, *words, FLEET_BROKER_URL=self.broker)
        self.processes[tier] = made
        return made

    def kill(self, tier: str) -> None:
        """SIGKILL, and another one in its place."""
        self.processes[tier].process.kill()
        self.processes[tier].process.wait(10)
        self.start(tier)

    def submit(self, count: int = COUNT) -> str:
        self.folder.write("tickets.jsonl", tickets(count))
        self.folder.write("triage.yaml", TRIAGE)
        ran = self.folder.fleet("submit", "triage.yaml")
        assert ran.code == 0, ran.err
        return ran.out.strip()

    def called(self, model: str, at_least: int) -> None:
        """Wait until the provider has begun to answer so many calls of a model: it bills them then."""
        deadline = time.monotonic() + PATIENCE_S
        while self.calls()[model] < at_least:
            assert time.monotonic() < deadline, f"{self.calls()[model]} of {at_least} calls of {model}.\n{self.logs()}"
            time.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(f"--- {tier}\n{one.log.read_text()[-3000:]}" for tier, one in self.processes.items())

    def calls(self) -> Counter[str]:
        return Counter(charge["model"] for charge in self.sim.charges())

    def counts(self, job_id: str) -> dict[str, int]:
        """How many subtasks of a job stand where."""
        counts: dict[str, int] = json.loads(self.folder.fleet("jobs", "get", job_id, "-o", "json").out)["counts"]
        return counts

    @contextlib.contextmanager
    def unanswered(self) -> Iterator[None]:
        """Within the block the provider stands still: whoever waits for an answer waits on."""
        self.sim.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.sim.process.send_signal(signal.SIGCONT)

    def ended(self, job_id: str) -> Path:
        """The folder with a job's results, once it has completed."""
        watched = self.folder.fleet("jobs", "watch", job_id, timeout_s=PATIENCE_S)
        assert watched.code == 0, watched.out + watched.err + self.logs()
        assert self.folder.fleet("jobs", "results", job_id, "--out", "out").code == 0
        return self.path / "out"

    @property
    def ids(self) -> dict[str, int]:
        return {tier: process.process.pid for tier, process in self.processes.items()}

    def alive(self) -> bool:
        return all(process.process.poll() is None for process in self.processes.values())


def registered(valkey: Valkey, tier: str, process: FleetProcess) -> None:
    """Wait until a worker of a tier has said that it lives."""
    with valkey.client() as store:
        until(lambda: store.zcard(f"{NAMESPACE}:w:{tier}"), f"{tier} to register", process, PATIENCE_S)


@contextlib.contextmanager
def crew(valkey: Valkey, path: Path, broker: str, settings: SimSettings, claim_s: float = CLAIM_S) -> Iterator[Crew]:
    """A fleet on `broker`, until the block ends."""
    given = fleet_config().model_dump()
    for tier in given["tiers"].values():
        tier |= {"concurrency": SLOTS, "background": "never"}
    config = FleetConfig.model_validate(given | {"claim_s": claim_s})
    with running_sim(path / "sim", settings, config) as sim:
        variables = {
            "FLEET_REDIS_URL": valkey.url,
            "FLEET_BROKER_URL": broker,
            "FLEET_BLOBS": str(path / "blobs"),
            "FLEET_CONFIG": str(path / "fleet.yaml"),
            "FLEET_SIM_URL": sim.url,
        }
        made = Crew(valkey, path, sim, broker, config, Folder(path, variables), {})
        try:
            for tier in TIERS:
                made.start(tier)
            for tier in TIERS:
                registered(valkey, tier, made.processes[tier])
            yield made
        finally:
            for process in made.processes.values():
                process.stop()


def never_invalid(**fields: Any) -> SimSettings:
    return SimSettings(invalid_output=dict.fromkeys(MODELS, 0.0), **fields)


def judged(out: Path, sim: RunningSim, *, lost_at_most: int) -> None:
    """Nothing lost, and nothing paid twice beyond `lost_at_most` calls whose worker died before their answer was written."""
    results = lines(out / "results.jsonl")
    assert len(results) == 2 * COUNT
    assert {line["status"] for line in results} <= {"ok", "skipped"}
    assert len({(line["step"], json.dumps(line["item"])) for line in results}) == 2 * COUNT
    ledger = {entry["call_id"]: entry for entry in lines(out / "ledger.jsonl")}
    charges = {charge["call_id"]: charge["cost_nano_usd"] for charge in sim.charges()}
    assert len(charges) == len(sim.charges()), "a call id was charged twice"
    assert charges.keys() <= ledger.keys(), "something was charged that nobody knows of"
    lost = {call for call, entry in ledger.items() if entry["reason"] == WORKER_LOST}
    assert len(lost) <= lost_at_most
    for call, entry in ledger.items():
        if call in lost:
            assert entry["cost_nano_usd"] >= charges.get(call, 0), "booked at its worst case"
        else:
            assert entry["cost_nano_usd"] == charges.get(call, 0)
    accepted = Counter(entry["subtask"] for entry in ledger.values() if entry["status"] == "ok")
    assert set(accepted.values()) == {1}, "no call was made for what was answered"
    assert json.loads((out / "receipt.json").read_text())["possibly_paid_twice"] == len(lost)


def test_killed_workers_lose_nothing(valkey: Valkey, tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    broker = rabbitmq.url("worker", "worker", "fleet")
    with crew(valkey, tmp_path, broker, never_invalid(speed=0.4), DEAD_CLAIM_S) as fleet:
        job_id = fleet.submit()
        fleet.called(MODELS[0], 15)
        fleet.kill("nano")
        fleet.called(MODELS[1], 3)
        fleet.kill("mini")
        fleet.kill("coordinator")
        fleet.called(MODELS[0], 45)
        fleet.kill("nano")
        judged(fleet.ended(job_id), fleet.sim, lost_at_most=3 * SLOTS)
        until(lambda: rabbitmq.acknowledged("fleet"), "what was delivered again to be acknowledged, too")


@pytest.mark.parametrize("how", ["in order", "killed"])
def test_a_broker_that_goes_and_comes_back_costs_nothing(
    valkey: Valkey, tmp_path: Path, rabbitmq: RabbitMQ, how: str
) -> None:
    broker = rabbitmq.url("worker", "worker", "fleet")
    # Some answer is awaited at any time: of some hundred calls ten go beside each other, and each takes two seconds.
    slow = {MODELS[0]: Latency(base_s=2, per_output_token_s=0, per_1k_input_s=0)}
    with crew(valkey, tmp_path, broker, never_invalid(latency=slow)) as fleet:
        ids = fleet.ids
        job_id = fleet.submit()
        fleet.called(MODELS[0], 15)
        try:
            with fleet.unanswered():
                before = fleet.counts(job_id)
                assert before["running"], "the broker goes while calls are in flight"
                rabbitmq.end() if how == "in order" else rabbitmq.kill()

            def written() -> bool:
                return fleet.counts(job_id)["done"] >= before["done"] + before["running"]

            until(written, "what ran without a broker to end", fleet.processes["nano"], PATIENCE_S)
        finally:
            rabbitmq.start()
        judged(fleet.ended(job_id), fleet.sim, lost_at_most=0)
        assert (fleet.ids, fleet.alive()) == (ids, True), "no process ended over it"


def test_a_message_that_is_held_longer_than_the_broker_likes_is_no_loss(
    valkey: Valkey, tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    """RabbitMQ closes a channel whose message waits too long for its acknowledgement: 30 minutes, here three seconds."""
    rabbitmq.control("eval", "application:set_env(rabbit, consumer_timeout, 3000).")
    broker = rabbitmq.url("worker", "worker", "fleet")
    slow = {MODELS[2]: Latency(base_s=12, per_output_token_s=0, per_1k_input_s=0)}
    try:
        with crew(valkey, tmp_path, broker, never_invalid(latency=slow)) as fleet:
            ids = fleet.ids
            job_id = fleet.submit()
            judged(fleet.ended(job_id), fleet.sim, lost_at_most=0)
            assert (fleet.ids, fleet.alive()) == (ids, True), "no process ended over it"
            assert "RabbitMQ closed the channel" in fleet.processes["flagship"].log.read_text(), "it was held too long"
            assert fleet.calls()[MODELS[2]] == 1, "and asked for once"
    finally:
        rabbitmq.control("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")


def test_a_broker_that_takes_no_messages_is_waited_for(valkey: Valkey, tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    """Its memory is full: it reads nothing from publishers, and says so to the doctor."""
    broker = rabbitmq.url("worker", "worker", "fleet")
    with crew(valkey, tmp_path, broker, never_invalid(speed=2)) as fleet:
        rabbitmq.control("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            job_id = fleet.submit()
            coordinator = fleet.processes["coordinator"]

            def said() -> bool:
                return "RabbitMQ has not taken" in coordinator.log.read_text()

            until(said, "a publisher to say so", coordinator, PATIENCE_S)
            found = json.loads(fleet.folder.fleet("doctor", "-o", "json", timeout_s=PATIENCE_S).out)
            assert ["takes no messages" in one["text"] for one in found if one["what"] == "broker"] == [True]
        finally:
            rabbitmq.control("set_vm_memory_high_watermark", "0.4")
        judged(fleet.ended(job_id), fleet.sim, lost_at_most=0)


def test_an_api_needs_the_right_to_send_only(valkey: Valkey, tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    """Where each role has a user; the workers of all tests here are held to what workers need."""
    broker = rabbitmq.url("worker", "worker", "fleet")
    with crew(valkey, tmp_path, broker, never_invalid(speed=20)) as fleet:
        port = free_port()
        variables = {"FLEET_BROKER_URL": rabbitmq.url("api", "api", "fleet")}
        api = FleetProcess(valkey, tmp_path, fleet.config, fleet.sim.url, "api", "--port", str(port), **variables)
        fleet.processes["api"] = api
        until(lambda: port in api.listens_on(), "the API to listen", api, timeout=PATIENCE_S)
        key = json.loads(fleet.folder.fleet("keys", "create", "-o", "json").out)["key"]
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client:
            for _ in range(3):
                asked = [{"role": "user", "content": "Topic? It crashes."}]
                assert client.chat.completions.create(model="nano", messages=asked).choices  # type: ignore[arg-type]
        assert "RabbitMQ has not taken" not in api.log.read_text()
        found = json.loads(fleet.folder.fleet("doctor", "-o", "json", timeout_s=PATIENCE_S, **variables).out)
        assert [one["state"] for one in found if one["what"] == "broker"] == ["ok"], found


def test_a_job_that_cannot_be_kept_now_waits_in_its_queue(valkey: Valkey, tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    broker, blobs = rabbitmq.url("worker", "worker", "fleet"), tmp_path / "blobs"
    folder = Folder(tmp_path, {"FLEET_REDIS_URL": valkey.url, "FLEET_BLOBS": str(blobs)})
    key = json.loads(folder.fleet("keys", "create", "--scope", "sign", "-o", "json").out)
    blobs.write_text("no folder")
    coordinator = FleetProcess(
        valkey, tmp_path, fleet_config(), "http://127.0.0.1:9/v1", "coordinator", FLEET_BROKER_URL=broker
    )
    try:
        registered(valkey, "coordinator", coordinator)
        app = build_app(QueueSettings(broker_url=broker, store_url=valkey.url, namespace="fleet"), [COORDINATOR])
        app.send_task(INTAKE_TASK, kwargs={"envelope": enveloped(key["id"], key["key"], JOB)}, queue="coordinator")
        goes_back = "goes back into its queue"
        until(lambda: coordinator.log.read_text().count(goes_back) == 2, "it to go back twice", coordinator, timeout=60)
        blobs.unlink()

        def listed() -> bool:
            return bool(json.loads(folder.fleet("jobs", "list", "-o", "json").out)["jobs"])

        until(listed, "the job", coordinator, timeout=60)
    finally:
        coordinator.stop()
