"""Fixtures that every ring may use, and where they keep their files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.valkey import Valkey

#: Files that are memory, and how many bytes have to be free there.
IN_MEMORY, ROOM = Path("/dev/shm"), 2 * 2**30  # noqa: S108  pytest makes a folder of ours in it


def pytest_configure() -> None:
    """Temporary folders are in memory where there is room: a store waits for its disk at each write, and no test cuts power."""
    if IN_MEMORY.is_dir():
        found = os.statvfs(IN_MEMORY)
        # Some tests run scripts of theirs, which a container's may forbid.
        if found.f_bavail * found.f_frsize > ROOM and not found.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One Valkey for the whole run."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """The run's Valkey, empty."""
    valkey_server.flush()
    return valkey_server
