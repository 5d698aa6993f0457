"""What docs/ says of states, reasons and alerts is what the code says, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from fleet.jobs import JobStatus
from fleet.waits import Reason
from queues.subtasks import State
from tests.support.cli import ROOT
from tests.support.pages import Block, blocks, check_output

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINKING = [
    *PAGES,
    *sorted((DOCS / "reference").glob("*.md")),
    *(ROOT / name for name in ("README.md", "k8s/README.md")),
]
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading."""
    text = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2]
    lines = re.search(r"^\|.*?(?=\n\n|\Z)", text, re.M | re.S)
    assert lines, f"{page} has no table below {heading!r}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.group().splitlines()[2:]]


def arrows(heading: str) -> set[tuple[str, str]]:
    """Every arrow of a table of states; a cell may name several, of which each has one."""
    found = set()
    for sources, targets, _ in table("concepts.md", heading):
        many, into = sources.split(", "), targets.split(", ")
        found |= set(zip(many, into, strict=True)) if len(many) == len(into) else {(a, b) for a in many for b in into}
    return found


def test_the_states_of_a_subtask_are_those_of_the_store() -> None:
    found = arrows("States of a subtask")
    assert {state for arrow in found for state in arrow} == {str(state) for state in State}
    assert {source for source, _ in found} == {str(state) for state in State} - {"final"}


def test_who_moves_a_subtask_is_a_script_of_the_store() -> None:
    scripts = {path.stem for path in (ROOT / "queues" / "lua").iterdir()}
    for _, _, who in table("concepts.md", "States of a subtask"):
        assert set(re.findall(r"`(\w+)`", who)) <= scripts, who


def test_the_arrows_are_those_that_the_enum_tells_of() -> None:
    """The table beside the enum names each state's movers; what it moves them to is the same."""
    found = arrows("States of a subtask")
    for line in (State.__doc__ or "").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 2 and cells[0] in {str(state) for state in State}:
            told = set(re.findall(r"-> (\w+)", cells[1]))
            assert told == {to for source, to in found if source == cells[0]}, cells[0]


def test_the_states_of_a_job_are_those_of_the_code() -> None:
    found = arrows("States of a job")
    assert {state for arrow in found for state in arrow} == {str(status) for status in JobStatus}
    assert {source for source, _ in found} == {str(status) for status in JobStatus} - {"cancelled"}
    for status in JobStatus:
        onward = {to for source, to in found if source == status}
        assert onward == ({"running"} if status in ("completed", "failed") else set()) if status.final else onward


def test_every_reason_to_wait_is_explained() -> None:
    text = (DOCS / "flow-control.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == list(get_args(Reason))


def test_every_alert_says_what_to_do() -> None:
    groups = yaml.safe_load((ROOT / "config" / "alerts.yml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
    rows = table("operate.md", "Alerts")
    assert [row[0] for row in rows] == alerts
    assert all(row[1].endswith((".", "?")) for row in rows)


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: path.stem)
def test_what_a_page_names_there_is(path: Path) -> None:
    """Commands, variables and metrics are those of the reference."""
    text = path.read_text()
    reference = {page.stem: page.read_text() for page in (DOCS / "reference").iterdir()}
    commands = {tuple(words.split()) for words in re.findall(r"^## fleet (.+)$", reference["commands"], re.M)}
    groups = {words[0] for words in commands if len(words) > 1}
    for first, second in re.findall(r"(?:^|[`(\s])fleet ([a-z]+)(?: ([a-z]+))?", "\n".join(code_of(text)), re.M):
        assert ((first, second) if first in groups else (first,)) in commands, f"{path.name}: fleet {first} {second}"
    for variable in set(re.findall(r"\b(?:FLEET|OTEL|OPENAI|FLOWER)_[A-Z_]+\b", text)):
        assert f"`{variable}`" in reference["environment"], f"{path.name}: {variable}"
    for metric in set(re.findall(r"\btierfleet_[a-z_]*[a-z]\b", text)):
        assert f"`{metric}" in reference["metrics"], f"{path.name}: {metric}"


def code_of(text: str) -> list[str]:
    """The blocks and spans of a page that are code, without comments."""
    without = re.sub(r"```.*?```", "", text, flags=re.S)
    fenced = re.findall(r"```(?:sh|console)\n(.*?)```", text, re.S)
    return [*(re.sub(r"\s#.*", "", block) for block in fenced), *re.findall(r"`([^`]+)`", without)]


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in _LINK.findall(re.sub(r"```.*?```", "", path.read_text(), flags=re.S)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{path.name}: {link} has no such heading"


def anchors(path: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_links_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    for page in [*PAGES, DOCS / "reference"]:
        assert f"(docs/{page.name})" in text, page.name


@pytest.mark.parametrize(
    ("expected", "printed", "fits"),
    [
        (["a … c"], "a b c", True),
        (["a", "c"], "a\nb\nc", True),
        (["c", "a"], "a\nb\nc", False),
        (["a b"], "│ a    b │", True),
        (["a.b"], "axb", False),
        (["a", "a"], "a", False),
    ],
)
def test_what_a_block_prints_is_held_against_what_follows_it(expected: list[str], printed: str, fits: bool) -> None:
    block = Block("page.md", 1, "sh", "", "", expected)
    if fits:
        check_output(block, printed)
        return
    with pytest.raises(AssertionError, match="did not print"):
        check_output(block, printed)


def test_a_page_is_cut_into_its_blocks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    console = "<!-- not run: why -->\n```console\nx\n```\n\n"
    page.write_text("# P\n\n" + console + "```sh\necho a\n```\n```text\na\n```\n\n```python\n# b.py\n1\n```\n")
    unrun, shell, text, python = blocks(page)
    assert (unrun.kind, unrun.before, unrun.line) == ("console", "<!-- not run: why -->", 4)
    assert (shell.text, shell.expected, text.kind) == ("echo a", ["a"], "text")
    assert (python.file, shell.file) == ("b.py", None)
