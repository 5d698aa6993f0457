"""The examples that talk to the API run as they are, against a fleet as `fleet up` starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet.sim.settings import SimSettings
from tests.support.cli import Folder
from tests.support.node import node, with_modules
from tests.support.sim import MODELS, ROOT, running_sim

EXAMPLES = ROOT / "examples"
MAX_LINES = 30
NAMES = ("curl.sh", "fetch_node.mjs", "openai_node.mjs", "openai_python.py")
KEY = "sk-test"
TOPICS = {"T1": "billing", "T2": "bug"}


@dataclass(frozen=True)
class Fleet:
    """A fleet that stays up, and the folder from which examples talk to it."""

    url: str
    key: str
    folder: Path

    def run(self, *command: str) -> str:
        """What an example printed; all that it knows of the fleet is in two variables."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "FLEET_API_URL": self.url, "FLEET_API_KEY": self.key},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = SimSettings(speed=20, api_key=KEY, invalid_output=dict.fromkeys(MODELS, 0.0))
    with running_sim(tmp_path_factory.mktemp("server"), settings) as sim:
        folder = Folder(tmp_path_factory.mktemp("fleet"), {"OPENAI_BASE_URL": sim.url, "OPENAI_API_KEY": KEY})
        with folder.up():
            url = json.loads((folder.path / ".fleet" / "fleet.json").read_text())["api"]
            made = folder.fleet("keys", "create", "-o", "json")
            assert made.code == 0, made.err
            elsewhere = tmp_path_factory.mktemp("elsewhere")
            for name in NAMES:
                shutil.copy(EXAMPLES / name, elsewhere)
            yield Fleet(url, json.loads(made.out)["key"], elsewhere)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_read_at_a_glance(name: str) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= 120


def test_curl(fleet: Fleet) -> None:
    said = fleet.run("sh", "curl.sh")
    kinds = re.findall(r"^event: (\w+)$", said, re.M)
    assert kinds[0] == "accepted"
    assert json.loads(re.findall(r"^data: (.*)$", said, re.M)[-1])["status"] == "completed"
    results = [json.loads(line) for line in said.splitlines() if line.startswith('{"item"')]
    assert {result["item"]["id"]: result["output"]["topic"] for result in results} == TOPICS


def test_fetch_in_node(fleet: Fleet) -> None:
    lines = fleet.run(node(), "fetch_node.mjs").splitlines()
    told = [re.fullmatch(r"(.+) -> (\w+) \(nano, \$0\.\d+\)", line) for line in lines]
    assert {line[1]: line[2] for line in told if line} == TOPICS


def test_openai_in_python(fleet: Fleet) -> None:
    summary, ticket, streamed = fleet.run(sys.executable, "openai_python.py").splitlines()
    assert "crashes" in summary
    assert re.fullmatch(r"topic='.+' urgent=(True|False)", ticket)
    assert "crashes" in streamed


def test_openai_in_node(fleet: Fleet) -> None:
    if not (fleet.folder / "node_modules").exists():
        with_modules(fleet.folder)
    summary, streamed = fleet.run(node(), "openai_node.mjs").splitlines()
    assert "crashes" in summary
    assert "crashes" in streamed
