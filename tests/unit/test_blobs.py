"""Blobs: names, atomic writes, ranges."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.blobs import BlobError, Blobs


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def test_what_is_put_is_read(blobs: Blobs) -> None:
    blobs.put("jobs/a1/items", b"0123456789")
    assert blobs.exists("jobs/a1/items")
    assert blobs.size("jobs/a1/items") == 10
    assert blobs.read("jobs/a1/items") == b"0123456789"
    assert blobs.read("jobs/a1/items", 3, 4) == b"3456"
    assert blobs.read("jobs/a1/items", 8) == b"89"
    blobs.put("jobs/a1/items", b"new")
    assert blobs.read("jobs/a1/items") == b"new"


def test_a_writer_says_where_things_stand(blobs: Blobs) -> None:
    with blobs.append_writer("a") as writer:
        assert [writer.write(b"one"), writer.write(b""), writer.write(b"three")] == [0, 3, 3]
        assert not blobs.exists("a")
    assert blobs.read("a") == b"onethree"


def test_a_failed_write_leaves_what_was_there(blobs: Blobs, tmp_path: Path) -> None:
    blobs.put("a", b"old")
    with pytest.raises(RuntimeError), blobs.append_writer("a") as writer:
        writer.write(b"half")
        raise RuntimeError
    assert blobs.read("a") == b"old"
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == ["a"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "../a",
        "a/../b",
        "a//b",
        "a/",
        ".",
        "./a",
        ".hidden",
        "a/.x",
        "a\\b",
        "a\nb",
        "a\0b",
        "x" * 501,
        "ä" * 150,
    ],
)
def test_other_names_are_refused(blobs: Blobs, name: str) -> None:
    with pytest.raises(BlobError, match="no name for a blob"):
        blobs.put(name, b"")


@given(st.text(max_size=30))
def test_no_name_leads_out(name: str) -> None:
    root = Path("/nowhere/blobs")
    try:
        path = Blobs(root).path_of(name)
    except BlobError:
        return
    assert path.is_relative_to(root)
    assert ".." not in path.parts


def test_a_link_out_of_the_folder_is_refused(blobs: Blobs, tmp_path: Path) -> None:
    blobs.put("a", b"")
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "blobs" / "link").symlink_to(outside)
    with pytest.raises(BlobError, match="leads out"):
        blobs.put("link/x", b"")
    assert list(outside.iterdir()) == []


def test_missing_and_cut_blobs_are_said(blobs: Blobs) -> None:
    with pytest.raises(BlobError, match='no blob "a"'):
        blobs.read("a")
    with pytest.raises(BlobError, match='no blob "a"'):
        blobs.size("a")
    blobs.put("a", b"12")
    with pytest.raises(BlobError, match="ends after 2 bytes; 5 were expected"):
        blobs.read("a", 1, 4)
    with pytest.raises(BlobError, match="below 0"):
        blobs.read("a", -1)
    with pytest.raises(BlobError, match="no blob"):
        blobs.read("a/b")
