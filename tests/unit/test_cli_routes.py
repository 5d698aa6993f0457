"""What `fleet routes` prints of a kind: in 80 columns, and as JSON."""

from __future__ import annotations

import dataclasses
import io
import json

from rich.console import Console

from fleet.cli_routes import described, table_of
from fleet.routes import Route
from fleet.routing import START, Arm
from fleet.trust import Audits

ROUTE = Route(
    kind="ticket-topic\x1b[31m",
    tiers=("nano", "mini", "flagship"),
    arms={("nano", START): Arm(412.5, 301, 412.5 * 52_000), ("mini", "nano"): Arm(111, 80, 111 * 610_000)},
    audits={"nano": Audits(18.2, 14.9)},
    barred=frozenset({"nano"}),
    choice="mini",
    odds={"nano": 0.0, "mini": 0.97, "flagship": 0.03},
    since=1_790_000_000.0,
    last=1_790_000_500.0,
)


def test_a_kind_in_eighty_columns() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(table_of([ROUTE]))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "\x1b" not in out.getvalue()
    assert lines[1][1:5] == ["nano", "412", "73%", "$0.0000520"]
    assert "82%/18 low" in out.getvalue()
    assert "97% 09-21" in out.getvalue()
    assert ["mini", "nano", "111", "72%", "$0.000610"] in lines


def test_only_the_kind_is_cut_where_a_line_is_too_short() -> None:
    tiers = ("nano", "mini", "flagship")
    arms = {(tier, came): Arm(1_010, 1_010, 1_010 * 1_234) for tier in tiers for came in (START, *tiers[:2])}
    wide = dataclasses.replace(
        ROUTE,
        kind="a-kind-with-a-very-long-name",
        arms=arms,
        audits=dict.fromkeys(tiers, Audits(4_040, 3_000)),
        barred=frozenset(tiers),
        odds={"nano": 0.0, "mini": 1.0, "flagship": 0.0},
    )
    out = io.StringIO()
    Console(file=out, width=80).print(table_of([wide]))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    whole = [line.split() for line in lines if "mini" in line and "100% 09-21" in line]
    assert whole == [["mini", "1,010", "100%", "$0.00000123", "74%/4040", "low", "100%", "09-21"]]
    assert out.getvalue().count("…") == 1


def test_a_kind_as_json() -> None:
    told = json.loads(json.dumps(described(ROUTE)))
    assert told["starts_on"] == "mini"
    assert told["below_floor"] == ["nano"]
    assert told["arms"][1] == {
        "tier": "nano",
        "came_from": None,
        "n": 412.5,
        "accepted": 0.7297,
        "cost_usd": 0.000052,
    }
    assert told["audits"] == {"nano": {"audited": 18.2, "right": 14.9}}
