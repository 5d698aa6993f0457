"""`fleet prices`: every model in use, lane by lane, with what applies and where it comes from; what is not known says so."""

from __future__ import annotations

import io
from datetime import date

from rich.console import Console

from fleet.cli_prices import Prices, ShownPrice, shown, view
from fleet.config import FleetConfig
from fleet.prices import Rates

CONFIG = FleetConfig.model_validate(
    {
        "models": {
            "gpt-5.4-nano": {"context_tokens": 400_000},
            "gpt-4o": {"context_tokens": 128_000},
            "own": {
                "context_tokens": 400_000,
                "price": {
                    "input": 1,
                    "output": 10,
                    "request": 0.5,
                    "long_context": {"above": 200_000, "input": 2, "output": 20},
                    "lanes": {"flex": 0.8},
                },
            },
            "idle": {"context_tokens": 1_000},
        },
        "tiers": {
            "nano": {"model": "gpt-5.4-nano"},
            "mini": {"model": "gpt-4o", "fallback": "own"},
            "flagship": {"model": "own"},
        },
    }
)


def test_what_applies_by_model_and_lane() -> None:
    rows = list(shown(CONFIG))
    assert [(row.model, row.lane, row.price.above if row.price else None) for row in rows] == [
        ("gpt-5.4-nano", "standard", 0),
        ("gpt-5.4-nano", "flex", 0),
        ("gpt-5.4-nano", "batch", 0),
        ("gpt-4o", "standard", 0),
        ("gpt-4o", "flex", None),
        ("gpt-4o", "batch", 0),
        ("own", "standard", 0),
        ("own", "standard", 200_000),
        ("own", "flex", 0),
        ("own", "flex", 200_000),
        ("own", "batch", 0),
        ("own", "batch", 200_000),
    ]
    assert "in the lane flex; give models.gpt-4o.price" in str(rows[4].unknown)
    assert rows[6].tiers == ("mini", "flagship")
    assert {row.price.source for row in rows[6:] if row.price} == {"config"}
    assert rows[1].price is not None
    assert rows[1].price.since == date(2026, 10, 12)


def test_the_table_reads_in_80_columns() -> None:
    out = io.StringIO()
    found = Prices(prices=tuple(shown(CONFIG)), list="genai-prices 1", list_not_before=date(2026, 11, 9))
    Console(file=out, width=80).print(view(found))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[3].split()[:6] == ["gpt-5.4-nano", "standard", "0.2", "0.02", "0.2", "1.25"]
    flex = next(line for line in lines if "flex >200k" in line)
    assert flex.split() == ["flex", ">200k", "1.6", "1.6", "1.6", "16", "config", "-"]
    text = " ".join(" ".join(lines).split())
    assert text.count("own: each call costs $0.5 beside its tokens.") == 1
    assert 'No price is known for the model "gpt-4o" in the lane flex' in text
    assert "list: genai-prices 1, which comes with the package; its youngest price in force is of 2026-11-09." in text


def test_bands_and_days_are_whole_beside_a_long_name() -> None:
    day, long = date(2026, 10, 12), "an-own-model-with-a-name-of-some-length"
    price = Rates.model_validate(
        {
            "input": "12.125",
            "cached_input": "1.2125",
            "cache_write": "15.156",
            "output": "187.75",
            "above": 272_000,
            "source": "genai-prices",
            "since": day,
            "context": "standard",
        }
    )
    for name in ("gpt-5.6-luna-mini", long):
        out = io.StringIO()
        row = ShownPrice(model=name, tiers=("nano",), lane="standard", price=price)
        Console(file=out, width=80).print(view(Prices(prices=(row,), list="genai-prices 1", list_not_before=day)))
        lines = out.getvalue().splitlines()
        assert all(len(line) <= 80 for line in lines)
        told = next(line for line in lines if "standard >272k" in line)
        assert told.split()[1:] == [
            "standard",
            ">272k",
            "12.125",
            "1.2125",
            "15.156",
            "187.75",
            "list",
            "2026-10-12",
        ]
        assert "…" not in out.getvalue()
        assert name in "".join(line.split()[0] for line in lines[3:] if line and not line.startswith("list:"))
