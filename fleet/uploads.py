"""Items in a file that somebody uploaded: JSON lines, JSON, CSV, Parquet, or a zip of text files and pictures.

It owns which ending means what, and that little never becomes much. The name is the uploader's word: it is looked at for its
ending and shown, and no path is made of it. It knows no tenant and no job.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from fleet import zips
from fleet.blobs import Blobs
from fleet.errors import BadInputError
from fleet.jobs import FilesSource, ImagesSource
from fleet.sources import (
    MAX_LINE_BYTES,
    Packed,
    Skipped,
    csv_rows,
    json_lines,
    json_list,
    media_type_of,
    pack,
    picture_item,
    text_item,
    why,
)

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".zip")
TEXT_BYTES: int = FilesSource.model_fields["max_bytes"].default
PICTURE_BYTES: int = ImagesSource.model_fields["max_bytes"].default
#: Rows of a Parquet file that are read together.
ROWS = 16


@dataclass(frozen=True, slots=True)
class Upload:
    """Where the bytes of an uploaded file are, and what it is called."""

    path: Path
    name: str


def read_upload(upload: Upload, blobs: Blobs) -> Iterator[Packed | Skipped]:
    """The items of an uploaded file in order; the bytes of pictures go into `blobs`.

    Raises:
        BadInputError: no items are read from a file of this name, it is not what its name says, or it becomes too much.
    """
    name, suffix = PurePosixPath(upload.name), PurePosixPath(upload.name).suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInputError(f"Items are read from files whose names end in {', '.join(SUFFIXES)}; {name} does not.")
    try:
        with upload.path.open("rb") as file:
            if suffix == ".zip":
                yield from _zip(file, blobs)
                return
            # A row has the names of its columns with it, which may be long, and Parquet is packed: a table becomes more, too.
            allowance = zips.Allowance.of(upload.path.stat().st_size)
            for found in _read(name, suffix, file):
                allowance.take(len(found.line) if isinstance(found, Packed) else 0)
                yield found
    except FileNotFoundError as error:
        raise BadInputError(f"The file {name} was deleted just now.") from error


def _read(name: PurePosixPath, suffix: str, file: BinaryIO) -> Iterator[Packed | Skipped]:
    readers = {".json": json_list, ".csv": csv_rows, ".parquet": _parquet}
    return readers.get(suffix, json_lines)(name, file)


def _zip(file: BinaryIO, blobs: Blobs) -> Iterator[Packed | Skipped]:
    for path, data in zips.members(file, _most):
        if data is None:
            yield Skipped(path=path, reason=f"over {TEXT_BYTES:,} bytes, a picture over {PICTURE_BYTES:,}")
        elif media_type_of(data) is not None:
            yield picture_item(path, data, blobs)
        else:
            yield text_item(path, data)


def _most(beginning: bytes) -> int:
    return TEXT_BYTES if media_type_of(beginning) is None else PICTURE_BYTES


def _parquet(name: PurePosixPath, file: BinaryIO) -> Iterator[Packed | Skipped]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415  only who needs it has it
    except ImportError:
        raise BadInputError(
            "Parquet is not read here: pyarrow is not installed where the API runs (pip install 'tierfleet[parquet]'); "
            "upload the items as .jsonl."
        ) from None
    try:
        row = 0
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=ROWS):
            for item in batch.to_pylist():
                yield _row(f"{name.name}[{row}]", item)
                row += 1
    except (ArrowException, OSError, ValueError) as error:
        raise BadInputError(f"{name} is not Parquet: {type(error).__name__}.") from error


def _row(where: str, item: Any) -> Packed | Skipped:
    try:
        packed = pack(
            {column: str(value) if isinstance(value, decimal.Decimal) else value for column, value in item.items()}
        )
    except (TypeError, ValueError, RecursionError) as error:
        return Skipped(path=where, reason=why(error))
    return (
        packed if len(packed.line) <= MAX_LINE_BYTES else Skipped(path=where, reason=f"over {MAX_LINE_BYTES:,} bytes")
    )
