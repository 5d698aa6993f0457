"""Each page of docs/ runs as it is written: a newcomer's shell, folder by folder, beside the fleet that the quickstart starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import ROOT
from tests.support.pages import RUN, blocks, shell, well_formed

DOCS = ROOT / "docs"
FIRST = DOCS / "quickstart.md"
#: Those that are made from the code have nothing to run.
PAGES = sorted(path for path in DOCS.glob("*.md") if path != FIRST)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the quickstart was done; its fleet runs."""
    with shell(tmp_path_factory.mktemp("quickstart")) as opened:
        for block in blocks(FIRST):
            opened.run(block)
        yield opened.folder


@pytest.mark.timeout(600)
def test_the_quickstart_runs_as_it_is_written(quickstart: Path) -> None:
    assert (quickstart / ".fleet" / "fleet.json").exists()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_as_it_is_written(page: Path, quickstart: Path, tmp_path: Path) -> None:
    """In a folder with a running fleet, as the quickstart leaves it."""
    (tmp_path / ".fleet").symlink_to(quickstart / ".fleet")
    with shell(tmp_path) as opened:
        for block in blocks(page):
            opened.run(block)


@pytest.mark.parametrize("page", [FIRST, *PAGES], ids=lambda page: page.stem)
def test_what_is_not_run_says_why(page: Path) -> None:
    found = blocks(page)
    for block in found:
        well_formed(block)
    assert any(block.kind in RUN for block in found)
    assert sum(block.kind == "console" for block in found) <= 2
