"""Node programs that use the vendor's package; `make node` puts it into `tests/tours/node_modules`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.sim import ROOT

MODULES = ROOT / "tests" / "tours" / "node_modules"


def node() -> str:
    """The program `node`; skips the test where there is none, as Node is no requirement of the fleet's."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node on this machine")
    return found


def modules() -> Path:
    """The installed packages; skips the test where they are not."""
    if not (MODULES / "openai" / "package.json").exists():
        pytest.skip("the Node packages are not installed: `make node`")
    return MODULES


def with_modules(folder: Path) -> Path:
    """A folder whose programs find the packages."""
    (folder / "node_modules").symlink_to(modules())
    return folder
