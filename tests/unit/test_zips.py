"""Zips that nobody vouches for: what is refused, and what comes out of the others."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from typing import BinaryIO

import pytest

from fleet import zips
from fleet.errors import BadInputError
from tests.support.archives import HOSTILE, archive, lying


def read(made: bytes, most: int = 1_000) -> list[tuple[str, bytes | None]]:
    return list(zips.members(io.BytesIO(made), lambda _: most))


@pytest.mark.parametrize(("make", "word"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_what_may_not_be_in_one_is_refused_before_anything_comes_out(make: Callable[[], bytes], word: str) -> None:
    found = zips.members(io.BytesIO(make()), lambda _: 1_000)
    with pytest.raises(BadInputError, match=word):
        next(found)


def test_members_come_by_path_without_what_systems_add() -> None:
    made = archive(
        {
            "b.txt": b"two",
            "a/c.txt": b"one",
            "a/": b"",
            ".env": b"secret",
            "a/.git/config": b"hidden",
            "__MACOSX/._b.txt": b"fork",
            "node_modules/x.js": b"1",
        }
    )
    assert read(made) == [("a/c.txt", b"one"), ("b.txt", b"two")]


def test_a_member_that_is_too_large_comes_without_its_bytes() -> None:
    made = archive({"a": b"x" * 1_001, "b": b"x" * 1_000})
    assert read(made) == [("a", None), ("b", b"x" * 1_000)]


def test_how_much_is_wanted_of_a_member_goes_by_how_it_begins() -> None:
    made = archive({"a": b"P" + b"x" * 99_999, "b": b"x" * 100_000})

    def most(beginning: bytes) -> int:
        return 100_000 if beginning.startswith(b"P") else 10

    assert [data is None for _, data in zips.members(io.BytesIO(made), most)] == [False, True]


def test_what_may_come_out_goes_by_the_size_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "ALWAYS_BYTES", 1_000)
    monkeypatch.setattr(zips, "MAX_RATIO", 2)
    zips.Allowance.of(1_000).take(2_000)
    zips.Allowance.of(10).take(1_000)
    for size, taken in ((1_000, 2_001), (10, 1_001), (10**12, zips.MAX_BYTES + 1)):
        with pytest.raises(BadInputError, match="unpacks to over"):
            zips.Allowance.of(size).take(taken)


def test_a_bomb_takes_no_memory() -> None:
    made = archive({"a.txt": bytes(60_000_000)})
    tracemalloc.start()
    try:
        with pytest.raises(BadInputError):
            read(made)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_no_word_of_the_archive_is_taken_for_a_size() -> None:
    assert read(lying(archive({"a.txt": b"hello"}), 4_000_000_000)) == [("a.txt", b"hello")]


def test_a_zip_within_a_zip_is_bytes() -> None:
    inner = archive({"../x": b"x"})
    assert read(archive({"inner.zip": inner})) == [("inner.zip", inner)]


def test_a_directory_is_never_read_beyond_its_cap() -> None:
    asked: list[int] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(-1 if size is None else size)
            return super().read(size)

    (make,) = (make for name, make, _ in HOSTILE if name == "a large directory")
    watched: BinaryIO = Watched(make())
    with pytest.raises(BadInputError):
        next(zips.members(watched, lambda _: 1))
    assert 0 <= min(asked) <= max(asked) <= zips.MAX_DIRECTORY_BYTES + 1
