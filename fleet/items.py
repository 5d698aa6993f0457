"""A job's items as one blob, a JSON line each, with the offsets beside it: any process reads item i without the others.

It owns the index; `fleet.sources` knows where items come from. It knows no job, store or queue.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from fleet.blobs import BlobError, Blobs
from fleet.config import Frozen
from fleet.display import clean
from fleet.errors import BadInputError
from fleet.jobs import Items
from fleet.sources import Skipped, read_source
from fleet.uploads import Upload, read_upload

MAX_ITEMS = 10_000_000
#: Skipped entries that are named; the rest is only counted.
MAX_SKIPPED_NAMED = 1_000
#: Read at once where many items are; a bigger item is read alone.
READ_BYTES = 1_000_000
#: Items that `ItemReader` reads together, if that is not more than so many bytes, and how many such blocks it keeps.
BLOCK_ITEMS, BLOCK_BYTES, BLOCKS_KEPT = 32, 64_000, 16
_OFFSET = struct.Struct("<Q")


class ItemIndex(Frozen):
    """Where the items are: small, so it travels with the job; the offsets stay in the blob `offsets`."""

    blob: str
    #: `count + 1` little-endian 64-bit numbers: where each item starts, and where the last one ends.
    offsets: str
    count: int = Field(ge=0)
    #: Whether pictures were read for them: what else an item says of a picture is somebody's word, and perhaps another's picture.
    pictures: bool = True
    #: The first 1,000 that could not become items, each with the reason.
    skipped: tuple[Skipped, ...] = ()
    skipped_count: int = 0

    def __len__(self) -> int:
        return self.count


NO_ITEMS = ItemIndex(blob="", offsets="", count=0)


def pack_items(spec_items: Items | tuple[Any, ...] | Upload, blobs: Blobs, name: str) -> ItemIndex:
    """Read the job's items, one after the other, into the blob `name` (and its offsets into `name`.idx).

    A line, row, file or picture that cannot be used is skipped and counted, never an exception.

    Raises:
        BadInputError: the source does not exist, cannot be read, or holds no usable item; or there are over 10,000,000.
        OSError: the blob folder cannot be written to.
    """
    count = skipped_count = 0
    pictures = False
    skipped: list[Skipped] = []
    source = read_upload(spec_items, blobs) if isinstance(spec_items, Upload) else read_source(spec_items, blobs)
    with blobs.append_writer(name) as lines, blobs.append_writer(f"{name}.idx") as offsets:
        for found in source:
            if isinstance(found, Skipped):
                skipped_count += 1
                if len(skipped) < MAX_SKIPPED_NAMED:
                    skipped.append(found)
                continue
            if count == MAX_ITEMS:
                raise BadInputError(f"There are over {MAX_ITEMS:,} items; split the input into several jobs.")
            pictures |= found.picture
            start = lines.write(found.line + b"\n")
            offsets.write(_OFFSET.pack(start))
            count += 1
        offsets.write(_OFFSET.pack(lines.offset))
        if count == 0:
            raise BadInputError(_nothing(spec_items, skipped, skipped_count))
    return ItemIndex(
        blob=name,
        offsets=f"{name}.idx",
        count=count,
        pictures=pictures,
        skipped=tuple(skipped),
        skipped_count=skipped_count,
    )


def read_item(blobs: Blobs, index: ItemIndex, i: int) -> Any:
    """Item `i`, counted from 0, as it was packed: a mapping, list, string, number, boolean or null.

    Raises:
        BlobError: there is no such item, or the blob is gone or cut.
    """
    return next(read_items(blobs, index, i, 1))


def read_items(blobs: Blobs, index: ItemIndex, start: int, count: int) -> Iterator[Any]:
    """Items `start` to `start + count - 1`, about a megabyte of them in memory at a time.

    Raises:
        BlobError: there are no such items, or the blob is gone or cut.
    """
    bounds = _bounds(blobs, index, start, count)
    first = 0
    while first < count:
        last = first + 1
        while last < count and bounds[last + 1] - bounds[first] <= READ_BYTES:
            last += 1
        for begin, line in _lines(blobs, index, bounds[first : last + 1]):
            yield _parsed(index, begin, line)
        first = last


def sizes(blobs: Blobs, index: ItemIndex, start: int, count: int) -> list[int]:
    """Bytes of items `start` to `start + count - 1` as they were packed; zeros where the blob is gone or cut."""
    try:
        bounds = _bounds(blobs, index, start, count)
    except BlobError:
        return [0] * count
    return [end - begin for begin, end in itertools.pairwise(bounds)]


class ItemReader:
    """Reads items one by one, each with its neighbours: subtasks of one shard run soon after each other.

    To open a blob costs more than to read some items of it. What is kept is bounded: about a megabyte.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        #: By blob and number: the lines of a block with the bytes they start at; None for one that is too big.
        self._blocks: OrderedDict[tuple[str, int], list[tuple[int, bytes]] | None] = OrderedDict()

    def read(self, index: ItemIndex, i: int) -> Any:
        """As `read_item`."""
        number, place = divmod(i, BLOCK_ITEMS)
        try:
            block = self._block(index, number) if 0 <= i < index.count else None
        except BlobError:  # The blob is cut or gone, but perhaps not where this item is.
            block = None
        return read_item(self._blobs, index, i) if block is None else _parsed(index, *block[place])

    def _block(self, index: ItemIndex, number: int) -> list[tuple[int, bytes]] | None:
        key = (index.blob, number)
        if key not in self._blocks:
            start = number * BLOCK_ITEMS
            bounds = _bounds(self._blobs, index, start, min(BLOCK_ITEMS, index.count - start))
            small = bounds[-1] - bounds[0] <= BLOCK_BYTES
            self._blocks[key] = list(_lines(self._blobs, index, bounds)) if small else None
            if len(self._blocks) > BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(key)
        return self._blocks[key]


def _bounds(blobs: Blobs, index: ItemIndex, start: int, count: int) -> list[int]:
    """Where `count` items start, and where the last one ends; BlobError when there are no such items."""
    if start < 0 or count < 0 or start + count > index.count:
        raise BlobError(f'"{index.blob}" holds {index.count} items; {start} to {start + count - 1} were asked for.')
    packed = blobs.read(index.offsets, start * _OFFSET.size, (count + 1) * _OFFSET.size)
    return [offset for (offset,) in _OFFSET.iter_unpack(packed)]


def _lines(blobs: Blobs, index: ItemIndex, bounds: list[int]) -> Iterator[tuple[int, bytes]]:
    """The lines between `bounds`, read at once, each with the byte it starts at."""
    chunk = blobs.read(index.blob, bounds[0], bounds[-1] - bounds[0])
    for begin, end in itertools.pairwise(bounds):
        yield begin, chunk[begin - bounds[0] : end - bounds[0]]


def _parsed(index: ItemIndex, begin: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise BlobError(f'"{index.blob}" is damaged at byte {begin}; pack the items again.') from error


def _nothing(spec_items: Items | tuple[Any, ...] | Upload, skipped: list[Skipped], skipped_count: int) -> str:
    if isinstance(spec_items, Upload):
        where = spec_items.name
    elif not isinstance(spec_items, Items):
        where = "The list of items"
    elif spec_items.path is not None:
        where = str(spec_items.path)
    else:
        source = spec_items.files or spec_items.images
        where = f"{source.root} (include: {', '.join(source.include)})" if source else "The source"
    if not skipped:
        return f"{clean(where, 500)} holds no items."
    first = skipped[0]
    return (
        f"{clean(where, 500)} holds no usable items; {skipped_count} skipped, the first: "
        f"{clean(first.path)}: {clean(first.reason)}."
    )
