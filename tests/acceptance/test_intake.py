"""Jobs over the broker: raw messages for a real coordinator, and what anybody can see of them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.support.api import JOB
from tests.support.bench import config
from tests.support.cli import Folder
from tests.support.envelopes import enveloped, raw_message
from tests.support.processes import FleetProcess
from tests.support.valkey import Valkey
from tests.support.worker import until

#: No model is asked here.
NO_MODEL = "http://127.0.0.1:9/v1"
SECRET = "what the customer wrote"
PRIVATE = JOB | {"name": "complaint", "items": [SECRET]}


def key_of(folder: Folder) -> tuple[str, str]:
    made = folder.fleet("keys", "create", "--scope", "sign", "-o", "json")
    assert made.code == 0, made.err
    key = json.loads(made.out)
    return key["id"], key["key"]


def jobs(folder: Folder) -> list[str]:
    listed = folder.fleet("jobs", "list", "-o", "json")
    assert listed.code == 0, listed.err
    return [job["name"] for job in json.loads(listed.out)["jobs"]]


def test_a_raw_message_is_a_job_and_nobody_is_shown_what_is_in_it(valkey: Valkey, tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"FLEET_REDIS_URL": valkey.url, "FLEET_BLOBS": str(tmp_path / "blobs")})
    key_id, key = key_of(folder)
    coordinator = FleetProcess(valkey, tmp_path, config(), NO_MODEL, "coordinator")
    shown: list[str] = []
    try:
        coordinator.ready(valkey, "coordinator")
        with valkey.client() as store, store.pubsub() as events:
            events.psubscribe("*")
            messages = [
                raw_message(enveloped(key_id, key, PRIVATE), argsrepr=SECRET, kwargsrepr=SECRET, shadow=SECRET),
                raw_message(enveloped(key_id, key, PRIVATE)),  # once more
                raw_message(enveloped(key_id, "flk_x", PRIVATE, nonce=SECRET.replace(" ", "-"))),
                raw_message({"job": SECRET}),
            ]
            store.lpush("coordinator", *messages)

            def told() -> bool:
                while (event := events.get_message(ignore_subscribe_messages=True)) is not None:
                    message = json.loads(event["data"])
                    shown.append(base64.b64decode(message["body"]).decode())
                everything = "".join(shown)
                return everything.count("task-received") >= 4 and "coordinator.plan" in everything  # of the job

            until(told, "the events of the messages", coordinator)
            until(lambda: coordinator.log.read_text().count("is refused") == 2, "two refusals", coordinator)
            until(lambda: jobs(folder) == ["complaint"], "the job", coordinator)
            until(lambda: not store.hlen("fleet.unacked.coordinator"), "the messages to be gone", coordinator)
    finally:
        coordinator.stop()
    everything = "".join(shown) + coordinator.log.read_text()
    assert "fleet.submit_job.v1" in everything
    assert "(hidden)" in everything
    for secret in (SECRET, SECRET.replace(" ", "-"), key):
        assert secret not in everything


def test_a_job_that_cannot_be_kept_now_waits_in_its_queue(valkey: Valkey, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    folder = Folder(tmp_path, {"FLEET_REDIS_URL": valkey.url, "FLEET_BLOBS": str(blobs)})
    key_id, key = key_of(folder)
    blobs.write_text("no folder")
    coordinator = FleetProcess(valkey, tmp_path, config(), NO_MODEL, "coordinator")
    try:
        coordinator.ready(valkey, "coordinator")
        with valkey.client() as store:
            store.lpush("coordinator", raw_message(enveloped(key_id, key, PRIVATE)))
        until(lambda: "goes back into its queue" in coordinator.log.read_text(), "the message to go back", coordinator)
        assert jobs(folder) == []
        blobs.unlink()
        until(lambda: jobs(folder) == ["complaint"], "the job", coordinator)
    finally:
        coordinator.stop()
    assert SECRET not in coordinator.log.read_text()
