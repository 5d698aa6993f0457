"""Writing a file whole or not at all: a temporary file beside it, synced to disk, then renamed over it.

It knows paths and bytes, nothing of what is written.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: Names that start so are files still being written; one left by a killed process is garbage.
TEMPORARY = ".part-"


@contextmanager
def atomic_writer(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A file to write to; it stands at `path`, whole and durable, once the block ends without an exception.

    The folders above are made. On an exception nothing changes at `path`.

    Raises:
        FileExistsError: there is a file at `path`, and it is not to be replaced.
        OSError: the folder cannot be made or written to, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
            temporary.unlink()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself is durable only once the folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """`text` as UTF-8 at `path`, whole or not at all; characters that are no Unicode become `?`."""
    with atomic_writer(path) as file:
        file.write(text.encode("utf-8", "replace"))
