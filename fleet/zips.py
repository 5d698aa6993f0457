"""Reading the members of a zip that nobody vouches for: what may be in one, and how much may come out of it.

It takes no word of the archive for a size: what comes out is counted as it comes. Nothing is written to a path that an
archive names, and an archive within an archive is bytes like any others. It knows no items; its users say what they want of
a member by how it begins.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, cast

from fleet.display import clean
from fleet.errors import BadInputError
from fleet.walk import DEFAULT_SKIPPED

MAX_MEMBERS = 10_000
#: Of the directory of an archive, which is read at once: about what the most members with long names take.
MAX_DIRECTORY_BYTES = 4_000_000
MAX_PATH_CHARS = 500
#: How much may come out of a byte, of any file, and of the largest one.
MAX_RATIO, ALWAYS_BYTES, MAX_BYTES = 100, 50_000_000, 2_000_000_000
CHUNK_BYTES = 65_536
#: What is in archives of some systems besides what somebody put there.
_LITTER = DEFAULT_SKIPPED | {"__MACOSX"}
_DRIVE = re.compile(r"[A-Za-z]:")
#: Encrypted, strongly encrypted, with masked headers.
_ENCRYPTED = 0x1 | 0x40 | 0x2000
#: What the standard library raises for an archive that is not as it should be.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    LookupError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class Allowance:
    """How much may still come out of a packed file."""

    def __init__(self, most: int) -> None:
        self._left = self._most = most

    @classmethod
    def of(cls, size: int) -> Allowance:
        """That of a file of `size` bytes."""
        return cls(min(MAX_BYTES, max(ALWAYS_BYTES, MAX_RATIO * size)))

    def take(self, size: int) -> None:
        """BadInputError when that is more than may come."""
        self._left -= size
        if self._left < 0:
            raise BadInputError(
                f"The file unpacks to over {self._most:,} bytes, which is more than may come out of one of its size; split it."
            )


def members(file: BinaryIO, most_of: Callable[[bytes], int]) -> Iterator[tuple[str, bytes | None]]:
    """The path and the bytes of each regular member, by path; None instead of more bytes than `most_of` its beginning.

    All of it is unpacked into nothing first: what is refused is refused before anything was made of a member. Hidden members,
    and what systems add by themselves, are passed over, as in a folder.

    Raises:
        BadInputError: it is no archive, is damaged or encrypted, unpacks to too much or too many, or holds a link or a path that
            leads out of where it is unpacked.
    """
    allowance = Allowance.of(file.seek(0, os.SEEK_END))
    try:
        with zipfile.ZipFile(cast("BinaryIO", _Cautious(file))) as archive:
            kept = _checked(archive.infolist())
            for member in kept:
                with archive.open(member) as stream:
                    while data := stream.read(CHUNK_BYTES):
                        allowance.take(len(data))
            for member in kept:
                with archive.open(member) as stream:
                    yield member.filename, _content(stream, most_of)
    except _DAMAGED as error:
        raise BadInputError(f"The zip cannot be read: {clean(error)}.") from error


class _Cautious:
    """A file of which nobody reads much at once: the size of an archive's directory is for the archive to say."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int | None = -1) -> bytes:
        most = MAX_DIRECTORY_BYTES + 1
        data = self._file.read(most if size is None or size < 0 else min(size, most))
        if len(data) == most:
            raise zipfile.BadZipFile(f"its directory is over {MAX_DIRECTORY_BYTES:,} bytes")
        return data


def _checked(infos: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The members to read, by path."""
    if len(infos) > MAX_MEMBERS:
        raise BadInputError(f"The zip has {len(infos):,} members, the most is {MAX_MEMBERS:,}; split it.")
    kept: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if (problem := _problem(info)) is not None:
            raise BadInputError(
                f'The zip holds "{clean(info.orig_filename, 100)}", {problem}; make it anew without that.'
            )
        if info.filename in kept:
            raise BadInputError(f'The zip holds "{clean(info.filename, 100)}" twice; make it anew.')
        kept[info.filename] = info
    return [kept[path] for path in sorted(kept) if not (path.endswith("/") or _passed_over(path))]


def _problem(info: zipfile.ZipInfo) -> str | None:
    path = info.orig_filename
    if len(path) > MAX_PATH_CHARS or not path or not path.isprintable():
        return "which is no path"
    if path.startswith("/") or "\\" in path or _DRIVE.match(path) or ".." in path.split("/"):
        return "a path that may lead out of its folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device"
    if info.flag_bits & _ENCRYPTED:
        return "which is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # The others unpack any number of bytes at once.
        return "which is neither stored nor deflated"
    return None


def _passed_over(path: str) -> bool:
    return any(part.startswith(".") or part in _LITTER for part in path.split("/"))


def _content(stream: IO[bytes], most_of: Callable[[bytes], int]) -> bytes | None:
    parts = [stream.read(CHUNK_BYTES)]
    left = most_of(parts[0]) - len(parts[0])
    while left >= 0 and (data := stream.read(CHUNK_BYTES)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts) if left >= 0 else None
