"""A fleet that stays up, used through the real command against an OpenAI-compatible server."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet.sim.settings import SimSettings
from tests.support.cli import Folder, lines
from tests.support.jobs import TRIAGE, tickets
from tests.support.processes import children, listening
from tests.support.sim import MODELS, RunningSim, running_sim
from tests.support.worker import until

KEY = "sk-test-canary"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSim]:
    """An OpenAI-compatible server that wants a key; nano breaks the schema often, so that escalation is seen."""
    settings = SimSettings(speed=20, api_key=KEY, invalid_output={MODELS[0]: 0.25, MODELS[1]: 0.0, MODELS[2]: 0.0})
    with running_sim(tmp_path_factory.mktemp("server"), settings) as sim:
        yield sim


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: RunningSim) -> Iterator[Folder]:
    """A folder with a running fleet whose provider is that server."""
    folder = Folder(tmp_path_factory.mktemp("fleet"), {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY})
    folder.write("triage.yaml", TRIAGE)
    folder.write("tickets.jsonl", tickets(30))
    with folder.up():
        yield folder


def test_the_example_runs_with_steps_given(folder: Folder, server: RunningSim) -> None:
    ran = folder.fleet("run", "triage.yaml", "--out", "given")
    assert ran.code == 0, ran.out + ran.err
    assert "simulated" not in ran.out.lower().replace("-simulated", "")
    out = folder.path / "given"
    results = lines(out / "results.jsonl")
    assert len(results) == 60
    classified = [line for line in results if line["step"] == "classify"]
    assert {line["status"] for line in classified} == {"ok"}
    assert {line["output"]["topic"] for line in classified} == {"billing", "bug", "other"}
    assert {line["tier"] for line in classified} == {"nano", "mini"}, "rejected by the schema, accepted one tier up"
    skipped = [line for line in results if line["status"] == "skipped"]
    assert len(skipped) == sum(line["output"]["topic"] == "other" for line in classified)
    ledger = {entry["call_id"]: entry["cost_nano_usd"] for entry in lines(out / "ledger.jsonl")}
    job = next(iter(ledger)).split("/")[0]
    charged = {c["call_id"]: c["cost_nano_usd"] for c in server.charges() if c["call_id"].startswith(f"{job}/")}
    assert {call: cost for call, cost in ledger.items() if cost} == charged
    assert (out / "result.md").read_text().strip()


def test_a_plan_with_a_sample_says_what_it_asked_and_what_that_cost(folder: Folder, server: RunningSim) -> None:
    refused = folder.fleet("plan", "triage.yaml", "--sample", "3")
    assert refused.code == 2
    assert "give --budget USD" in refused.err
    before = len(server.charges())
    guessed = folder.fleet("plan", "triage.yaml", COLUMNS="80")
    assert guessed.code == 0, guessed.err
    assert all(len(line) <= 80 for line in guessed.out.splitlines())
    assert len(server.charges()) == before, "nothing is asked for a guess"
    ran = folder.fleet("plan", "triage.yaml", "--sample", "3", "--budget", "0.5", "-o", "json")
    assert ran.code == 0, ran.err
    plan = json.loads(ran.out)
    charged = sum(charge["cost_nano_usd"] for charge in server.charges()[before:])
    assert plan["sample"]["cost_nano_usd"] == charged > 0
    by_step = {step["step"]: step for step in plan["forecast"]["steps"]}
    assert [by_step[step]["basis"] for step in ("classify", "summarise", "review")] == ["sample", "sample", "prior"]
    assert by_step["classify"]["seen"] >= 3
    total = plan["forecast"]["cost_nano_usd"]
    assert 0 < total["low"] < total["typical"] < total["high"]
    job = folder.fleet("jobs", "cost", plan["sample"]["job"], "-o", "json")
    assert json.loads(job.out)["cost_nano_usd"] == charged


def test_the_example_runs_with_steps_left_out(folder: Folder) -> None:
    head, _, rest = TRIAGE.partition("steps:\n")
    # A name that would be markup, were it not somebody else's text.
    head = head.replace("name: triage", 'name: "triage [/b]"')
    folder.write("goal.yaml", head + rest[rest.index("review:") :])
    ran = folder.fleet("run", "goal.yaml", "--out", "planned")
    assert ran.code == 0, ran.out + ran.err
    assert ": triage [/b]" in ran.out
    roles = {entry["role"] for entry in lines(folder.path / "planned" / "ledger.jsonl")}
    assert roles - {"audit"} == {"plan", "work", "review"}
    assert {line["status"] for line in lines(folder.path / "planned" / "results.jsonl")} <= {"ok", "skipped"}


def test_a_submitted_job_can_be_watched_and_looked_at(folder: Folder) -> None:
    submitted = json.loads(folder.fleet("submit", "triage.yaml", "-o", "json").out)
    job_id, page = submitted["id"], submitted["page"]
    assert page == f"{json.loads((folder.path / '.fleet' / 'fleet.json').read_text())['api']}/jobs/{job_id}"
    assert "triage" in _fetched(page)
    watched = folder.fleet("jobs", "watch", job_id)
    assert watched.code == 0, watched.out + watched.err
    assert "Receipt: triage" in watched.out
    job = json.loads(folder.fleet("jobs", "get", job_id, "-o", "json").out)
    assert job["status"] == "completed"
    assert job["counts"] == {"total": 61, "waiting": 0, "running": 0, "done": 61, "failed": 0}
    assert job["cost_usd"] > 0
    receipt = json.loads(folder.fleet("jobs", "cost", job_id, "-o", "json").out)
    assert receipt["cost_nano_usd"] == round(job["cost_usd"] * 1e9)
    results = folder.fleet("jobs", "results", job_id).out.splitlines()
    assert len(results) == 60
    assert job_id in folder.fleet("jobs", "list").out


def test_doctor_finds_nothing_to_do(folder: Folder) -> None:
    ran = folder.fleet("doctor", "-o", "json")
    assert ran.code == 0, ran.out + ran.err
    assert {finding["state"] for finding in json.loads(ran.out)} == {"ok"}


def test_flower_shows_the_tasks_by_id_and_no_content(folder: Folder) -> None:
    ran = folder.fleet("run", "triage.yaml")
    assert ran.code == 0, ran.out + ran.err
    job_id = json.loads(folder.fleet("jobs", "list", "-o", "json").out)["jobs"][0]["id"]
    address = json.loads((folder.path / ".fleet" / "fleet.json").read_text())["flower"]
    until(
        lambda: 'task="flagship.review",type="task-succeeded"' in _fetched(f"{address}/metrics"), "the review in Flower"
    )
    metrics = _fetched(f"{address}/metrics")
    for tier in ("coordinator", "nano", "mini", "flagship"):
        assert f'worker="{tier}.' in metrics, f"no task of a {tier} worker is seen"
        assert f'task="{tier}.' in metrics
    query = {"draw": 1, "start": 0, "length": 500, "search[value]": job_id, "order[0][column]": 0}
    query |= {"order[0][dir]": "asc", "columns[0][data]": "name"}
    rows = json.loads(_fetched(f"{address}/tasks/datatable?{urllib.parse.urlencode(query)}"))["data"]
    named = {row["name"] for row in rows}
    assert {"coordinator.plan", "nano.ticket-topic", "mini.ticket-topic", "flagship.review"} <= named
    assert {"nano.summarise", "mini.summarise"} & named
    rejected = [row for row in rows if row["state"] == "RETRY"]
    assert {row["name"] for row in rejected} >= {"nano.ticket-topic"}, "what nano broke was handed on"
    assert {row["state"] for row in rows} <= {"SUCCESS", "RETRY"}
    review = next(row for row in rows if row["name"] == "flagship.review")
    assert review["args"] == f"{job_id}/review.1"
    assert all(row["args"].startswith(f"{job_id}/") for row in rows)
    topic = next(row for row in rows if row["name"] == "nano.ticket-topic" and row["state"] == "SUCCESS")
    assert re.fullmatch(r"ok on nano, [0-9,]+ tokens, \$0\.[0-9]{6}", topic["result"])
    for canary in ("charged twice", "Topic of this ticket", KEY):
        assert canary not in json.dumps(rows)


def test_every_port_is_on_loopback(folder: Folder) -> None:
    fleet = int((folder.path / ".fleet" / "lock").read_text())
    found = {pid: listening(pid) for pid in (fleet, *children(fleet))}
    assert len(found) == 8, "itself, the store, coordinator, three workers, API, Flower"
    everything = set().union(*found.values())
    assert len(everything) >= 4, "the store, the API, Flower, metrics"
    assert {address for address, _ in everything} == {"127.0.0.1"}


def test_the_metrics_show_every_tier_and_no_content(folder: Folder) -> None:
    ran = folder.fleet("run", "triage.yaml")
    assert ran.code == 0, ran.out + ran.err
    job_id = json.loads(folder.fleet("jobs", "list", "-o", "json").out)["jobs"][0]["id"]
    text = _fetched(json.loads((folder.path / ".fleet" / "fleet.json").read_text())["metrics"])
    for tier in ("coordinator", "nano", "mini", "flagship"):
        assert f'tierfleet_workers{{tier="{tier}"}} 1.0' in text
        assert f'tierfleet_reconciler_put_back_total{{reason="claim_expired",tier="{tier}"}}' in text
    for canary in (job_id, "triage", "classify", "charged twice", "Topic of this ticket", KEY):
        assert canary not in text


def test_a_second_fleet_on_the_same_folder_is_refused_with_what_to_do(folder: Folder) -> None:
    ran = folder.fleet("up")
    assert ran.code == 1
    assert "already runs on" in ran.err
    assert "FLEET_STATE" in ran.err


def test_a_killed_worker_loses_nothing(folder: Folder) -> None:
    """SIGKILL of the mini worker in the middle: the fleet starts it again and the job ends whole."""
    folder.write("many.jsonl", tickets(150))
    folder.write("many.yaml", TRIAGE.replace("tickets.jsonl", "many.jsonl"))
    submitted = folder.fleet("submit", "many.yaml")
    job_id = submitted.out.strip()
    assert submitted.err.strip().endswith(f"/jobs/{job_id}"), "its page is told where a script does not read the id"
    worker = _pid_of(folder, "mini")
    os.kill(worker, signal.SIGKILL)
    watched = folder.fleet("jobs", "watch", job_id)
    assert watched.code == 0, watched.out + watched.err
    assert _pid_of(folder, "mini") != worker
    job = json.loads(folder.fleet("jobs", "get", job_id, "-o", "json").out)
    assert job["counts"]["done"] == 301


def test_a_killed_store_costs_no_answer_that_was_paid_for(folder: Folder, server: RunningSim) -> None:
    """SIGKILL of Valkey in the middle: the fleet starts it again, and what was answered meanwhile is written, not bought."""
    folder.write("more.jsonl", tickets(200))
    folder.write("more.yaml", TRIAGE.replace("tickets.jsonl", "more.jsonl"))
    job_id = folder.fleet("submit", "more.yaml").out.strip()
    os.kill(_pid(folder, lambda words: b"valkey-server" in words[0], ".fleet/valkey"), signal.SIGKILL)
    watched = folder.fleet("jobs", "watch", job_id)
    assert watched.code == 0, watched.out + watched.err
    assert folder.fleet("jobs", "results", job_id, "--out", "after").code == 0
    out = folder.path / "after"
    assert json.loads((out / "receipt.json").read_text())["possibly_paid_twice"] == 0
    ledger = {entry["call_id"]: entry["cost_nano_usd"] for entry in lines(out / "ledger.jsonl")}
    charged = {c["call_id"]: c["cost_nano_usd"] for c in server.charges() if c["call_id"].startswith(f"{job_id}/")}
    assert {call: cost for call, cost in ledger.items() if cost} == charged
    assert (out / "result.md").read_text().strip()


def test_neither_key_nor_prompts_nor_outputs_reach_logs_or_the_broker(folder: Folder) -> None:
    texts = [path.read_text(errors="replace") for path in (folder.path / ".fleet" / "logs").glob("*.log")]
    assert texts
    for text in texts:
        for canary in (KEY, "charged twice", "Topic of this ticket"):
            assert canary not in text


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as page:
        return str(page.read().decode())


def _pid_of(folder: Folder, tier: str) -> int:
    """The process that serves a tier in this folder's fleet."""
    return _pid(folder, lambda words: words[1:6] == [b"-m", b"fleet", b"worker", b"--tier", tier.encode()])


def _pid(folder: Folder, wanted: Callable[[list[bytes]], bool], below: str = ".") -> int:
    """The process of this folder's fleet that works in `below` and whose command line is `wanted`."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            here = (entry / "cwd").resolve() == (folder.path / below).resolve()
        except OSError:
            continue
        if here and wanted(words):
            return int(entry.name)
    raise AssertionError(f"no such process runs in {folder.path}")
