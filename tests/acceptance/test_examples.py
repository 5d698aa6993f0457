"""The examples run as they are, against a fleet as `fleet up` starts it: those in Python beside it, those over HTTP elsewhere."""

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
from tests.support.cli import ROOT, Folder
from tests.support.node import node, with_modules
from tests.support.sim import MODELS, running_sim
from tests.support.worker import until

EXAMPLES = ROOT / "examples"
MAX_LINES = 30
#: All that these know of the fleet is in two variables.
OVER_HTTP = ("curl.sh", "fetch_node.mjs", "openai_node.mjs", "openai_python.py")
KEY = "sk-test"
TOPICS = {"T1": "billing", "T2": "bug"}


@dataclass(frozen=True)
class Fleet:
    """A fleet that stays up: its folder, what an example beside it needs to know, and the folder of those over HTTP."""

    beside: Folder
    variables: dict[str, str]
    elsewhere: Path
    http: dict[str, str]

    def run_beside(self, name: str) -> str:
        """What a Python example printed that runs in the fleet's folder."""
        command = [sys.executable, "-W", "error", str(EXAMPLES / name)]
        return _printed(command, self.beside.path, Folder(self.beside.path, self.variables).environment())

    def run(self, *command: str) -> str:
        """What an example over HTTP printed."""
        return _printed([*command], self.elsewhere, {"PATH": os.environ["PATH"]} | self.http)

    def jobs(self) -> dict[str, str]:
        """The status of each job by its name."""
        listed = json.loads(self.beside.fleet("jobs", "list", "-o", "json").out)["jobs"]
        return {job["name"]: job["status"] for job in listed}


def _printed(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
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
            running = json.loads((folder.path / ".fleet" / "fleet.json").read_text())
            api, sign = _key(folder), _key(folder, "--scope", "sign")
            variables = {
                "FLEET_API_KEY": api["key"],
                "FLEET_SIGN_KEY_ID": sign["id"],
                "FLEET_SIGN_KEY": sign["key"],
                "FLEET_BROKER_URL": running["FLEET_REDIS_URL"],
            }
            elsewhere = tmp_path_factory.mktemp("elsewhere")
            for name in OVER_HTTP:
                shutil.copy(EXAMPLES / name, elsewhere)
            http = {"FLEET_API_URL": running["api"], "FLEET_API_KEY": api["key"]}
            yield Fleet(folder, variables, elsewhere, http)


def _key(folder: Folder, *arguments: str) -> dict[str, str]:
    made = folder.fleet("keys", "create", *arguments, "-o", "json")
    assert made.code == 0, made.err
    key: dict[str, str] = json.loads(made.out)
    return key


def test_every_example_is_run_by_some_test() -> None:
    source = Path(__file__).read_text()
    for path in EXAMPLES.iterdir():
        assert path.suffix in (".md", ".json") or f'"{path.name}"' in source, f"{path.name} is run by no test"


@pytest.mark.parametrize("name", OVER_HTTP)
def test_an_example_is_read_at_a_glance(name: str) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= 120


def test_python_client(fleet: Fleet) -> None:
    lines = fleet.run_beside("python_client.py").splitlines()
    assert [line.split(maxsplit=1)[0] in ("billing", "bug", "other") for line in lines[:3]] == [True] * 3
    assert lines[3].startswith("accepted")
    assert lines[-1].startswith("completed: 3 replies for $0.")


def test_celery_producer(fleet: Fleet) -> None:
    assert fleet.run_beside("celery_producer.py").startswith("sent order-")
    until(lambda: fleet.jobs().get("complaints") == "completed", "the job that was sent", timeout=60)


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
    if not (fleet.elsewhere / "node_modules").exists():
        with_modules(fleet.elsewhere)
    summary, streamed = fleet.run(node(), "openai_node.mjs").splitlines()
    assert "crashes" in summary
    assert "crashes" in streamed
