"""The table of metrics is what the code shows; rules and dashboard use nothing that is not in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet import metrics_reference
from fleet.metrics_reference import Row, rows

ROOT = Path(__file__).resolve().parents[2]
ROWS = [row for listed in rows().values() for row in listed]
NAME = re.compile(r"\b(?:tierfleet|process)_[a-z0-9_]+")
RECORDED = re.compile(r"\btierfleet:[a-z0-9_:]+")
#: A selector: the name of a metric and what its labels have to be.
SELECTOR = re.compile(r"\b(tierfleet_[a-z0-9_]+)\{([^}]*)\}")
#: Labels that the scrape configuration gives, and a histogram's own.
OF_THE_TARGET = {"component", "instance", "job", "le"}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "config" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "config" / "grafana" / "tierfleet.json").read_text())
    return found


def asked(part: Any) -> Iterator[str]:
    """Every expression of a dashboard."""
    if isinstance(part, dict):
        yield from (value for name, value in part.items() if name == "expr")
        yield from (expression for value in part.values() for expression in asked(value))
    elif isinstance(part, list):
        yield from (expression for value in part for expression in asked(value))


EXPRESSIONS = [*(rule["expr"] for rule in rules()), *asked(dashboard())]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_metric_keeps_to_the_scheme(row: Row) -> None:
    assert re.fullmatch(r"tierfleet(_[a-z]+)+", row.name)
    assert row.kind in ("counter", "gauge", "histogram")
    assert (row.kind == "counter") == row.name.endswith("_total")
    assert row.text.endswith(".")
    assert row.labels.keys() <= {"tier", "model", "outcome", "reason", "kind", "limit", "status", "route", "per"}


def test_no_name_stands_for_two_things() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_rules_and_dashboard_use_what_the_processes_show() -> None:
    known = {name for row in [*ROWS, *metrics_reference.process_rows()] for name in row.series}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert len(EXPRESSIONS) > 60
    for expression in EXPRESSIONS:
        assert set(NAME.findall(expression)) <= known, expression
        assert set(RECORDED.findall(expression)) <= recorded, expression


def test_rules_and_dashboard_ask_for_labels_and_values_that_there_are() -> None:
    by_series = {name: row for row in ROWS for name in row.series}
    seen = 0
    for expression in EXPRESSIONS:
        for name, labels in SELECTOR.findall(expression):
            for label, values in re.findall(r'(\w+)[!=~]+"([^"]*)"', labels):
                seen += 1
                assert label in by_series[name].labels or label in OF_THE_TARGET, expression
                known = by_series[name].labels.get(label)
                assert not known or set(values.split("|")) <= set(known), expression
    assert seen > 10


def test_every_metric_is_in_the_dashboard() -> None:
    text = " ".join(EXPRESSIONS)
    unseen = {row.name for row in ROWS if not any(re.search(rf"\b{name}\b", text) for name in row.series)}
    assert unseen <= {"tierfleet_limit_used"}


def test_the_panels_of_the_dashboard_are_apart_and_ask_the_data_source_that_was_chosen() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
