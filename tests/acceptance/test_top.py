"""`fleet top` as a user sees it: live on a terminal during a job, and one look when it is piped."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.cli import Folder
from tests.support.processes import FleetProcess
from tests.support.sim import fleet_config, running_sim
from tests.support.valkey import Valkey
from tests.support.worker import until

#: A name that would clear the screen, set the title, and turn text around.
HOSTILE = "\\x1b[2J\\x1b]0;owned\\x07\\u202eevil"
#: More than the account's limit lets through in five minutes.
ITEMS = 400
JOB = f"""\
name: "{HOSTILE} busy"
items: [{", ".join(map(str, range(ITEMS)))}]
steps:
  - {{id: write, each: items, tier: nano, prompt: "Write {{{{ item }}}}."}}
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def folder(valkey_server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """A fleet in the middle of a job that its account's limit holds up; every test only looks at it."""
    valkey_server.flush()
    config, path = fleet_config(requests_per_minute=60), tmp_path_factory.mktemp("top")
    with running_sim(path / "sim") as sim:
        folder = Folder(
            path,
            {"FLEET_CONFIG": str(path / "fleet.yaml"), "FLEET_REDIS_URL": valkey_server.url}
            | {"FLEET_BLOBS": str(path / "blobs"), "FLEET_SIM_URL": sim.url},
        )
        folder.write("job.yaml", JOB)
        processes = []
        try:
            for words in (("coordinator",), ("worker", "--tier", "nano")):
                started = FleetProcess(valkey_server, path, config, sim.url, *words)
                processes.append(started)
                started.ready(valkey_server, words[-1])
            submitted = folder.fleet("submit", "job.yaml")
            assert submitted.code == 0, submitted.err
            with valkey_server.client() as client:
                until(lambda: client.hget("fleet:spent", "nano:calls"), "the first call")
            yield folder
        finally:
            for process in processes:
                process.stop()


def test_one_look_when_piped(folder: Folder) -> None:
    found = json.loads(folder.fleet("top", "-o", "json").out)
    tiers = {tier["tier"]: tier for tier in found["tiers"]}
    assert list(tiers) == ["nano", "mini", "flagship", "coordinator"]
    assert (tiers["nano"]["workers"], tiers["mini"]["workers"]) == (1, 0)
    assert tiers["nano"]["calls_per_s"] >= 0
    assert found["usd_per_hour"] >= 0
    (job,) = found["jobs"]
    assert (job["status"], job["total"]) == ("running", ITEMS)
    assert job["waits"][0]["reason"] == "rate"
    assert {account["account"].rpartition("/")[2] for account in found["accounts"]} >= {"gpt-5.4-nano"}
    piped = folder.fleet("top")
    assert piped.code == 0, piped.err
    assert "running" in piped.out
    assert "evil busy" in piped.out
    assert all(character.isprintable() or character == "\n" for character in piped.out)


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_live_on_a_terminal_until_a_key_is_pressed(folder: Folder, key: bytes) -> None:
    with terminal(folder, "top") as (process, screen, keyboard):
        before = termios.tcgetattr(keyboard)
        seen = ""
        deadline = time.monotonic() + 30
        # Two pictures: it refreshes.
        while seen.count("fleet at") < 2 or "rate (nano" not in seen:
            assert time.monotonic() < deadline, seen[-3_000:]
            assert process.poll() is None, seen[-3_000:]
            if select.select([screen], [], [], 1)[0]:
                seen += os.read(screen, 65_536).decode(errors="replace")
        assert "nano" in seen
        assert "evil busy" in seen
        os.write(screen, key)
        deadline = time.monotonic() + 10
        while process.poll() is None:
            assert time.monotonic() < deadline, "the key was not heard"
            if select.select([screen], [], [], 0.1)[0]:
                seen += os.read(screen, 65_536).decode(errors="replace")
        while select.select([screen], [], [], 0)[0]:
            seen += os.read(screen, 65_536).decode(errors="replace")
        assert process.returncode == 0
        assert termios.tcgetattr(keyboard) == before, "the terminal is what it was"
    assert "\x1b[?1049h" in seen
    assert seen.rstrip().endswith("\x1b[?25h") or "\x1b[?1049l" in seen
    left = ESCAPES.sub("", seen)
    assert "\x1b" not in left, "no escape but rich's own"
    assert "\x07" not in seen
    assert "\u202e" not in seen


@contextmanager
def terminal(folder: Folder, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """`fleet ...` on a terminal of 100 by 30: its process, and both ends of the terminal."""
    screen, keyboard = pty.openpty()
    fcntl.ioctl(keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    environment = {name: value for name, value in folder.environment().items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fleet", *words],
        cwd=folder.path,
        env=environment | {"TERM": "xterm-256color"},
        stdin=keyboard,
        stdout=keyboard,
        stderr=keyboard,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  one call, no threads
    )
    try:
        yield process, screen, keyboard
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        os.close(screen)
        os.close(keyboard)
