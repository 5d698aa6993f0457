"""What a fleet on one machine does with a process of its own that has ended."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fleet.config import Environment
from fleet.embedded import Child, EmbeddedFleet
from fleet.errors import BadInputError


def test_a_process_that_had_ended_is_started_again_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = EmbeddedFleet(Environment(fleet_state=tmp_path, fleet_metrics_address=None))
    child = Child("nano", [sys.executable, "-c", ""], {}, tmp_path / "nano.log")
    fleet._children.append(child)
    child.start()
    assert child.process is not None
    first = child.process.pid
    child.process.wait(30)
    fleet.supervise()
    child.process.wait(30)
    assert child.process.pid != first
    assert [record.getMessage() for record in caplog.records] == [
        f"nano had ended by itself, and is started again; its log: {child.log}"
    ]


@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("127.0.0.1:9464", True),
        ("[::1]:9464", True),
        ("0.0.0.0:9464", False),
        ("[::]:9464", False),
        ("host:9464", False),
    ],
)
def test_it_shows_its_metrics_to_nobody_else(tmp_path: Path, address: str, fits: bool) -> None:
    environment = Environment(fleet_state=tmp_path, fleet_metrics_address=address)
    if fits:
        EmbeddedFleet(environment)
    else:
        with pytest.raises(BadInputError, match="which others may reach"):
            EmbeddedFleet(environment)
