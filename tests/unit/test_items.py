"""Items: every source, what is skipped and why, and reading them back."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import sources
from fleet.blobs import BlobError, Blobs
from fleet.errors import BadInputError
from fleet.items import ItemIndex, ItemReader, pack_items, read_item, read_items
from fleet.jobs import FilesSource, ImagesSource, Items
from fleet.walk import Patterns

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    return tmp_path / "src"


def unpacked(blobs: Blobs, index: ItemIndex) -> list[Any]:
    items = list(read_items(blobs, index, 0, index.count))
    assert items == [read_item(blobs, index, i) for i in range(len(index))]
    return items


def reasons(index: ItemIndex) -> dict[str, str]:
    return {entry.path: entry.reason for entry in index.skipped}


def test_a_list_of_anything(blobs: Blobs) -> None:
    items = ({"a": 1}, ["x"], "text\nwith a line", 3, None, True, "𝄞 ünï")
    index = pack_items(items, blobs, "jobs/j/items")
    assert unpacked(blobs, index) == list(items)
    # Another process has the index as JSON and the blobs.
    assert read_item(blobs, ItemIndex.model_validate_json(index.model_dump_json()), 6) == "𝄞 ünï"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(json_values, min_size=1, max_size=10))
def test_every_json_value_comes_back(tmp_path_factory: pytest.TempPathFactory, items: list[Any]) -> None:
    blobs = Blobs(tmp_path_factory.mktemp("blobs"))
    # Text that is no Unicode (a lone surrogate) cannot be sent to any model; it becomes a question mark.
    expected = json.loads(json.dumps(items, ensure_ascii=False).encode("utf-8", "replace"))
    assert unpacked(blobs, pack_items(tuple(items), blobs, "items")) == expected


def test_what_yaml_reads_as_a_date_is_text(blobs: Blobs) -> None:
    index = pack_items(({"day": datetime.date(2026, 1, 2)},), blobs, "items")
    assert read_item(blobs, index, 0) == {"day": "2026-01-02"}


@pytest.mark.parametrize("item", [float("nan"), {"a": {1, 2}}])
def test_an_inline_item_that_is_no_json_is_named(blobs: Blobs, item: Any) -> None:
    with pytest.raises(BadInputError, match=r"items\.1 cannot be written as JSON"):
        pack_items((1, item), blobs, "items")
    assert not blobs.exists("items")


def test_json_lines_with_bad_ones(blobs: Blobs, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 1000)
    lines = [
        b'\xef\xbb\xbf{"n": 1}',
        b"{broken",
        b"",
        b"   ",
        b'"' + b"x" * 3000 + b'"',
        b'{"n": NaN}',
        b'{"n": 1e999}',
        b'"\xff"',
        b"[" * 900,
        b'{"n": 2}\r',
        b'{"n": 3}',
    ]
    path = root / "tickets.jsonl"
    path.write_bytes(b"\n".join(lines))
    index = pack_items(Items(path=path), blobs, "items")
    assert unpacked(blobs, index) == [{"n": 1}, {"n": 2}, {"n": 3}]
    found = reasons(index)
    assert list(found) == [f"tickets.jsonl:{number}" for number in (2, 5, 6, 7, 8, 9)]
    assert found["tickets.jsonl:2"].startswith("not JSON: ")
    assert found["tickets.jsonl:5"].startswith("over ")
    assert found["tickets.jsonl:8"] == "not UTF-8 (byte 1)"
    assert index.skipped_count == 6


def test_a_line_over_the_cap_is_read_past(blobs: Blobs, root: Path) -> None:
    path = root / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'"')
        for _ in range(21):
            file.write(b"x" * 1_000_000)
        file.write(b'"\n1\n')
    index = pack_items(Items(path=path), blobs, "items")
    assert (unpacked(blobs, index), reasons(index)) == ([1], {"a.jsonl:1": "over 10,000,000 bytes"})


def test_skipped_entries_are_counted_beyond_those_named(blobs: Blobs, root: Path) -> None:
    (root / "a.jsonl").write_text("x\n" * 1500 + "1\n")
    index = pack_items(Items(path=root / "a.jsonl"), blobs, "items")
    assert (index.count, len(index.skipped), index.skipped_count) == (1, 1000, 1500)


def test_json_list(blobs: Blobs, root: Path) -> None:
    (root / "a.json").write_text('[{"n": 1}, 1e999, "two"]')
    index = pack_items(Items(path=root / "a.json"), blobs, "items")
    assert unpacked(blobs, index) == [{"n": 1}, "two"]
    assert list(reasons(index)) == ["a.json[1]"]


def test_csv(blobs: Blobs, root: Path) -> None:
    (root / "a.csv").write_bytes(
        b'\xef\xbb\xbfid,text\r\n1,"two\nlines"\r\n2\r\n\r\n3,\xff\r\n4,' + b"x" * 200_000 + b"\r\n"
    )
    index = pack_items(Items(path=root / "a.csv"), blobs, "items")
    assert unpacked(blobs, index) == [{"id": "1", "text": "two\nlines"}, {"id": "4", "text": "x" * 200_000}]
    assert reasons(index) == {"a.csv:4": "1 cells, the header has 2", "a.csv:6": "not UTF-8"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{}", "has to hold a list"),
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[" * 100_000, "nested too deep"),
        ("a.csv", b"a,a\n1,2\n", "a name of its own"),
        ("a.csv", b"a,b\n", "holds no items"),
        ("a.jsonl", b"", "holds no items"),
        ("a.jsonl", b"nonsense\n", r"no usable items; 1 skipped, the first: a\.jsonl:1: not JSON"),
        ("a.xlsx", b"PK", "of no kind that items are read from"),
    ],
)
def test_sources_that_cannot_be_used(blobs: Blobs, root: Path, name: str, content: bytes, message: str) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        pack_items(Items(path=root / name), blobs, "items")
    assert not blobs.exists("items")
    assert not blobs.exists("items.idx")


def test_missing_sources(blobs: Blobs, root: Path) -> None:
    gone = root / "gone"
    for source in (Items(path=gone), Items(path=root / "gone.jsonl"), Items(files=FilesSource(root=gone))):
        with pytest.raises(BadInputError, match="does not exist"):
            pack_items(source, blobs, "items")
    with pytest.raises(BadInputError, match="holds no items"):
        pack_items((), blobs, "items")
    (root / "file").touch()
    with pytest.raises(BadInputError, match="is not a folder"):
        pack_items(Items(images=ImagesSource(root=root / "file")), blobs, "items")


def test_files_of_every_sort(blobs: Blobs, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = "a b/[x] (1)/näme\nwith `ticks`.py"
    for name, content in {
        "b.py": b"\xef\xbb\xbfprint()\r\n",
        "a/z.py": b"1",
        odd: b"odd",
        "empty.py": b"",
        "blank.py": b" \n",
        "nul.py": b"a\0b",
        "latin.py": b"\xe4",
        "big.py": b"x" * 1001,
        "c.txt": b"text",
        ".hidden/a.py": b"1",
        ".git/a.py": b"1",
        "__pycache__/a.py": b"1",
        "node_modules/a.py": b"1",
        "env/pyvenv.cfg": b"",
        "env/a.py": b"1",
        "tests/a.py": b"1",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "loop").symlink_to(root)
    (root / "loop.py").symlink_to("loop.py")
    (root / "out.py").symlink_to("/etc/hostname")
    os.mkfifo(root / "pipe.py")
    source = FilesSource(root=root, include=("**/*.py",), exclude=("tests",), max_bytes=1000)
    index = pack_items(Items(files=source), blobs, "items")
    assert unpacked(blobs, index) == [
        {"path": "b.py", "text": "print()\r\n", "bytes": 12},
        {"path": "a/z.py", "text": "1", "bytes": 1},
        {"path": odd, "text": "odd", "bytes": 3},
    ]
    assert reasons(index) == {
        "big.py": "over 1,000 bytes",
        "blank.py": "empty",
        "empty.py": "empty",
        "latin.py": "not UTF-8 text",
        "loop.py": "a symbolic link",
        "nul.py": "not UTF-8 text",
        "out.py": "a symbolic link",
        "pipe.py": "not a regular file",
    }
    assert pack_items(Items(files=source), blobs, "again").skipped == index.skipped
    assert blobs.read("again") == blobs.read("items")


def test_a_file_that_cannot_be_opened_is_skipped(blobs: Blobs, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a.py").write_text("1")
    (root / "b.py").write_text("2")
    real = os.open

    def refuse(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path).endswith("a.py"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, "open", refuse)
    index = pack_items(Items(files=FilesSource(root=root)), blobs, "items")
    assert reasons(index) == {"a.py": "cannot be read: Permission denied"}
    assert index.count == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes as a name")
def test_a_name_that_is_not_utf8_is_skipped(blobs: Blobs, root: Path) -> None:
    folder = os.fsencode(root) + b"/\xff"
    os.mkdir(folder)  # noqa: PTH102  no Path for bytes
    for name in (folder + b"/a.py", os.fsencode(root) + b"/b.py"):
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(b"1")
    index = pack_items(Items(files=FilesSource(root=root)), blobs, "items")
    assert reasons(index) == {"?/a.py": "its name is not UTF-8"}


def test_a_folder_given_as_path_is_files(blobs: Blobs, root: Path) -> None:
    (root / "notes").write_text("text")
    index = pack_items(Items(path=root), blobs, "items")
    assert read_item(blobs, index, 0) == {"path": "notes", "text": "text", "bytes": 4}


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        (("**/*",), ["a.txt"]),
        (("**",), ["a.txt"]),
        ((".ci/**",), [".ci/run"]),
        (("**/*", ".ci/*"), ["a.txt", ".ci/run"]),
        (("**/.env",), [".env"]),
        ((".*",), [".env"]),
        (("**/.*", "**/.*/*"), [".env", ".ci/run"]),
        (("env/**",), ["env/x"]),
        (("**/node_modules/*",), ["node_modules/m"]),
    ],
)
def test_hidden_names_have_to_be_asked_for(
    blobs: Blobs, root: Path, include: tuple[str, ...], expected: list[str]
) -> None:
    for name in (".env", "a.txt", ".ci/run", "env/pyvenv.cfg", "env/x", "node_modules/m"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    source = FilesSource(root=root, include=include, exclude=("pyvenv.cfg",))
    index = pack_items(Items(files=source), blobs, "items")
    assert [item["path"] for item in unpacked(blobs, index)] == expected


def test_images_by_their_bytes(blobs: Blobs, root: Path) -> None:
    (root / "a.jpg").write_bytes(PNG)
    (root / "b.png").write_bytes(b"RIFF\0\0\0\0WEBPVP8 ")
    (root / "c.gif").write_bytes(b"no picture")
    (root / "same.png").write_bytes(PNG)
    index = pack_items(Items(images=ImagesSource(root=root)), blobs, "items")
    name = f"images/{hashlib.sha256(PNG).hexdigest()}"
    items = unpacked(blobs, index)
    assert items[0] == {"path": "a.jpg", "media_type": "image/png", "bytes": 28, "image": name}
    assert [item["media_type"] for item in items] == ["image/png", "image/webp", "image/png"]
    assert items[2]["image"] == name
    assert blobs.read(name) == PNG
    assert reasons(index) == {"c.gif": "no PNG, JPEG, GIF or WebP picture"}


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_items_are_read_in_chunks(blobs: Blobs, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("fleet.items.READ_BYTES", size)
    items = tuple("x" * (number % 13) for number in range(100))
    index = pack_items(items, blobs, "items")
    for start, count in ((0, 100), (99, 1), (37, 20), (100, 0), (0, 0)):
        assert list(read_items(blobs, index, start, count)) == list(items[start : start + count])


@pytest.mark.parametrize("size", [1, 30, 64_000])
def test_single_items_are_read_with_their_neighbours(blobs: Blobs, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("fleet.items.BLOCK_ITEMS", 4)
    monkeypatch.setattr("fleet.items.BLOCK_BYTES", size)
    monkeypatch.setattr("fleet.items.BLOCKS_KEPT", 2)
    items = tuple("x" * (number % 13) for number in range(50))
    index = pack_items(items, blobs, "items")
    reader = ItemReader(blobs)
    for i in (*range(50), 3, 49, 17, 18, 3):
        assert reader.read(index, i) == items[i]
    for i in (-1, 50):
        with pytest.raises(BlobError, match="holds 50 items"):
            reader.read(index, i)


def test_an_item_before_the_cut_of_a_blob_can_be_read(blobs: Blobs) -> None:
    index = pack_items((1, 2, 3), blobs, "items")
    blobs.put("items", b"1\n}\n")
    reader = ItemReader(blobs)
    assert reader.read(index, 0) == 1
    for i in (1, 2):
        with pytest.raises(BlobError):
            reader.read(index, i)


def test_a_block_is_read_once(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    index = pack_items(tuple(range(100)), blobs, "items")
    names: list[str] = []

    def read(self: Blobs, name: str, offset: int = 0, length: int | None = None) -> bytes:
        names.append(name)
        return whole(self, name, offset, length)

    whole = Blobs.read
    monkeypatch.setattr(Blobs, "read", read)
    reader = ItemReader(blobs)
    assert [reader.read(index, i) for i in range(32)] == list(range(32))
    assert names == ["items.idx", "items"]


def test_items_that_are_not_there(blobs: Blobs) -> None:
    index = pack_items((1, 2), blobs, "items")
    for i in (-1, 2):
        with pytest.raises(BlobError, match="holds 2 items"):
            read_item(blobs, index, i)
    blobs.put("items", b"}")
    with pytest.raises(BlobError):
        read_item(blobs, index, 0)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("**/*.py", "a.py", True),
        ("**/*.py", "a/b/c.py", True),
        ("*.py", "a/b.py", True),
        ("src/*.py", "src/a/b.py", False),
        ("src/**/*.py", "src/b.py", True),
        ("src/**", "src/a/b", True),
        ("src/**", "other/src/b", False),
        ("**", "a/b", True),
        ("a/**/b/**/c", "a/x/b/b/y/c", True),
        ("a/**/b/**/c", "a/x/y/c", False),
        ("[ab].py", "b.py", True),
        ("./src/", "src", True),
        ("*.PY", "a.py", False),
    ],
)
def test_patterns(pattern: str, path: str, expected: bool) -> None:
    assert Patterns([pattern]).match(path) is expected


def test_a_hostile_pattern_takes_no_time() -> None:
    assert not Patterns(["/".join(["**", "*a*a*a*b"] * 25)]).match("/".join(["a" * 100] * 200))


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a/../b", "", "x/" * 51])
def test_patterns_that_lead_out(pattern: str) -> None:
    with pytest.raises(BadInputError):
        Patterns([pattern])
