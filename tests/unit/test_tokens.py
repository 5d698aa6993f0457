"""Estimates from bytes: their size, their bound, and the headers of pictures."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.tokens import (
    MAX_PATCHES,
    Size,
    estimate_tokens,
    image_size,
    image_tokens,
    picture_bound,
    picture_tokens,
    request_upper_bound,
    tokens_of_image,
)

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 800, 600)
JPEG = (
    b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0" + bytes(9)
    # A fill byte, then a Huffman table, which is no frame header though its marker lies among theirs.
    + b"\xff\xff\xc4" + struct.pack(">H", 4) + bytes(2)
    + b"\xff\xc2" + struct.pack(">HBHH", 17, 8, 600, 800) + bytes(10)
)  # fmt: skip
WEBP_LOSSY = b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(4) + bytes(6) + struct.pack("<HH", 800, 600)
WEBP_LOSSLESS = b"RIFF" + bytes(4) + b"WEBPVP8L" + bytes(4) + b"\x2f" + struct.pack("<I", 799 | 599 << 14) + bytes(9)
WEBP_EXTENDED = (
    b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + (799).to_bytes(3, "little") + (599).to_bytes(3, "little")
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("", 0, 0),
        ("a", 1, 1),
        # Counts of the o200k encoding, by hand: 9, 10, 24.
        ("The quick brown fox jumps over the lazy dog", 8, 11),
        ("The quick brown fox jumps over the lazy dog.", 9, 12),
        ("def total(self, items: list[Item]) -> Decimal:\n    return sum(items)\n", 18, 26),
    ],
)
def test_an_estimate_is_close_to_the_real_count(text: str, low: int, high: int) -> None:
    assert low <= estimate_tokens(text) <= high


@given(st.text(max_size=500), st.text(max_size=500), st.integers(1, 10_000))
def test_the_upper_bound_is_above_any_estimate(one: str, other: str, output: int) -> None:
    assert estimate_tokens(one) + estimate_tokens(other) + output <= request_upper_bound((one, other), (), output)


@given(st.text(max_size=300), st.text(max_size=300))
def test_more_text_is_never_fewer_tokens(one: str, more: str) -> None:
    assert estimate_tokens(one) <= estimate_tokens(one + more)


def test_half_a_surrogate_pair_counts_too() -> None:
    assert estimate_tokens("\ud800") == 1


@pytest.mark.parametrize("data", [PNG, JPEG, WEBP_LOSSY, WEBP_LOSSLESS, WEBP_EXTENDED])
def test_the_size_is_read_from_the_header(data: bytes) -> None:
    assert image_size(data) == (800, 600)
    assert tokens_of_image(data) == image_tokens(800, 600) == 25 * 19


@pytest.mark.parametrize("data", [b"", b"GIF89a", PNG[:20], JPEG[:24], b"\xff\xd8\x00\x00" + bytes(20)])
def test_an_unknown_picture_counts_as_the_largest(data: bytes) -> None:
    assert image_size(data) is None
    assert tokens_of_image(data) == MAX_PATCHES == image_tokens(10_000, 10_000)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for head in (b"", b"\xff\xd8\xff", b"RIFF0000WEBPVP8 ", b"\x89PNG\r\n\x1a\n"):
        image_size(head + data)


def test_pictures_are_part_of_the_upper_bound() -> None:
    assert request_upper_bound((), (PNG,), 100) == 100 + 1169
    assert request_upper_bound((), (PNG,), 100, "gpt-4o-mini") == 100 + 2_833 + 4 * 5_667


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        # The examples of the vendor's guide: 4 tiles, 6 tiles.
        ("gpt-4o", (1024, 1024), 765),
        ("gpt-4o-2024-08-06", (2048, 4096), 1_105),
        ("gpt-4o-mini", (1024, 1024), 25_501),
        ("openai/gpt-4o-mini-2024-07-18", (1024, 1024), 25_501),
        ("gpt-4.1", (4096, 2048), 1_105),
        ("o1", (1024, 1024), 675),
        ("o3-2025-04-16", (1024, 1024), 675),
        ("gpt-5-2025-08-07", (1024, 1024), 630),
        ("gpt-4o", (10, 5_000), 85 + 8 * 170),
        ("gpt-4o", (0, 0), 85 + 8 * 170),
        ("gpt-4o", None, 85 + 8 * 170),
    ],
)
def test_models_that_count_by_tiles_are_held_by_tiles(model: str, size: Size, tokens: int) -> None:
    assert picture_bound(model, size) == picture_tokens(model, size) == tokens


@pytest.mark.parametrize("model", ["gpt-5.4-nano", "gpt-5-mini", "gpt-4.1-mini-2025-04-14", "o4-mini"])
def test_models_that_count_by_patches_are_held_by_patches(model: str) -> None:
    assert picture_bound(model, (32, 32)) == 3
    assert picture_bound(model, (10_000, 10_000)) == 3_779
    assert picture_tokens(model, (10_000, 10_000)) == MAX_PATCHES


@pytest.mark.parametrize("model", ["", "gpt-5.4", "own-model", "gpt-6", "claude-sonnet-4-5"])
def test_where_it_is_not_known_how_a_model_counts_the_largest_count_is_held(model: str) -> None:
    assert picture_bound(model, (32, 32)) == 85 + 4 * 170  # by tiles
    assert picture_bound(model, (1024, 1024)) == 2_520  # by patches, with their dearest multiplier
    assert picture_bound(model, (6_000, 4_000)) == picture_bound(model, None) == 10_000  # by more patches
