"""The rules that keep the two packages apart and each of them readable, each with its reason."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for package in ("fleet", "queues") for path in (ROOT / package).rglob("*.py"))
#: A file that passes this hides a second noun.
MAX_LINES = 350
#: Names that say nothing of what a module holds, so anything ends up in it.
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "misc", "common", "tools", "stuff", "base_utils"}
#: Where fleet meets Celery: `runtime` builds the app, `tasks` are the shells around the work, `worker` is told by a
#: signal when to start what runs beside them. All else is plain asyncio, which a test runs without a worker.
KNOW_CELERY = {"fleet/runtime.py", "fleet/tasks.py", "fleet/worker.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """The top-level packages that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively; say the whole name"
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).startswith("queues/")], ids=name_of)
def test_queues_never_imports_fleet(path: Path) -> None:
    """queues moves ids and shares out capacity; what they stand for is fleet's. Anybody could use it without fleet."""
    assert "fleet" not in set(imported(path))


def test_only_the_shells_of_fleet_know_celery() -> None:
    """Celery delivers, our store decides: what decides must run, and be tested, without a message in sight."""
    knowing = {
        name_of(path)
        for path in MODULES
        if name_of(path).startswith("fleet/") and {"celery", "kombu"} & set(imported(path))
    }
    assert knowing == KNOW_CELERY


def test_imports_run_one_way() -> None:
    """The layers are in pyproject.toml. A circle means that two modules are one, or that a third is missing."""
    linter = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", linter, "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_holds_one_noun(path: Path) -> None:
    """A reader guesses the file from the noun, and holds all of it in the head."""
    assert path.stem.strip("_") not in EMPTY_NAMES
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{name_of(path)} has {lines} lines; which second noun is hiding in it?"


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "__init__.py"], ids=name_of)
def test_every_module_says_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} begins with no docstring"
