"""Pause, resume, cancel and retry of a running job through the real command, on a fleet of real processes."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fleet.sim.settings import SimSettings
from tests.support.cli import Folder, lines
from tests.support.jobs import tickets
from tests.support.sim import MODELS, RunningSim, running_sim

KEY = "sk-test-control"
#: More than the fleet can do while the test looks.
ITEMS = 12_000
JOB = """\
name: notes
items: {path: tickets.jsonl}
steps:
  - {id: note, each: items, tier: nano, max_output_tokens: 100, prompt: "Note this: {{ item.text }}"}
budget_usd: 5
"""
#: Within this time of a pause nothing new may start.
PAUSED_S = 1.0
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSim]:
    settings = SimSettings(speed=0.15, api_key=KEY, invalid_output=dict.fromkeys(MODELS, 0.0))
    with running_sim(tmp_path_factory.mktemp("server"), settings) as sim:
        yield sim


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: RunningSim) -> Iterator[Folder]:
    folder = Folder(tmp_path_factory.mktemp("fleet"), {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY})
    folder.write("notes.yaml", JOB)
    folder.write("tickets.jsonl", tickets(ITEMS))
    with folder.up():
        yield folder


def test_pause_resume_cancel_as_a_user_does(folder: Folder, server: RunningSim) -> None:
    job = folder.fleet("submit", "notes.yaml").out.strip()
    _until(folder, job, lambda found: found["counts"]["done"] > 10)
    # Between two looks some places are free, and the pace is what is waited for.
    (wait,) = _until(folder, job, lambda found: [one["reason"] for one in found["waits"]] == ["workers"])["waits"]
    assert (wait["tier"], wait["subtasks"] > 0) == ("nano", True)
    assert "all 200 places of the tier" in wait["text"]
    assert re.search(
        r"\((workers|rate)\): (all 200 places of the tier|calls of openai/)", folder.fleet("jobs", "get", job).out
    )
    accounts = {one["account"]: one for one in json.loads(folder.fleet("limits", "-o", "json").out)["accounts"]}
    used = accounts[f"openai/{MODELS[0]}"]
    assert (used["tiers"], used["requests_per_minute"], used["outage_s"]) == (["nano"], 10_000, None)
    assert 0 < used["calls"] <= used["in_flight"]
    assert used["requests"] > 10
    assert "of 10,000" in folder.fleet("limits").out

    assert folder.fleet("jobs", "pause", job).code == 0
    paused_at = time.time()
    still = _until(folder, job, lambda found: found["counts"]["running"] == 0)
    assert still["status"] == "paused"
    assert 10 < still["counts"]["done"] < ITEMS
    assert _get(folder, job)["counts"] == still["counts"], "nothing moves"
    assert folder.fleet("jobs", "pause", job).code == 0, "twice is no harm"

    resumed_at = time.time()
    assert folder.fleet("jobs", "resume", job).code == 0
    _until(folder, job, lambda found: found["counts"]["done"] > still["counts"]["done"] + 10)
    again = folder.fleet("jobs", "resume", job)
    assert (again.code, "is not paused" in again.err) == (2, True)

    assert folder.fleet("jobs", "cancel", job).code == 0
    cancelled_at = time.time()
    ended = _until(folder, job, lambda found: found["counts"]["running"] == 0)
    assert ended["status"] == "cancelled"
    for command in ("pause", "resume", "cancel"):
        refused = folder.fleet("jobs", command, job)
        assert refused.code == 2, command
        assert "cancelled" in refused.err or "not paused" in refused.err
    refused = folder.fleet("jobs", "retry", "--failed", job)
    assert (refused.code, "is cancelled" in refused.err) == (2, True)

    assert folder.fleet("jobs", "results", job, "--out", "cancelled").code == 0
    ledger = lines(folder.path / "cancelled" / "ledger.jsonl")
    late = [
        e
        for e in ledger
        if paused_at + PAUSED_S < e["started_at"] < resumed_at or e["started_at"] > cancelled_at + PAUSED_S
    ]
    assert late == [], "a call started on a job that was paused or cancelled"
    booked = {entry["call_id"]: entry["cost_nano_usd"] for entry in ledger}
    charged = {c["call_id"]: c["cost_nano_usd"] for c in server.charges() if c["call_id"].startswith(f"{job}/")}
    assert charged.keys() <= booked.keys(), "the vendor billed a call that nobody booked"
    assert all(booked[call] >= cost for call, cost in charged.items())
    done = lines(folder.path / "cancelled" / "results.jsonl")
    statuses = Counter(line["status"] for line in done)
    # Skipped are those that had their claim when the job was cancelled and had not called yet.
    assert statuses["ok"] + statuses["skipped"] == ended["counts"]["done"]
    assert statuses["ok"] > 20


def test_retry_wants_to_be_told_what_and_finds_nothing_in_a_job_that_went_well(folder: Folder) -> None:
    folder.write("few.jsonl", tickets(3))
    folder.write("few.yaml", JOB.replace("tickets.jsonl", "few.jsonl"))
    job = folder.fleet("submit", "few.yaml").out.strip()
    assert folder.fleet("jobs", "watch", job).code == 0
    untold = folder.fleet("jobs", "retry", job)
    assert (untold.code, "retry --failed" in untold.err) == (2, True)
    nothing = folder.fleet("jobs", "retry", "--failed", job)
    assert (nothing.code, "nothing to retry" in nothing.err) == (2, True)


def _get(folder: Folder, job: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(folder.fleet("jobs", "get", job, "-o", "json").out)
    return found


def _until(folder: Folder, job: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The job once `holds` is true of it."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds(found := _get(folder, job)):
        assert time.monotonic() < deadline, found
    return found
