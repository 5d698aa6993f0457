"""Debian's Prometheus beside a real `fleet up`: it finds and scrapes every process, and knows every metric by its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from fleet.metrics_reference import rows
from tests.support.cli import Folder, lines
from tests.support.prometheus import ROOT, Prometheus
from tests.support.worker import until

COMPONENTS = {"coordinator", "worker-nano", "worker-mini", "worker-flagship", "api", "flower"}
CANARY = "please-refund-canary"
JOB = f"""\
name: job-name-canary
items: [{", ".join(f"{CANARY}-{i}" for i in range(30))}]
budget_usd: 5
steps:
  - {{id: step_canary, each: items, tier: nano, prompt: "prompt-canary {{{{ item }}}}"}}
  - {{id: more_canary, each: items, needs: [step_canary], tier: mini, prompt: "more-canary {{{{ step_canary }}}}"}}
review: {{prompt: "review-canary", rounds: 0}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    path = tmp_path_factory.mktemp("fleet")
    folder = Folder(path, {"FLEET_CONFIG": str(path / "config" / "fleet.yaml")})
    folder.write("job.yaml", JOB)
    shipped = (ROOT / "config" / "fleet.yaml").read_text()
    folder.write("config/fleet.yaml", f"{shipped}\nbudgets: {{usd_per_day: 1000, usd_per_month: 1000}}\n")
    local = (ROOT / "config" / "prometheus-local.yml").read_text()
    assert local.count(": 5s") == 2
    folder.write("config/prometheus-local.yml", local.replace(": 5s", ": 500ms"))
    shutil.copy(ROOT / "config" / "alerts.yml", folder.path / "config")
    return folder


@pytest.fixture(scope="module")
def prometheus(folder: Folder) -> Iterator[Prometheus]:
    with folder.up():
        running = Prometheus(folder.path, folder.path / "config" / "prometheus-local.yml")
        try:
            yield running
        finally:
            running.stop()
    assert not (folder.path / ".fleet" / "prometheus-targets.json").exists(), "nothing is looked for that has ended"


@pytest.fixture(scope="module")
def job(folder: Folder, prometheus: Prometheus) -> str:
    """A job that has ended, during which every process was scraped."""
    until(lambda: _up(prometheus) == COMPONENTS, "every process to be scraped", prometheus)
    ran = folder.fleet("submit", "job.yaml")
    assert ran.code == 0, ran.err
    job_id = ran.out.strip()
    until(lambda: prometheus.value("max(tierfleet_open_jobs)") == 1, "the job to be seen while it is open", prometheus)
    watched = folder.fleet("jobs", "watch", job_id)
    assert watched.code == 0, watched.out + watched.err
    assert folder.fleet("jobs", "results", job_id, "--out", "out").code == 0
    return job_id


def test_every_process_is_scraped_while_a_job_runs(prometheus: Prometheus, job: str) -> None:
    assert _up(prometheus) == COMPONENTS
    lost = prometheus.query('min_over_time(up{component!=""}[30s]) < 1')
    assert not lost, f"{job}: {lost}"
    targets = prometheus.ask("targets")["activeTargets"]
    assert len({target["scrapeUrl"] for target in targets}) == len(COMPONENTS)
    assert not [target["lastError"] for target in targets if target["lastError"]]


def test_calls_and_money_are_those_of_the_ledger(folder: Folder, prometheus: Prometheus, job: str) -> None:
    ledger = lines(folder.path / "out" / "ledger.jsonl")
    assert {entry["job"] for entry in ledger} == {job}
    calls = f"sum(tierfleet_calls_total) == {len(ledger)}"
    until(lambda: prometheus.query(calls), "the last calls to be scraped", prometheus)
    for tier in ("nano", "mini", "flagship"):
        spent = sum(entry["cost_nano_usd"] for entry in ledger if entry["tier"] == tier) / 1e9
        assert prometheus.value(f'sum(tierfleet_spent_dollars_total{{tier="{tier}"}})') == pytest.approx(spent) != 0
        tokens = sum(
            entry["usage"]["input_tokens"] + entry["usage"]["output_tokens"]
            for entry in ledger
            if entry["tier"] == tier
        )
        assert prometheus.value(f'sum(tierfleet_tokens_total{{tier="{tier}"}})') == tokens
    assert prometheus.value('sum(tierfleet_subtasks_total{outcome="ok"})') == 60
    assert prometheus.value("sum(tierfleet_ready_to_start_seconds_count)") == prometheus.value(
        'sum(tierfleet_ready_to_start_seconds_bucket{le="+Inf"})'
    )


def test_every_metric_is_in_the_reference_and_every_one_of_the_reference_is_shown(
    prometheus: Prometheus, job: str
) -> None:
    names = prometheus.ask("label/__name__/values")
    shown = {name for name in names if name.startswith("tierfleet_")}
    assert shown == {name for listed in rows().values() for row in listed for name in row.series}, job


def test_no_label_is_an_id_or_content(folder: Folder, prometheus: Prometheus, job: str) -> None:
    series = prometheus.ask("series", **{"match[]": '{component!="", component!="flower"}'})
    assert len(series) > 300
    text = json.dumps(series)
    for canary in ("canary", job, str(folder.path)):
        assert canary not in text
    labels = {label for one in series for label in one if one["__name__"].startswith("tierfleet_")}
    known = {label for listed in rows().values() for row in listed for label in row.labels}
    assert labels == known | {"__name__", "component", "instance", "job", "le"}


def test_the_rules_are_evaluated_and_a_fleet_that_is_well_alerts_nobody(prometheus: Prometheus, job: str) -> None:
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 20, job
    assert {rule["health"] for rule in rules} == {"ok"}
    assert not [alert for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"]


def _up(prometheus: Prometheus) -> set[str]:
    return {labels["component"] for labels, value in prometheus.query("up") if value == 1}
