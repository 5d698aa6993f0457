"""The Python examples run as they are beside a whole fleet, as users start it; `test_examples_http` has those over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cli import ROOT, Folder, Ran
from tests.support.worker import until

EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Beside:
    """A folder with a running fleet, and what an example needs to know of it."""

    folder: Folder
    variables: dict[str, str]

    def run(self, name: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-W", "error", EXAMPLES / name],
            cwd=self.folder.path,
            env=self.folder.environment() | self.variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def jobs(self) -> dict[str, str]:
        """The status of each job by its name."""
        listed = json.loads(self.folder.fleet("jobs", "list", "-o", "json").out)["jobs"]
        return {job["name"]: job["status"] for job in listed}


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    folder = Folder(tmp_path_factory.mktemp("examples"), {})
    with folder.up():
        running = json.loads((folder.path / ".fleet" / "fleet.json").read_text())
        keys = {
            scope: json.loads(folder.fleet("keys", "create", *arguments, "-o", "json").out)
            for scope, arguments in {"api": (), "sign": ("--scope", "sign")}.items()
        }
        variables = {
            "FLEET_API_KEY": keys["api"]["key"],
            "FLEET_SIGN_KEY_ID": keys["sign"]["id"],
            "FLEET_SIGN_KEY": keys["sign"]["key"],
            "FLEET_BROKER_URL": running["FLEET_REDIS_URL"],
        }
        yield Beside(folder, variables)


def test_every_example_is_run_by_some_test() -> None:
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_examples*.py"))
    for path in EXAMPLES.iterdir():
        assert path.suffix in (".md", ".json") or f'"{path.name}"' in sources, f"{path.name} is run by no test"


def test_python_client(beside: Beside) -> None:
    done = beside.run("python_client.py")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split(maxsplit=1)[0] in ("billing", "bug", "other") for line in lines[:3]] == [True] * 3
    assert lines[3].startswith("accepted")
    assert lines[-1].startswith("completed: 3 replies for $0.")


def test_celery_producer(beside: Beside) -> None:
    done = beside.run("celery_producer.py")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("sent order-")
    until(lambda: beside.jobs().get("complaints") == "completed", "the job that was sent", timeout=60)
