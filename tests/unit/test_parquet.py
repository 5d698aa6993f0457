"""The ledger as Parquet: every field of a row is a column with its type; without pyarrow there is no file."""

from __future__ import annotations

import importlib.util
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from fleet import parquet
from fleet.ledger import LedgerEntry
from fleet.parquet import COLUMNS, write_parquet
from fleet.prices import Rates, Usage

PRICE = Rates(
    input=Decimal("0.2"), cached_input=Decimal("0.02"), cache_write=Decimal("0.25"), output=Decimal(1), source="config"
)
ROW = LedgerEntry(
    call_id="c1",
    job="j",
    role="work",
    attempt=2,
    tier="nano",
    model="m",
    provider="p",
    usage=Usage(input_tokens=5, cached_tokens=2, output_tokens=1),
    cost_nano_usd=12_345_678_901_234,
    price=PRICE,
    status="ok",
    started_at=1.25,
    finished_at=2.5,
)


def test_every_field_is_a_column() -> None:
    nested = {"usage", "price"}
    fields = (LedgerEntry.model_fields.keys() - nested) | Usage.model_fields.keys()
    assert set(COLUMNS) == fields | {f"price_{name}" for name in Rates.model_fields}
    assert len(COLUMNS) == len(set(COLUMNS))


def test_without_pyarrow_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not write_parquet(tmp_path / "ledger.parquet", [ROW])
    assert list(tmp_path.iterdir()) == []


def test_rows_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow", reason="tierfleet[parquet] is not installed", exc_type=ImportError)
    monkeypatch.setattr(parquet, "ROWS", 2)
    bare = ROW.model_copy(update={"call_id": "c2", "price": None, "usage_reported": False})
    path = tmp_path / "ledger.parquet"
    assert write_parquet(path, [ROW, bare, ROW])
    table = sys.modules["pyarrow.parquet"].read_table(path)
    assert table.column_names == list(COLUMNS)
    one, other, _ = table.to_pylist()
    assert {name: str(table.schema.field(name).type) for name in ("cost_nano_usd", "started_at", "price_input")} == {
        "cost_nano_usd": "int64",
        "started_at": "double",
        "price_input": "string",
    }
    assert (one["cost_nano_usd"], one["attempt"], one["started_at"]) == (12_345_678_901_234, 2, 1.25)
    assert (one["input_tokens"], one["cached_tokens"], one["price_cache_write"]) == (5, 2, "0.25")
    assert (one["usage_reported"], other["usage_reported"], other["price_input"]) == (True, False, None)


def test_no_rows_are_a_file_without_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="tierfleet[parquet] is not installed", exc_type=ImportError)
    assert write_parquet(tmp_path / "ledger.parquet", [])
    assert sys.modules["pyarrow.parquet"].read_table(tmp_path / "ledger.parquet").num_rows == 0
