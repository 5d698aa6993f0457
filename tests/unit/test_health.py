"""Health files: what each moment of a process leaves in its folder, and what the probe makes of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleet.errors import BadInputError
from fleet.health import STALE_S, Health, beating, main, trouble


def test_a_process_lives_from_its_beginning_and_is_ready_until_it_was_asked_to_end(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "worker"
    health = Health(folder)
    health.begin()
    assert trouble(folder, "live") is None
    assert "takes no work" in str(trouble(folder, "ready"))
    health.ready()
    assert trouble(folder, "ready") is None
    health.ending()
    health.ready()  # as a consumer says that reconnects while it drains
    assert trouble(folder, "ready") is not None
    assert trouble(folder, "live") is None


def test_what_a_killed_process_left_is_not_its_successors(tmp_path: Path) -> None:
    killed = Health(tmp_path)
    killed.begin()
    killed.ready()
    Health(tmp_path).begin()
    assert trouble(tmp_path, "ready") is not None


def test_a_loop_that_hangs_is_neither_alive_nor_ready(tmp_path: Path) -> None:
    health = Health(tmp_path)
    health.begin()
    health.ready()
    then = time.time() - STALE_S - 1
    os.utime(tmp_path / "live", (then, then))
    assert "has not run for" in str(trouble(tmp_path, "live"))
    assert trouble(tmp_path, "ready") is not None

    async def beats() -> None:
        async with beating(health):
            await asyncio.sleep(0)

    asyncio.run(beats())
    assert trouble(tmp_path, "ready") is None


def test_a_beat_that_cannot_be_written_fails_the_probe_alone(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    health = Health(folder)

    async def beats() -> None:
        async with beating(health):
            await asyncio.sleep(0)

    asyncio.run(beats())
    assert "there is no" in str(trouble(folder, "live"))


def test_a_folder_that_cannot_be_written_to_is_refused_at_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match=r"FLEET_HEALTH is .* cannot be written to"):
        Health(tmp_path / "file" / "folder").begin()


def test_without_a_folder_nothing_is_said() -> None:
    health = Health(None)
    health.begin()
    health.ready()
    health.ending()
    asyncio.run(health.beat())


def test_the_probe_is_asked_rightly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("FLEET_HEALTH", raising=False)
    assert main(["live"]) == 2
    monkeypatch.setenv("FLEET_HEALTH", "/nowhere")
    assert main(["alive"]) == 2
    assert main([]) == 2
    assert main(["live"]) == 1
    assert "not live: there is no /nowhere/live" in capsys.readouterr().err


def test_the_probe_imports_nothing_but_the_standard_library(tmp_path: Path) -> None:
    Health(tmp_path).begin()
    look = (
        "import sys, runpy; sys.argv = ['health', 'live']\n"
        "try: runpy.run_module('fleet.health', run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "others = {name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names - {'fleet', '__main__'}\n"
        "print(code, sorted(others))"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-c", look],
        env={"FLEET_HEALTH": str(tmp_path), "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.strip() == "0 []", found.stdout + found.stderr
