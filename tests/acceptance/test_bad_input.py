"""Bad input, as a user meets it: one sentence, the right exit code, nothing started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fleet.sim.settings import SimSettings
from tests.support.cli import Folder
from tests.support.jobs import TRIAGE, tickets
from tests.support.sim import running_sim


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    here = Folder(tmp_path, {})
    here.write("triage.yaml", TRIAGE)
    here.write("tickets.jsonl", tickets(3))
    return here


@pytest.mark.parametrize(
    ("job", "says"),
    [
        (TRIAGE.replace("needs: [classify]", "needs: [clasify]"), 'did you mean "clasify"?'),
        (TRIAGE.replace("max_tier", "max_teir"), 'did you mean "max_tier"?'),
        (TRIAGE.replace("classify.topic", "classify.topik"), 'did you mean "topic"?'),
        (TRIAGE.replace("tier: nano", "tier: nanoo"), 'did you mean "nano"?'),
        (TRIAGE.replace("tickets.jsonl", "nothing.jsonl"), "nothing.jsonl does not exist"),
        (TRIAGE.replace("items: {path: tickets.jsonl}\n", ""), "the job has no items"),
        (TRIAGE + "name: again\n", "given twice"),
    ],
)
def test_a_job_that_cannot_run_is_refused_before_anything_starts(folder: Folder, job: str, says: str) -> None:
    folder.write("bad.yaml", job)
    ran = folder.fleet("run", "bad.yaml")
    assert (ran.code, says in ran.err) == (2, True), ran.err
    assert not (folder.path / ".fleet").exists()


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("FLEET_REDIS_URL", "nonsense", "FLEET_REDIS_URL is no address"),
        ("OPENAI_BASE_URL", "nonsense", "OPENAI_BASE_URL is no address"),
        ("FLEET_CONFIG", "nothing.yaml", "nothing.yaml cannot be read"),
        ("FLEET_METRICS_ADDRESS", "0.0.0.0:19464", "which others may reach"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(folder: Folder, variable: str, value: str, says: str) -> None:
    variables: dict[str, Any] = {variable: value}
    ran = folder.fleet("run", "triage.yaml", **variables)
    assert (ran.code, says in ran.err) == (2, True), ran.err
    assert "Traceback" not in ran.err


def test_no_store_is_said_in_a_sentence(folder: Folder) -> None:
    ran = folder.fleet("jobs", "list", FLEET_REDIS_URL="redis://127.0.0.1:1/0")
    assert (ran.code, "The store cannot be reached" in ran.err) == (1, True), ran.err
    assert ".." not in ran.err


def test_doctor_says_what_is_wrong_and_exits_with_1(folder: Folder) -> None:
    settings = SimSettings(speed=100, api_key="right")
    with running_sim(folder.path / "server", settings) as server:
        variables: dict[str, Any] = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "wrong-canary"}
        ran = folder.fleet("doctor", "-o", "json", FLEET_REDIS_URL="redis://127.0.0.1:1/0", **variables)
    assert ran.code == 1, ran.out
    failed = {finding["what"]: finding["text"] for finding in json.loads(ran.out) if finding["state"] == "failed"}
    assert failed.keys() == {"provider openai", "store"}
    assert "refuses the key" in failed["provider openai"]
    assert "wrong-canary" not in ran.out + ran.err


def test_a_wrong_key_pauses_the_job_and_says_what_to_do(folder: Folder) -> None:
    with running_sim(folder.path / "server", SimSettings(speed=100, api_key="right")) as server:
        variables: dict[str, Any] = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "wrong-canary"}
        ran = folder.fleet("run", "triage.yaml", **variables)
    assert ran.code == 1
    assert "set OPENAI_API_KEY to one that may use the model" in ran.err
    assert "is paused and keeps what it has" in ran.err
    assert "`fleet jobs resume " in ran.err
    kept = [path for path in (folder.path / ".fleet").rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if b"wrong-canary" in path.read_bytes()]
