"""Blobs: named, immutable byte strings in a local folder.

It owns names and durability; it knows nothing of items or outputs. Nothing here appends to, or lists, what stands
already, so that an object store can take the folder's place.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fleet.atomic import atomic_writer
from fleet.errors import FleetError

MAX_NAME_CHARS = 500
MAX_PART_BYTES = 200


class BlobError(FleetError):
    """A blob's name is not allowed, there is none of that name, or it is shorter than asked for."""


class BlobWriter:
    """Writes one blob from front to back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        #: Bytes written so far: where the next ones will stand.
        self.offset = 0

    def write(self, data: bytes) -> int:
        """Append `data`; returns the offset at which it stands."""
        start = self.offset
        self._file.write(data)
        self.offset += len(data)
        return start


class Blobs:
    """The blobs below `root`, a folder that is made when the first one is written, on a file system with hard links.

    A name is a relative POSIX path of up to 500 characters: no `..`, no part that starts with a dot, no backslash and
    no control character. A link inside the folder that leads out of it is refused.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def put(self, name: str, data: bytes) -> None:
        """Store `data` under `name`, whole and durable before this returns; an older blob is replaced.

        Raises:
            BlobError: the name is not allowed.
            OSError: the folder cannot be written to.
        """
        with self.append_writer(name) as writer:
            writer.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Store `data` under `name` as `put` does, unless there is a blob of that name: False then."""
        try:
            with atomic_writer(self.path_of(name), replace=False) as file:
                file.write(data)
        except FileExistsError:
            if not self.exists(name):
                raise  # It is the folder that cannot be made.
            return False
        return True

    @contextmanager
    def append_writer(self, name: str) -> Iterator[BlobWriter]:
        """A writer for a blob too big for memory; the blob exists once the block ends without an exception.

        Raises:
            BlobError: the name is not allowed.
            OSError: the folder cannot be written to.
        """
        with atomic_writer(self.path_of(name)) as file:
            yield BlobWriter(file)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on; without a length, all that follow.

        Raises:
            BlobError: there is no such blob, or it ends before.
        """
        if offset < 0 or (length is not None and length < 0):
            raise BlobError(f'The blob "{name}" was asked for {length} bytes at {offset}; neither can be below 0.')
        try:
            with self.path_of(name).open("rb") as file:
                file.seek(offset)
                data = file.read(-1 if length is None else length)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise BlobError(f'There is no blob "{name}" in {self._root}.') from error
        if length is not None and len(data) < length:
            raise BlobError(
                f'The blob "{name}" ends after {offset + len(data)} bytes; {offset + length} were expected.'
            )
        return data

    def remove_folder(self, name: str) -> None:
        """Remove the blobs of a job that was not accepted, if it has any."""
        shutil.rmtree(self.path_of(name), ignore_errors=True)

    def remove(self, name: str) -> None:
        """Remove a blob that nobody needs any more, if there is one of that name."""
        self.path_of(name).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        return self.path_of(name).is_file()

    def size(self, name: str) -> int:
        """The blob's bytes; BlobError when there is none of that name."""
        path = self.path_of(name)
        if not path.is_file():
            raise BlobError(f'There is no blob "{name}" in {self._root}.')
        return path.stat().st_size

    def path_of(self, name: str) -> Path:
        """Where the blob stands or would stand.

        Raises:
            BlobError: the name is not allowed or leads out of the folder.
        """
        parts = name.split("/")
        if (
            len(name) > MAX_NAME_CHARS
            or not name.isprintable()
            or "\\" in name
            or any(not part or part.startswith(".") for part in parts)
            or any(len(part.encode("utf-8", "replace")) > MAX_PART_BYTES for part in parts)
        ):
            raise BlobError(
                f"{name[:100]!r} is no name for a blob; use a relative path such as jobs/a1/items without parts that "
                "start with a dot."
            )
        path = self._root.joinpath(*parts)
        if not path.resolve().is_relative_to(self._root):
            raise BlobError(f'The blob "{name}" leads out of {self._root} by a link; remove the link.')
        return path
