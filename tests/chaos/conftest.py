"""What the state machines run on: a server in memory, and how long they look.

`pytest --hypothesis-profile=deep`, which `make chaos-long` runs, looks longer than every change is worth.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.valkey import Valkey

settings.register_profile("deep", max_examples=1_500, stateful_step_count=100)


@pytest.fixture(scope="package")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey that keeps nothing on disk: a machine is some ten thousand writes, and it kills no server."""
    server = Valkey(tmp_path_factory.mktemp("in-memory"), "--appendonly", "no")
    yield server
    server.stop()
