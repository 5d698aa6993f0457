"""The metrics as text: names by one scheme, every tier and reason from the start, and nothing but them in the labels."""

from __future__ import annotations

import re

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from fleet.config import Environment
from fleet.errors import BadInputError
from fleet.metrics import REASONS, AccountMetrics, Metrics, OpenJobMetrics, StoreMetrics
from fleet.metrics_endpoint import Together
from queues.limits import Standing
from queues.shared import Cap
from queues.survey import OpenJobs, Righted, Survey, TierSurvey

IDLE = TierSurvey(ready=0, out=0, workers=0, capacity=0)
SURVEY = Survey(
    tiers={"nano": TierSurvey(ready=7, out=3, workers=2, capacity=200), "mini": IDLE},
    watched=5,
    overdue=2,
    oldest_overdue_s=1.25,
    gates_overdue=1,
    righted={
        ("nano", Righted.CLAIM_EXPIRED): 4,
        ("nano", Righted.KILL): 3,
        ("gone", Righted.KILL): 1,
        ("nano", "of_a_newer_version"): 9,
    },
    oldest_gate_s=0.5,
)
OPEN = OpenJobs(
    open=5,
    paused=3,
    halted=2,
    at_cap=1,
    caps=7_000_000_000,
    used=4_000_000_000,
    held=1_500_000_000,
    nearly_used_up=2,
    used_by={"acme": (95, 95), "*": (2_000_000_000, 3_000_000_000)},
)
CAPS = [Cap("acme", "day", 100), Cap("acme", "month", 1_000), Cap("*", "month", 5_000_000_000)]
FREE = Standing(None, None, None, requests=9, tokens=900, calls=3, next_s=0.0, paused_s=0.0, outage_s=None)
BUSY = Standing(100, 1_000, 4, requests=50, tokens=250, calls=1, next_s=1.5, paused_s=2.5, outage_s=0.0)


def samples(*collectors: Collector) -> dict[tuple[str, ...], float]:
    """(name, values of labels) -> value."""
    families = text_string_to_metric_families(generate_latest(Together(collectors)).decode())
    found = [sample for family in families for sample in family.samples]
    names = ("tier", "model", "reason", "limit", "per")
    shown = {(s.name, *(s.labels[name] for name in names if name in s.labels)): s.value for s in found}
    assert len(shown) == len(found)
    return shown


def test_a_survey_is_shown_number_by_number() -> None:
    shown = samples(Metrics(SURVEY))
    assert shown["tierfleet_backlog_subtasks", "nano"] == 7
    assert shown["tierfleet_released_subtasks", "nano"] == 3
    assert shown["tierfleet_workers", "nano"] == 2
    assert shown["tierfleet_capacity_subtasks", "nano"] == 200
    assert shown[("tierfleet_watched_subtasks",)] == 5
    assert shown[("tierfleet_overdue_subtasks",)] == 2
    assert shown[("tierfleet_overdue_oldest_seconds",)] == 1.25
    assert shown[("tierfleet_overdue_gates",)] == 1
    assert shown[("tierfleet_overdue_gate_oldest_seconds",)] == 0.5
    assert shown["tierfleet_reconciler_put_back_total", "nano", "claim_expired"] == 4
    assert shown["tierfleet_subtask_kills_total", "nano"] == 3


def test_what_never_happened_is_shown_as_zero_and_what_is_not_configured_not_at_all() -> None:
    shown = samples(Metrics(Survey({"nano": IDLE}, 0, 0, 0.0, 0, SURVEY.righted)))
    for reason in REASONS:
        assert ("tierfleet_reconciler_put_back_total", "nano", reason) in shown
    assert shown["tierfleet_subtasks_quarantined_total", "nano"] == 0
    assert not [labels for labels in shown if "gone" in labels or "of_a_newer_version" in labels]


def test_an_account_is_shown_with_its_use_of_the_limits_that_it_has() -> None:
    shown = samples(AccountMetrics({"free": FREE, "busy": BUSY}))
    assert shown["tierfleet_limit_used", "free", "tokens"] == 900
    assert not [key for key in shown if key[:2] == ("tierfleet_limit_use_ratio", "free")]
    assert shown["tierfleet_limit_use_ratio", "busy", "requests"] == 0.5
    assert shown["tierfleet_limit_use_ratio", "busy", "tokens"] == 0.25
    assert shown["tierfleet_limit_use_ratio", "busy", "in_flight"] == 0.25
    assert (shown["tierfleet_account_outage", "free"], shown["tierfleet_account_outage", "busy"]) == (0, 1)
    assert shown["tierfleet_account_paused_seconds", "busy"] == 2.5
    assert shown["tierfleet_account_next_call_seconds", "busy"] == 1.5


def test_money_is_shown_in_dollars_and_in_total() -> None:
    assert samples(OpenJobMetrics(OPEN, CAPS)) == {
        ("tierfleet_open_jobs",): 5,
        ("tierfleet_nearly_spent_jobs",): 2,
        ("tierfleet_paused_jobs", "asked"): 1,
        ("tierfleet_paused_jobs", "budget"): 1,
        ("tierfleet_paused_jobs", "halted"): 1,
        ("tierfleet_budget_dollars",): 7,
        ("tierfleet_budget_spent_dollars",): 4,
        ("tierfleet_budget_held_dollars",): 1.5,
        ("tierfleet_budget_left_dollars",): 1.5,
        ("tierfleet_nearly_spent_tenants",): 1,
        ("tierfleet_fleet_budget_dollars", "month"): 5,
        ("tierfleet_fleet_spent_dollars", "day"): 2,
        ("tierfleet_fleet_spent_dollars", "month"): 3,
    }


def test_names_follow_one_scheme_and_every_metric_says_what_it_is() -> None:
    every = [StoreMetrics(answers=True), Metrics(SURVEY), AccountMetrics({"busy": BUSY}), OpenJobMetrics(OPEN, CAPS)]
    for family in text_string_to_metric_families(generate_latest(Together(every)).decode()):
        assert re.fullmatch(r"tierfleet_[a-z]+(_[a-z]+)*", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge")
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
            assert sample.labels.keys() <= {"tier", "reason", "model", "limit", "per"}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (None, None),
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("metrics.internal:80", ("metrics.internal", 80)),
    ],
)
def test_the_address_is_a_host_and_a_port(address: str | None, expected: tuple[str, int] | None) -> None:
    assert Environment(fleet_metrics_address=address).metrics_address == expected


@pytest.mark.parametrize(
    "address", ["9464", ":9464", "127.0.0.1", "host:0", "host:99999", "http://host:1", "host:1/metrics"]
)
def test_an_address_that_is_none_is_named_before_anything_starts(address: str) -> None:
    with pytest.raises(BadInputError, match="FLEET_METRICS_ADDRESS is no HOST:PORT"):
        Environment(fleet_metrics_address=address).check()
