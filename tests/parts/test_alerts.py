"""Every alert rule fires when it should and stays quiet when it should, by promtool; and promtool accepts all that is configured.

A case is input series in promtool's notation, a sample a minute, and what has to fire after `AFTER` minutes. Text and severity
are taken from the rules, so that they are written once.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import ROOT, promtool

CONFIG = ROOT / "config"
AFTER = 60
WORKER = {"component": "worker-nano", "instance": "w:9464", "job": "tierfleet"}
TARGET = ",".join(f'{name}="{value}"' for name, value in WORKER.items())
COORDINATOR = 'up{component="coordinator",job="tierfleet"}'
#: Of somebody else's, which the same Prometheus looks after.
OTHERS = {'up{component="frontend",instance="f:80",job="shop"}': "0x70"}
#: A coordinator that is well, beside which everything else is looked at.
WELL = {COORDINATOR: "1x60", "tierfleet_store_up": "1x60"}


def each(name: str, **series: str) -> dict[str, str]:
    """Series of one metric with one label each: `tier__nano=` is the one of the tier nano."""
    found = {}
    for key, values in series.items():
        label, _, value = key.partition("__")
        found[f'{name}{{{label}="{value}"}}'] = values
    return found


def calls(**outcomes: str) -> dict[str, str]:
    """Calls to a model by outcome, as counters."""
    return {
        f'tierfleet_calls_total{{model="m",tier="nano",outcome="{outcome}"}}': values
        for outcome, values in outcomes.items()
    }


@dataclass(frozen=True)
class Case:
    """What makes an alert fire, with which labels; and what is just not enough."""

    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)


#: `1x60` is a value and 60 more of it; `0+6x60` grows by 6 a minute; `1x57 0x3` changes three minutes before the end.
CASES: dict[str, Case] = {
    "ProcessDown": Case({f"up{{{TARGET}}}": "1x57 0x5"}, {f"up{{{TARGET}}}": "0x58 1x5"} | OTHERS, WORKER),
    "NoCoordinator": Case(
        {
            COORDINATOR: "1x56 stale",
            'up{component="api",job="tierfleet"}': "1x60",
            'up{component="coordinator",job="other"}': "1x60",
        },
        {f'{COORDINATOR[:-1]},instance="a"}}': "0x60", f'{COORDINATOR[:-1]},instance="b"}}': "1x60"},
    ),
    "StoreUnreachable": Case(
        {"tierfleet_store_up": "1x55 0x9"},
        {'tierfleet_store_up{instance="a"}': "0x60", 'tierfleet_store_up{instance="b"}': "1x60"},
    ),
    "NoWorkerForBacklog": Case(
        each("tierfleet_admissible_subtasks", tier__nano="9x60") | each("tierfleet_workers", tier__nano="1x50 0x20"),
        each("tierfleet_admissible_subtasks", tier__nano="9x60", tier__mini="0x60")
        | each("tierfleet_workers", tier__nano="1x60", tier__mini="0x60"),
        {"tier": "nano"},
    ),
    "WorkersDie": Case(
        each("tierfleet_subtask_kills_total", tier__nano="7x55 8x9"),
        each("tierfleet_subtask_kills_total", tier__nano="7x60"),
        {"tier": "nano"},
    ),
    "SubtaskQuarantined": Case(
        each("tierfleet_subtasks_quarantined_total", tier__mini="0x30 1x40"),
        each("tierfleet_subtasks_quarantined_total", tier__mini="5x60"),
        {"tier": "mini"},
    ),
    "SubtasksOverdue": Case(
        {"tierfleet_overdue_oldest_seconds": "0x50 61x20"}, {"tierfleet_overdue_oldest_seconds": "0x50 59x20"}
    ),
    "GateOverdue": Case(
        {"tierfleet_overdue_gate_oldest_seconds": "0x50 61x20"},
        {"tierfleet_overdue_gate_oldest_seconds": "0x58 61x20"},
    ),
    "SubtasksFail": Case(
        {
            'tierfleet_subtasks_total{tier="nano",outcome="ok"}': "0+80x70",
            'tierfleet_subtasks_total{tier="nano",outcome="failed"}': "0+20x70",
        },
        {
            'tierfleet_subtasks_total{tier="nano",outcome="ok"}': "0+95x70",
            'tierfleet_subtasks_total{tier="nano",outcome="failed"}': "0+5x70",
            'tierfleet_subtasks_total{tier="nano",outcome="skipped"}': "0+500x70",
            'tierfleet_subtasks_total{tier="mini",outcome="failed"}': "0x70",
            'tierfleet_subtasks_total{tier="mini",outcome="ok"}': "0x70",
        },
        {"tier": "nano"},
    ),
    "AnswersRejected": Case(
        calls(ok="0+60x70", rejected="0+40x70"), calls(ok="0+80x70", rejected="0+20x70"), {"tier": "nano"}
    ),
    "ApiFails": Case(
        each("tierfleet_http_requests_total", status__2xx="0+90x70", status__5xx="0+10x70"),
        each("tierfleet_http_requests_total", status__2xx="0+97x70", status__5xx="0+3x70", status__4xx="0+50x70"),
    ),
    "CallsFail": Case(
        calls(ok="0+70x70", server="0+20x70", timeout="0+10x70"),
        calls(ok="0+50x70", rejected="0+10x70", server="0+5x70", rate_limit="0+5x70", cancelled="0+500x70"),
        {"model": "m"},
    ),
    "RateLimited": Case(
        calls(ok="0+90x70", rate_limit="0+10x70"), calls(ok="0+97x70", rate_limit="0+3x70"), {"model": "m"}
    ),
    "VendorOutage": Case(
        each("tierfleet_account_outage", model__m="0x50 1x20", model__other="0x60"),
        each("tierfleet_account_outage", model__m="0x57 1x20"),
        {"model": "m"},
    ),
    "AccountPaused": Case(
        each("tierfleet_account_paused_seconds", model__m="0x40 20x30"),
        each("tierfleet_account_paused_seconds", model__m="20x55 0x9"),
        {"model": "m"},
    ),
    "AccountAtItsLimit": Case(
        {'tierfleet_limit_use_ratio{model="m",limit="tokens"}': "1x60"},
        {'tierfleet_limit_use_ratio{model="m",limit="tokens"}': "0.9x60"},
        {"model": "m", "limit": "tokens"},
    ),
    "CallsHeldBack": Case(
        {
            'tierfleet_permits_waiting{model="m",instance="a"}': "4x70",
            'tierfleet_permits_waiting{model="m",instance="b"}': "0x70",
        },
        {'tierfleet_permits_waiting{model="m"}': "9x45 0x1 9x30"},
        {"model": "m"},
    ),
    "JobsHalted": Case(
        each("tierfleet_paused_jobs", reason__halted="0x50 1x20", reason__asked="0x60"),
        each("tierfleet_paused_jobs", reason__halted="0x60", reason__asked="9x60"),
    ),
    "BudgetNearlySpent": Case(
        {"tierfleet_nearly_spent_jobs": "0x50 1x20"}, {"tierfleet_nearly_spent_jobs": "1x50 0x20"}
    ),
    "TenantNearlySpent": Case(
        {"tierfleet_nearly_spent_tenants": "0x50 1x20"}, {"tierfleet_nearly_spent_tenants": "0x60"}
    ),
    "FleetNearlySpent": Case(
        {
            'tierfleet_fleet_spent_dollars{per="month"}': "50x10 95x50",
            'tierfleet_fleet_budget_dollars{per="month"}': "100x60",
        },
        {
            'tierfleet_fleet_spent_dollars{per="month"}': "85x60",
            'tierfleet_fleet_budget_dollars{per="month"}': "100x60",
        },
        {"per": "month"},
    ),
}


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((CONFIG / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def expected(rule: dict[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """The alert as it has to be, its text with the labels in it."""

    def filled(text: str) -> str:
        return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)

    texts = {name: filled(text) for name, text in rule["annotations"].items()}
    return {"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": texts}


def world(series: Mapping[str, str]) -> list[dict[str, str]]:
    """Input series: these, and a coordinator that is well where they say nothing of one."""
    said = tuple(series)
    others = {
        name: values for name, values in WELL.items() if not any(one.startswith(name.rstrip("}")) for one in said)
    }
    return [{"series": name, "values": values} for name, values in (others | dict(series)).items()]


def test_every_rule_has_its_case() -> None:
    assert CASES.keys() == alerts().keys()


@pytest.mark.parametrize("name", CASES)
def test_a_rule_fires_when_it_should_and_only_then(name: str, tmp_path: Path) -> None:
    case, rule = CASES[name], alerts()[name]
    shutil.copy(CONFIG / "alerts.yml", tmp_path)

    def looked(series: Mapping[str, str], *exp: dict[str, Any]) -> dict[str, Any]:
        when = {"eval_time": f"{AFTER}m", "alertname": name, "exp_alerts": list(exp)}
        return {"interval": "1m", "input_series": world(series), "alert_rule_test": [when]}

    tests = [looked(case.fires, expected(rule, case.labels)), looked(case.quiet)]
    document = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(tmp_path / "test.yml"))


def test_a_rule_that_does_not_fire_fails_its_test(tmp_path: Path) -> None:
    shutil.copy(CONFIG / "alerts.yml", tmp_path)
    rule = alerts()["SubtasksOverdue"]
    when = {"eval_time": "60m", "alertname": "SubtasksOverdue", "exp_alerts": [expected(rule, {})]}
    tests = [{"interval": "1m", "input_series": world({}), "alert_rule_test": [when]}]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": tests}))
    with pytest.raises(AssertionError, match="SubtasksOverdue"):
        promtool("test", "rules", str(tmp_path / "test.yml"))


def test_what_an_accepted_outcome_costs_is_what_was_spent_over_what_was_accepted(tmp_path: Path) -> None:
    shutil.copy(CONFIG / "alerts.yml", tmp_path)
    series = {
        'tierfleet_spent_dollars_total{tier="nano"}': "0+0.5x70",
        'tierfleet_spent_dollars_total{tier="flagship"}': "0+1.5x70",
        'tierfleet_subtasks_total{tier="nano",outcome="ok"}': "0+40x70",
        'tierfleet_subtasks_total{tier="nano",outcome="failed"}': "0+7x70",
    }
    record = "tierfleet:cost_per_accepted_outcome:dollars1h"
    when = {"expr": record, "eval_time": "65m", "exp_samples": [{"labels": record, "value": 0.05}]}
    tests = [{"interval": "1m", "input_series": world(series), "promql_expr_test": [when]}]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": tests}))
    promtool("test", "rules", str(tmp_path / "test.yml"))


def test_rules_and_scrape_configurations_are_ones_that_prometheus_takes() -> None:
    promtool("check", "rules", str(CONFIG / "alerts.yml"))
    for name in ("prometheus.yml", "prometheus-local.yml"):
        promtool("check", "config", str(CONFIG / name))


def test_every_expression_of_the_dashboard_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    dashboard = json.loads((CONFIG / "grafana" / "tierfleet.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(asked) > 50
    rules = [
        {"record": f"asked:{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, expr in enumerate(asked)
    ]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "asked.yml"))
