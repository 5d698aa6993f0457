"""The ledger as a Parquet file, for whoever asks it with a database: a row for each call, flat, with plain types.

It needs pyarrow, which is no dependency (`tierfleet[parquet]`): without it there is no file, and the same rows are in JSON lines.
Numbers are numbers, moments Unix seconds, prices decimal text, as in `ledger.jsonl`; each field of usage and price is a column.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from fleet.atomic import atomic_writer
from fleet.ledger import LedgerEntry
from fleet.prices import Rates, Usage

#: Rows that are in memory at a time.
ROWS = 10_000
_INTEGERS = ("attempt", "images", "fence", "price_above")
_SECONDS = ("started_at", "finished_at")
COLUMNS = tuple(
    column
    for name in LedgerEntry.model_fields
    for column in (
        Usage.model_fields
        if name == "usage"
        else [f"price_{field}" for field in Rates.model_fields]
        if name == "price"
        else [name]
    )
)


def write_parquet(path: Path, ledger: Iterable[LedgerEntry]) -> bool:
    """Write `ledger` to `path`, whole or not at all; False, and nothing is written, where there is no pyarrow.

    Raises OSError: the disk is full or the folder went away.
    """
    if importlib.util.find_spec("pyarrow") is None:
        return False
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    schema = arrow.schema([(name, _type(name, arrow)) for name in COLUMNS])
    with atomic_writer(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for rows in _batches(map(_row, ledger)):
            writer.write_table(arrow.Table.from_pylist(rows, schema))
    return True


def _type(name: str, arrow: Any) -> Any:
    if name == "usage_reported":
        return arrow.bool_()
    if name in _SECONDS:
        return arrow.float64()
    number = name in _INTEGERS or name.endswith(("_tokens", "_nano_usd", "_ms"))
    return arrow.int64() if number else arrow.string()


def _row(entry: LedgerEntry) -> dict[str, Any]:
    row: dict[str, Any] = entry.model_dump(mode="json")
    price = row.pop("price") or {}
    row.update(row.pop("usage"))
    row.update((f"price_{name}", value) for name, value in price.items())
    return row


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(rows, ROWS)):
        yield batch
