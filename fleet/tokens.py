"""How many tokens a text or a picture is worth, estimated from bytes alone.

It needs no tables and no network, so it is an estimate: good for reservations, for vendors that report no usage, and
for the simulated provider. What was really used is what the vendor reports.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

_LETTERS = bytes(range(ord("a"), ord("z") + 1)) + bytes(range(ord("A"), ord("Z") + 1))
_DIGITS = b"0123456789"
_BLANKS = b" \t\r"
_NOT_ASCII = bytes(range(128, 256))

PATCH_PIXELS = 32
MAX_PATCHES = 1536
#: The dearest multiplier the vendor's guide on images gives for a small model's patches.
PATCH_FACTOR = 2.46
#: What it gives for the largest pictures of its newer models, which have no multiplier.
MAX_ORIGINAL_PATCHES = 10_000
#: Of a picture that is scaled into a square of 2,048 pixels, and then to 768 on its shorter side.
TILE_PIXELS, SHORT_PIXELS, MAX_TILES = 512, 768, 8

#: Width and height in pixels; None where the header cannot be read.
Size = tuple[int, int] | None


class Tiles(NamedTuple):
    """What a model counts for a picture, and for each tile of it."""

    base: int
    tile: int


#: How models count pictures, by a part of their name, the first that is found; None: by patches, at most 1,536 of them.
#: Source: the vendor's guide on images and vision, "calculating costs".
_COUNTED: tuple[tuple[re.Pattern[str], Tiles | None], ...] = (
    (re.compile(r"4o-mini"), Tiles(2_833, 5_667)),
    (re.compile(r"gpt-(4\.1|5|5\.4)-(mini|nano)\b|\bo4-mini\b"), None),
    (re.compile(r"gpt-4o|gpt-4\.[15]|gpt-4-turbo"), Tiles(85, 170)),
    (re.compile(r"\bo[13](-pro)?(-\d|$)"), Tiles(75, 150)),
    (re.compile(r"\bgpt-5(-chat|-\d|$)"), Tiles(70, 140)),
    (re.compile(r"computer-use-preview"), Tiles(65, 129)),
)
#: The dearest tiles but those of the first, which has them priced like a large model's.
_USUAL_TILES = Tiles(85, 170)


def estimate_tokens(text: str) -> int:
    """Tokens of a text, by character classes over its UTF-8 bytes.

    4 letters, 3 digits, 2 signs or 2 line breaks to a token, 10 bytes beyond ASCII to 3 tokens, blanks free: they are
    part of the word they stand before. Within about a fifth of the vendors' byte-pair encodings for English prose and
    source code, and never over half a token per byte (rounded up), which `request_upper_bound` counts on.
    """
    data = text.encode("utf-8", "replace")
    rest = data.translate(None, _LETTERS)
    letters = len(data) - len(rest)
    signs = rest.translate(None, _BLANKS)
    without_digits = signs.translate(None, _DIGITS)
    ascii_signs = len(without_digits.translate(None, _NOT_ASCII))
    digits = len(signs) - len(without_digits)
    beyond = len(without_digits) - ascii_signs
    return math.ceil(letters / 4 + digits / 3 + ascii_signs / 2 + beyond * 0.3)


def image_tokens(width: int, height: int) -> int:
    """Tokens of a picture of so many pixels: its patches of 32 x 32, at most 1,536 (the vendor scales it down to that).

    Source: the vendor's guide on images and vision, "calculating costs". A model's own factor is left out.
    """
    return _patches((width, height), MAX_PATCHES)


def image_size(data: bytes) -> Size:
    """Width and height in pixels from the header of a PNG, JPEG or WebP; `None` when it is none of them."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp_size(data)
    return None


def picture_tokens(model: str, size: Size) -> int:
    """Estimated tokens of a picture for a model."""
    its, _ = _counted(model)
    return _patches(size, MAX_PATCHES) if its is None else _by_tiles(its, size)


def picture_bound(model: str, size: Size) -> int:
    """The most tokens that a picture can be for a model; the most of all countings where nobody says which is the model's."""
    its, known = _counted(model)
    if its is not None:
        return _by_tiles(its, size)
    by_patches = math.ceil(_patches(size, MAX_PATCHES) * PATCH_FACTOR)
    return by_patches if known else max(by_patches, _patches(size, MAX_ORIGINAL_PATCHES), _by_tiles(_USUAL_TILES, size))


@lru_cache(maxsize=1_000)
def _counted(model: str) -> tuple[Tiles | None, bool]:
    """The tiles of a model that counts by them, and whether it is known how it counts."""
    for name, its in _COUNTED:
        if name.search(model):
            return its, True
    return None, False


def _patches(size: Size, most: int) -> int:
    if size is None:
        return most
    width, height = size
    return min(math.ceil(width / PATCH_PIXELS) * math.ceil(height / PATCH_PIXELS), most)


def _by_tiles(its: Tiles, size: Size) -> int:
    """A small picture counts as if it were scaled up to 768, too: the guide leaves that open."""
    tiles = MAX_TILES
    if size is not None and min(size) > 0:
        longer = math.ceil(SHORT_PIXELS * max(size) / (TILE_PIXELS * min(size)))
        tiles = min(math.ceil(SHORT_PIXELS / TILE_PIXELS) * longer, MAX_TILES)
    return its.base + its.tile * tiles


def tokens_of_image(data: bytes) -> int:
    """Tokens of an encoded picture; the most a picture can be when its header cannot be read."""
    return _patches(image_size(data), MAX_PATCHES)


def request_upper_bound(texts: Iterable[str], images: Iterable[bytes], max_output_tokens: int, model: str = "") -> int:
    """The most tokens a request can use, for reservations: half a token per byte, pictures, the whole output."""
    half_bytes = sum(math.ceil(len(text.encode("utf-8", "replace")) / 2) for text in texts)
    return half_bytes + sum(picture_bound(model, image_size(data)) for data in images) + max_output_tokens


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """ITU T.81: segments of marker and length; the frame header (SOF0..SOF15, less DHT, JPG and DAC) has the size."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        # Fill bytes and the markers that stand alone have no length.
        at += (
            1 if marker == 0xFF else 2 if 0xD0 <= marker <= 0xD8 else 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        )
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """RFC 9649: the size by the kind of the first chunk (lossy, lossless, extended)."""
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    return None
