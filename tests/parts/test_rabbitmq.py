"""A fleet on a real RabbitMQ: the main job, callers who wait, messages of others, and what an operator sees of the broker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import celery
import pytest
from openai import OpenAI

from tests.support.api import JOB
from tests.support.cli import ROOT, Folder, lines
from tests.support.envelopes import EXAMPLE, enveloped
from tests.support.rabbitmq import RabbitMQ
from tests.support.worker import until

#: Each has characters that a URL cannot have as they are; the password is to be seen nowhere.
VHOST, USER, PASSWORD = "fleet/one", "fleet@one", "canary/p:ssw%rd"
WITHIN, NOTHING = ".*", "^$"
SECRET = "what the customer wrote"


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    try:
        server.define(
            VHOST,
            {
                USER: (PASSWORD, (WITHIN, WITHIN, WITHIN)),
                "producer": ("producer", (NOTHING, r"^amq\.default$", NOTHING)),
                "stranger": ("stranger", (NOTHING, NOTHING, NOTHING)),
            },
        )
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, rabbitmq: RabbitMQ) -> Iterator[Folder]:
    """A folder with a running fleet: by one variable, its broker is RabbitMQ."""
    folder = Folder(tmp_path_factory.mktemp("fleet"), {"FLEET_BROKER_URL": rabbitmq.url(USER, PASSWORD, VHOST)})
    with folder.up():
        yield folder


def running(folder: Folder) -> dict[str, str]:
    addresses: dict[str, str] = json.loads((folder.path / ".fleet" / "fleet.json").read_text())
    return addresses


def jobs(folder: Folder) -> dict[str, str]:
    """The status of each job by its name."""
    listed = json.loads(folder.fleet("jobs", "list", "-o", "json").out)["jobs"]
    return {job["name"]: job["status"] for job in listed}


def test_the_main_job_ends_whole_and_its_books_agree(folder: Folder, rabbitmq: RabbitMQ) -> None:
    source = Path(celery.__file__).parent / "worker"
    ran = folder.fleet("demo", str(source), "--out", "out")
    assert ran.code == 0, ran.out + ran.err
    out = folder.path / "out"
    ledger = {entry["call_id"]: entry["cost_nano_usd"] for entry in lines(out / "ledger.jsonl")}
    job_id = next(iter(ledger)).split("/")[0]
    charges = [c for c in lines(folder.path / ".fleet" / "charges.jsonl") if c["call_id"].startswith(f"{job_id}/")]
    charged = {charge["call_id"]: charge["cost_nano_usd"] for charge in charges}
    assert len(charged) == len(charges) > 20
    assert {call: cost for call, cost in ledger.items() if cost} == charged
    results = lines(out / "results.jsonl")
    assert {line["status"] for line in results} <= {"ok", "skipped"}
    assert sum(line["step"] == "classify" for line in results) == len(list(source.rglob("*.py")))
    queues = rabbitmq.queues(VHOST)
    for tier in ("coordinator", "nano", "mini", "flagship"):
        assert (queues[tier]["type"], queues[tier]["durable"]) == ("quorum", True)
    assert not [name for name in queues if "delayed" in name], "nothing of ours has a countdown"
    until(lambda: rabbitmq.acknowledged(VHOST), "everything to be acknowledged")


def test_a_caller_waits_for_an_answer(folder: Folder) -> None:
    made = json.loads(folder.fleet("keys", "create", "-o", "json").out)
    with OpenAI(base_url=f"{running(folder)['api']}/v1", api_key=made["key"], max_retries=0) as client:
        for _ in range(3):
            answer = client.chat.completions.create(
                model="nano", messages=[{"role": "user", "content": "Topic? It crashes."}]
            )
            assert answer.choices[0].message.content


def test_jobs_come_as_messages_from_celery_and_from_anybody(folder: Folder, rabbitmq: RabbitMQ) -> None:
    key = json.loads(folder.fleet("keys", "create", "--scope", "sign", "-o", "json").out)
    broker = rabbitmq.url("producer", "producer", VHOST)
    variables = {"FLEET_SIGN_KEY_ID": key["id"], "FLEET_SIGN_KEY": key["key"], "FLEET_BROKER_URL": broker}
    example = [sys.executable, str(ROOT / "examples" / "celery_producer.py")]
    done = subprocess.run(
        example, env=folder.environment() | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    message = json.loads(EXAMPLE.read_text())
    id_ = str(uuid.uuid4())
    envelope = enveloped(key["id"], key["key"], JOB | {"name": "raw", "items": [SECRET]}, nonce="raw")
    raw = amqp.Message(
        json.dumps([[], {"envelope": envelope}, {}]).encode(),
        content_type=message["content-type"],
        content_encoding=message["content-encoding"],
        application_headers=message["headers"] | {"id": id_, "root_id": id_},
        delivery_mode=2,
    )
    address = f"127.0.0.1:{rabbitmq.port}"
    with amqp.Connection(address, "producer", "producer", virtual_host=VHOST, confirm_publish=True) as connection:
        connection.channel().basic_publish(raw, exchange="", routing_key="coordinator", mandatory=True)
    until(lambda: jobs(folder).get("complaints") == jobs(folder).get("raw") == "completed", "both jobs", timeout=60)


def test_flower_sees_every_tier_and_no_content(folder: Folder) -> None:
    address = running(folder)["flower"]
    job_id = json.loads(folder.fleet("jobs", "list", "-o", "json").out)["jobs"][-1]["id"]

    def tiers() -> set[str]:
        return set(re.findall(r'worker="(\w+)\.', fetched(f"{address}/metrics")))

    until(lambda: {"coordinator", "nano", "mini", "flagship"} <= tiers(), "tasks of workers of every tier")
    query = {"draw": 1, "start": 0, "length": 500, "search[value]": job_id, "order[0][column]": 0}
    query |= {"order[0][dir]": "asc", "columns[0][data]": "name"}

    def shown() -> list[dict[str, Any]]:
        answer = json.loads(fetched(f"{address}/tasks/datatable?{urllib.parse.urlencode(query)}"))
        found: list[dict[str, Any]] = answer["data"]
        return found

    named = {"coordinator.plan", "nano.file-role", "flagship.review"}
    until(lambda: named <= {row["name"] for row in shown()}, "the tasks of the main job by their names")
    rows = shown()
    for canary in (SECRET, PASSWORD, urllib.parse.quote(PASSWORD, safe="")):
        assert canary not in json.dumps(rows) + fetched(f"{address}/broker") + fetched(f"{address}/workers")


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as page:
        return str(page.read().decode())


def examined(folder: Folder, **variables: str) -> list[dict[str, Any]]:
    """What the doctor says of the broker."""
    ran = folder.fleet("doctor", "-o", "json", timeout_s=150.0, **variables)
    findings: list[dict[str, Any]] = [one for one in json.loads(ran.out) if one["what"] == "broker"]
    assert PASSWORD not in ran.out + ran.err
    assert (ran.code == 0) == all(one["state"] != "failed" for one in json.loads(ran.out))
    return findings


def test_the_doctor_says_how_the_broker_is(folder: Folder, rabbitmq: RabbitMQ) -> None:
    (well,) = examined(folder)
    assert well["state"] == "ok"
    assert well["text"].startswith("RabbitMQ 3.")
    assert "nano has 0 waiting, 1 consumers" in well["text"]
    joined = {"FLEET_REDIS_URL": running(folder)["FLEET_REDIS_URL"]}

    def ails(user: str, password: str, vhost: str) -> str:
        found = examined(folder, **joined, FLEET_BROKER_URL=rabbitmq.url(user, password, vhost))
        return str(next(one["text"] for one in found if one["state"] == "failed"))

    assert "refuses the user or the password" in ails(USER, "wrong", VHOST)
    assert "does not let us in" in ails(USER, PASSWORD, "nosuch")
    assert "may not" in ails("stranger", "stranger", VHOST)
    (gone,) = examined(folder, **joined, FLEET_BROKER_URL="amqp://127.0.0.1:1//")
    assert "does not answer" in gone["text"]


def test_the_doctor_says_what_is_wrong_with_a_queue(folder: Folder, rabbitmq: RabbitMQ) -> None:
    everything = (WITHIN, WITHIN, WITHIN)
    rabbitmq.define("other", {USER: (PASSWORD, everything)})
    with amqp.Connection(f"127.0.0.1:{rabbitmq.port}", USER, PASSWORD, virtual_host="other") as connection:
        connection.channel().queue_declare("nano", durable=True, auto_delete=False)
    joined = {"FLEET_REDIS_URL": running(folder)["FLEET_REDIS_URL"]}
    first, second = examined(folder, **joined, FLEET_BROKER_URL=rabbitmq.url(USER, PASSWORD, "other"))
    assert "mini is not there yet" in first["text"]
    assert (second["state"], "the queue nano is there, but not as a fleet declares it" in second["text"]) == (
        "failed",
        True,
    )
    assert "x-queue-type" in second["text"]


def test_the_password_is_in_no_log(folder: Folder) -> None:
    texts = [path.read_text(errors="replace") for path in (folder.path / ".fleet" / "logs").glob("*.log")]
    assert texts
    for text in texts:
        for canary in (PASSWORD, urllib.parse.quote(PASSWORD, safe=""), SECRET):
            assert canary not in text
