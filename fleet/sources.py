"""Where items come from: a list, JSON lines, JSON, CSV, a folder of text files or of pictures, one item at a time.

It owns the rules of what can be an item and what is skipped; it knows no index and no job.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from fleet.blobs import Blobs
from fleet.config import Frozen
from fleet.errors import BadInputError
from fleet.jobs import FilesSource, ImagesSource, Items
from fleet.walk import walk

MAX_LINE_BYTES = 10_000_000
#: A .json file is read whole; more than this belongs into JSON lines.
MAX_JSON_BYTES = 100_000_000
_TOO_LONG = f"over {MAX_LINE_BYTES:,} bytes"
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv")


class Skipped(Frozen):
    """What could not become an item: the path (and line), and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Packed:
    """One item as a line of JSON, in UTF-8, without the line's end."""

    line: bytes
    #: Whether it names a picture that was read for it.
    picture: bool = False


def read_source(source: Items | tuple[Any, ...], blobs: Blobs) -> Iterator[Packed | Skipped]:
    """The items of `source` in order; the bytes of pictures go into `blobs` as `images/<sha256>`.

    Raises:
        BadInputError: the source does not exist, cannot be read, or has a form that is not supported.
    """
    if not isinstance(source, Items):
        yield from _inline(source)
    elif source.files is not None:
        yield from _files(source.files)
    elif source.images is not None:
        yield from _images(source.images, blobs)
    elif source.path is not None:
        yield from _path(source.path)
    else:
        raise BadInputError(
            "items.file names a file that was uploaded to a fleet; only a job submitted there can have it."
        )


def check_source(source: Items) -> None:
    """BadInputError when `source` cannot be read at all; only its first item is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in read_source(source, Blobs(Path(folder))):
            return


def _inline(items: tuple[Any, ...]) -> Iterator[Packed]:
    for number, item in enumerate(items, start=1):
        try:
            packed = pack(item)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInputError(f"items.{number - 1} cannot be written as JSON: {error}.") from error
        if len(packed.line) > MAX_LINE_BYTES:
            raise BadInputError(f"items.{number - 1} is over {MAX_LINE_BYTES:,} bytes; send less per item.")
        yield packed


def _path(path: Path) -> Iterator[Packed | Skipped]:
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            yield from _files(FilesSource(root=path))
            return
        if not path.is_file() or suffix not in _SUFFIXES:
            what = "is of no kind that items are read from" if path.exists() else "does not exist"
            raise BadInputError(f"{path} {what}; give a folder or a file ending in {', '.join(_SUFFIXES)}.")
        with path.open("rb") as file:
            if suffix == ".json":
                yield from json_list(path, file)
            elif suffix == ".csv":
                yield from csv_rows(path, file)
            else:
                yield from json_lines(path, file)
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror or error}.") from error


def json_lines(path: PurePath, file: BinaryIO) -> Iterator[Packed | Skipped]:
    """An item for each line; `path` is what the file is called, here and below."""
    for number, line in lines(file):
        where = f"{path.name}:{number}"
        if line is None:
            yield Skipped(path=where, reason=_TOO_LONG)
        elif line.strip():
            try:
                yield pack(parsed(line))
            except (ValueError, RecursionError) as error:
                yield Skipped(path=where, reason=why(error))


def json_list(path: PurePath, file: BinaryIO) -> Iterator[Packed | Skipped]:
    """The items of one list. Raises BadInputError: it is none, or too large."""
    text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise BadInputError(f"{path} is over {MAX_JSON_BYTES:,} bytes; write it as JSON lines (.jsonl), an item each.")
    try:
        data = parsed(text)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not JSON: {why(error)}.") from error
    if not isinstance(data, list):
        raise BadInputError(f"{path} has to hold a list of items; it holds one {type(data).__name__}.")
    for number, item in enumerate(data):
        where = f"{path.name}[{number}]"
        try:
            packed = pack(item)
        except (ValueError, RecursionError) as error:
            yield Skipped(path=where, reason=why(error))
            continue
        yield packed if len(packed.line) <= MAX_LINE_BYTES else Skipped(path=where, reason=_TOO_LONG)


def csv_rows(path: PurePath, file: BinaryIO) -> Iterator[Packed | Skipped]:
    """A mapping for each row, by the names in the first line. Raises BadInputError: it is no CSV."""
    # The csv module has one limit for the whole process; a support ticket is easily longer than its default.
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader(_csv_text(path, file))
    try:
        header = [name.strip() for name in next(rows, [])]
        if len(set(header)) < len(header) or "" in header:
            raise BadInputError(f"{path}: every column needs a name of its own in the first line.")
        for row in rows:
            if not row:
                continue
            where = f"{path.name}:{rows.line_num}"
            if len(row) != len(header):
                yield Skipped(path=where, reason=f"{len(row)} cells, the header has {len(header)}")
            elif any("\udc80" <= character <= "\udcff" for cell in row for character in cell):
                yield Skipped(path=where, reason="not UTF-8")
            else:
                yield pack(dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise BadInputError(
            f"{path}, line {rows.line_num}: {error}; a quote above is probably never closed."
        ) from error


def _csv_text(path: PurePath, file: BinaryIO) -> Iterator[str]:
    for number, line in lines(file):
        if line is None:
            raise BadInputError(f"{path}, line {number} is over {MAX_LINE_BYTES:,} bytes; is it CSV?")
        # What is no UTF-8 survives as lone surrogates, so that only its own row is skipped.
        yield line.decode("utf-8", "surrogateescape")


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number, from 1; None instead of a line over the cap. A byte order mark is dropped."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) <= MAX_LINE_BYTES:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)
        yield number, None


def _files(source: FilesSource) -> Iterator[Packed | Skipped]:
    for found in walk(source.root, source.include, source.exclude):
        data = _content(source.root, found.path, source.max_bytes) if found.problem is None else found.problem
        if isinstance(data, str):
            yield Skipped(path=_named(found.path), reason=data)
        else:
            yield text_item(found.path, data)


def text_item(path: str, data: bytes) -> Packed | Skipped:
    """The item of a text file; skipped where it is none."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return Skipped(path=path, reason="not UTF-8 text")
    if not text.strip():
        return Skipped(path=path, reason="empty")
    return pack({"path": path, "text": text, "bytes": len(data)})


def _images(source: ImagesSource, blobs: Blobs) -> Iterator[Packed | Skipped]:
    for found in walk(source.root, source.include, source.exclude):
        data = _content(source.root, found.path, source.max_bytes) if found.problem is None else found.problem
        if isinstance(data, str):
            yield Skipped(path=_named(found.path), reason=data)
        else:
            yield picture_item(found.path, data, blobs)


def picture_item(path: str, data: bytes, blobs: Blobs) -> Packed | Skipped:
    """The item of a picture, whose bytes go into `blobs`; skipped where it is none."""
    media_type = media_type_of(data)
    if media_type is None:
        return Skipped(path=path, reason="no PNG, JPEG, GIF or WebP picture" if data else "empty")
    name = f"images/{hashlib.sha256(data).hexdigest()}"
    if not blobs.exists(name):
        blobs.put(name, data)
    return replace(pack({"path": path, "media_type": media_type, "bytes": len(data), "image": name}), picture=True)


def _content(root: Path, path: str, max_bytes: int) -> bytes | str:
    """The bytes of a regular file, or why there are none."""
    try:
        # A file that has become a link or a pipe since it was listed is not followed and not waited for.
        handle = os.open(root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return "not a regular file"
            data = file.read(max_bytes + 1)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return f"over {max_bytes:,} bytes" if len(data) > max_bytes else data


def media_type_of(data: bytes) -> str | None:
    """Of a picture, by how it begins; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def parsed(text: bytes) -> Any:
    """JSON of an item. Raises ValueError, RecursionError: it is none; `why` says it in words."""
    return json.loads(text.decode("utf-8-sig"), parse_constant=_no_number)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def pack(item: Any) -> Packed:
    """An item as a line. Raises TypeError, ValueError, RecursionError: it cannot be written as JSON."""
    text = json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_yaml_value)
    return Packed(text.encode("utf-8", "replace"))


def _yaml_value(value: Any) -> str:
    """YAML reads dates and times as such; in an item they are text."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _named(path: str) -> str:
    return path.encode("utf-8", "replace").decode()


def why(error: Exception) -> str:
    """What is wrong with a line that cannot be read."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start})"
    if isinstance(error, RecursionError):
        return "nested too deep"
    return f"not JSON: {error}" if isinstance(error, json.JSONDecodeError) else str(error)
