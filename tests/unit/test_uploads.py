"""Items of uploaded files, by what their names end in."""

from __future__ import annotations

import datetime
import decimal
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet.blobs import Blobs
from fleet.errors import BadInputError
from fleet.items import ItemIndex, pack_items, read_items
from fleet.jobs import Items
from fleet.uploads import Upload
from tests.support.archives import HOSTILE, archive

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def packed(blobs: Blobs, name: str, data: bytes) -> ItemIndex:
    blobs.put("files/acme/file-1/content", data)
    return pack_items(Upload(blobs.path_of("files/acme/file-1/content"), name), blobs, "job/items.jsonl")


def items(blobs: Blobs, name: str, data: bytes) -> list[Any]:
    index = packed(blobs, name, data)
    return list(read_items(blobs, index, 0, len(index)))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'{"n": 1}\n\n{"n": 2}\n'),
        ("a.NDJSON", b'{"n": 1}\r\n{"n": 2}'),
        ("a.json", b'[{"n": 1}, {"n": 2}]'),
    ],
)
def test_json_by_the_name(blobs: Blobs, name: str, data: bytes) -> None:
    assert items(blobs, name, data) == [{"n": 1}, {"n": 2}]


def test_csv(blobs: Blobs) -> None:
    assert items(blobs, "my file.csv", b"n,m\n1,2\n3,4\n") == [{"n": "1", "m": "2"}, {"n": "3", "m": "4"}]


def test_a_zip_of_texts_and_pictures(blobs: Blobs) -> None:
    made = archive({"b.txt": "bé".encode(), "a.png": PNG, "c.bin": b"\0\xff", "d.zip": archive({"x": b"x"}), "e": b" "})
    index = packed(blobs, "all.zip", made)
    picture, text = read_items(blobs, index, 0, 2)
    assert text == {"path": "b.txt", "text": "bé", "bytes": 3}
    assert (picture["path"], picture["media_type"], blobs.read(picture["image"])) == ("a.png", "image/png", PNG)
    assert {skipped.path: skipped.reason for skipped in index.skipped} == {
        "c.bin": "not UTF-8 text",
        "d.zip": "not UTF-8 text",
        "e": "empty",
    }


def test_a_picture_may_be_larger_than_a_text(blobs: Blobs) -> None:
    index = packed(blobs, "all.zip", archive({"a.png": PNG + b"\0" * 2_000_000, "b.txt": b"x" * 2_000_000}))
    assert (len(index), [one.path for one in index.skipped]) == (1, ["b.txt"])


@pytest.mark.parametrize("make", [case[1] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_of_a_hostile_zip_nothing_is_kept(blobs: Blobs, tmp_path: Path, make: Callable[[], bytes]) -> None:
    with pytest.raises(BadInputError) as refused:
        packed(blobs, "a.zip", make())
    assert str(tmp_path) not in str(refused.value)
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == ["content"]


def test_of_a_bomb_behind_a_picture_no_picture_is_kept(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="unpacks to over"):
        packed(blobs, "a.zip", archive({"a.png": PNG, "b.txt": bytes(51_000_000)}))
    assert not (tmp_path / "blobs" / "images").exists()


def test_a_table_cannot_become_much_by_the_names_of_its_columns(blobs: Blobs) -> None:
    with pytest.raises(BadInputError, match="unpacks to over"):
        packed(blobs, "a.csv", b"x" * 100_000 + b"\n" + b"1\n" * 2_000)
    assert not blobs.exists("job/items.jsonl")


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("a.txt", b"x", "names end in"),
        ("jsonl", b"x", "names end in"),
        ("a.jsonl", b"{\n[\n", "no usable items; 2 skipped"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "nested too deep"),
        ("a.jsonl", b"\n", "holds no items"),
        ("a.json", b'{"n": 1}', "has to hold a list"),
        ("a.json", b"[", "is not JSON"),
        ("a.csv", b"a,a\n1,2\n", "a name of its own"),
        ("a.zip", archive({}), "holds no items"),
    ],
)
def test_what_holds_no_items_is_refused_without_a_path_of_ours(
    blobs: Blobs, tmp_path: Path, name: str, data: bytes, word: str
) -> None:
    with pytest.raises(BadInputError, match=word) as refused:
        packed(blobs, name, data)
    assert str(tmp_path) not in str(refused.value)


def test_a_file_that_was_deleted_is_missed(blobs: Blobs) -> None:
    with pytest.raises(BadInputError, match="deleted"):
        pack_items(Upload(blobs.path_of("files/acme/file-1/content"), "a.jsonl"), blobs, "job/items.jsonl")


def test_an_upload_is_for_who_has_the_fleet_that_it_was_sent_to(blobs: Blobs) -> None:
    with pytest.raises(BadInputError, match="uploaded to a fleet"):
        pack_items(Items(file="file-1"), blobs, "job/items.jsonl")


def test_parquet_takes_pyarrow(blobs: Blobs) -> None:
    try:
        import pyarrow  # noqa: PLC0415  who has it
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        with pytest.raises(BadInputError, match="tierfleet\\[parquet\\]"):
            packed(blobs, "a.parquet", b"PAR1")
        return
    table = {
        "n": [1, None],
        "day": [datetime.date(2026, 1, 2), datetime.date(2026, 1, 3)],
        "cost": [decimal.Decimal("1.50"), None],
        "tags": [["a"], []],
    }
    made = io.BytesIO()
    parquet.write_table(pyarrow.table(table), made)
    assert json.loads(json.dumps(items(blobs, "a.parquet", made.getvalue()))) == [
        {"n": 1, "day": "2026-01-02", "cost": "1.50", "tags": ["a"]},
        {"n": None, "day": "2026-01-03", "cost": None, "tags": []},
    ]
    for data in (b"", b"PAR1", made.getvalue()[:-9]):
        with pytest.raises(BadInputError, match="is not Parquet"):
            packed(blobs, "a.parquet", data)
