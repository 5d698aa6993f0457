"""The recipe that documents a codebase: the job, its prompts, and the pages with their links."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import kombu
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import templates
from fleet.blobs import Blobs
from fleet.config import load_config
from fleet.errors import BadInputError
from fleet.feasible import check_feasible
from fleet.items import pack_items, read_items
from fleet.jobs import JobSpec, Outcome
from fleet.markdown import targets
from fleet.recipes import RECIPES, recipe
from fleet.recipes.document_codebase import document_codebase
from fleet.recipes.pages import check_links, write_pages
from fleet.sources import Skipped

KOMBU = Path(kombu.__file__).parent
REVIEW = """## Overview

Kombu moves messages. Start at `connection.py`.

## Architecture

The [transport](packages/kombu.transport.md) package holds `kombu.transport.redis`; see [docs](https://x.example),
[secrets](../../etc/passwd) and `transport/virtual/base.py`.
"""


def classified(path: Any, **output: Any) -> Outcome:
    answer = {"role": "library", "relevant": True, "reason": "It is used.", **output}
    return Outcome(item=path, step="classify", status="ok", output=answer, tier="nano")


def summarised(path: Any, purpose: str = "Does things.", **output: Any) -> Outcome:
    answer = {"purpose": purpose, "main_names": ["Thing"], "depends_on": ["kombu.utils", "amqp"], **output}
    return Outcome(item=path, step="summarise", status="ok", output=answer, tier="mini")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("app.py", "pkg/__init__.py", "pkg/a.py", "pkg/sub/b c (1) [x].py", "pkg/näme`\n.py"):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    return tmp_path / "src"


def test_the_job_is_one_that_can_run() -> None:
    spec = document_codebase(KOMBU, budget_usd=2.5)
    check_feasible(spec, load_config(Path(__file__).parents[2] / "config" / "fleet.yaml"))
    assert spec.budget_usd == Decimal("2.5")
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    classify, summarise = spec.steps
    assert (classify.tier, summarise.tier, summarise.needs, summarise.when) == (
        "nano",
        "mini",
        ("classify",),
        "classify.relevant",
    )
    assert recipe("document_codebase") is RECIPES["document_codebase"]
    with pytest.raises(BadInputError, match="document_codebase"):
        recipe("document_codbase")


def test_prompts_end_with_a_bounded_part_of_the_file() -> None:
    classify, summarise = document_codebase(KOMBU).steps
    item = {"path": "a.py", "text": "x" * 50_000, "bytes": 50_000}
    first = templates.render(classify.prompt, {"item": item})
    assert first.startswith("Path: a.py\nSize: 50000 bytes; its first 6000 characters\n<file>\nxxx")
    assert 6_000 < len(first) < 6_200
    second = templates.render(summarise.prompt, {"item": item, "classify": {"role": "library"}})
    assert second.startswith("Role: library\nPath: a.py\n")
    assert 24_000 < len(second) < 24_200
    small = templates.render(classify.prompt, {"item": {"path": "a.py", "text": "pass", "bytes": 4}})
    assert small == "Path: a.py\nSize: 4 bytes\n<file>\npass\n</file>"
    assert summarise.when is not None
    assert templates.holds(summarise.when, {"classify": {"relevant": True}})
    assert classify.output is not None
    jsonschema.validate({"role": "entry point", "relevant": False, "reason": ""}, classify.output)


@pytest.mark.parametrize("budget", [0, -1])
def test_parameters_that_cannot_be_used(budget: int) -> None:
    with pytest.raises(BadInputError, match="budget_usd"):
        document_codebase(KOMBU, budget_usd=budget)
    with pytest.raises(BadInputError, match="is no folder"):
        document_codebase(KOMBU / "gone")


def outcomes_of(paths: list[str]) -> Iterator[Outcome]:
    for number, path in enumerate(paths):
        item = {"path": path, "bytes": 10}
        if number % 7 == 3:
            yield classified(item, relevant=False, role="test", reason="Only tests.")
            yield Outcome(item=item, step="summarise", status="skipped")
        elif number % 11 == 5:
            yield classified(item)
            yield Outcome(item=item, step="summarise", status="failed", error="The provider gave up.")
        else:
            yield classified(item)
            yield summarised(
                item, main_names=["Connection", "a|b"], depends_on=["kombu.utils", "kombu.transport.redis"]
            )


def test_pages_of_an_installed_package(tmp_path: Path) -> None:
    spec = document_codebase(KOMBU)
    blobs = Blobs(tmp_path / "blobs")
    assert not isinstance(spec.items, tuple)
    index = pack_items(spec.items, blobs, "items")
    paths = [item["path"] for item in read_items(blobs, index, 0, index.count)]
    assert len(paths) > 50
    out = tmp_path / "out"
    pages = write_pages(spec, outcomes_of(paths), REVIEW, KOMBU, out, simulated=True, skipped=index.skipped)
    assert pages[0] == out / "index.md"
    assert sorted(pages) == sorted(out.rglob("*.md"))
    assert {page.name for page in (out / "packages").iterdir()} >= {"kombu.md", "kombu.transport.md", "kombu.utils.md"}
    assert check_links(out) == []
    text = {page.relative_to(out).as_posix(): page.read_text() for page in pages}
    everything = "".join(text.values())
    for path in paths:
        assert everything.count(f"[`{path}`](") >= 1
    assert all("**Simulated:**" in page for page in text.values())
    assert "Kombu moves messages. Start at [`connection.py`](" in text["index.md"]
    architecture = text["architecture.md"]
    assert "The [transport](packages/kombu.transport.md) package" in architecture
    assert "see docs,\nsecrets and [`transport/virtual/base.py`](" in architecture
    assert "Kombu moves messages" not in architecture
    assert "[`kombu.utils`](kombu.utils.md)" in text["packages/kombu.transport.md"]
    assert "The provider gave up." in text["left-out.md"]
    assert "Only tests." in text["left-out.md"]


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("[x](b.md) ![y](gone.png) [z](https://x.example) [w](#top) <b>h</b> [a](a.md#x)\n")
    (tmp_path / "c.md").write_bytes(b"[x](//[y) [z](" + b"n" * 300 + b") [nul](a%00b) \xff\n")
    assert check_links(tmp_path) == [
        "a.md: b.md",
        "a.md: gone.png",
        "a.md: https://x.example",
        "a.md: #top",
        "a.md: <html>",
        "a.md: <html>",
        "c.md: //%5By",
        f"c.md: {'n' * 300}",
        "c.md: a%00b",
    ]


def test_files_are_shown_by_package_or_left_out_with_a_reason(source: Path, tmp_path: Path) -> None:
    odd = "pkg/näme`\n.py"
    outcomes = [
        classified("app.py", role="entry point"),
        summarised("app.py", "Starts it."),
        summarised({"path": "pkg/a.py"}, depends_on=["pkg", "os"]),
        classified({"path": "pkg/a.py"}),
        classified("pkg/sub/b c (1) [x].py"),
        summarised("pkg/sub/b c (1) [x].py"),
        classified(odd),
        summarised(odd),
        classified("pkg/gone.py"),
        Outcome(item="pkg/broken.py", step="classify", status="failed", error="no answer"),
        classified("../../etc/passwd"),
        summarised("../../etc/passwd"),
    ]
    out = tmp_path / "out"
    spec = document_codebase(source)
    skipped = [Skipped(path="pkg/__init__.py", reason="empty")]
    (out / "packages").mkdir(parents=True)
    (out / "packages" / "old.md").write_text("from an earlier run")
    pages = RECIPES["document_codebase"].write(spec, outcomes, None, out, skipped=skipped)
    assert check_links(out) == []
    assert not (out / "packages" / "old.md").exists()
    assert pages[0].read_text().count("The review gave no text") == 1
    assert "[`app.py`](../../src/app.py)\n\n*entry point*\n\nStarts it." in (out / "packages/top-level.md").read_text()
    package = (out / "packages/pkg.md").read_text()
    assert "[``pkg/näme` .py``](../../src/pkg/n%C3%A4me%60%0A.py)" in package
    assert "[`pkg/sub/b c (1) [x].py`](" in (out / "packages/pkg.sub.md").read_text()
    left = (out / "left-out.md").read_text()
    assert "## Not summarised\n\n- `pkg/gone.py`: the job ended before" in left
    assert "## Not classified (failed)\n\n- `pkg/broken.py`: no answer" in left
    assert "## Not read\n\n- [`pkg/__init__.py`](../src/pkg/__init__.py): empty" in left
    everything = "".join(page.read_text() for page in pages)
    assert "](../../../etc" not in everything
    assert "`../../etc/passwd`" in everything


HOSTILE = (
    "</details><script>alert(1)</script>",
    "[x](../../etc/passwd)",
    "![](http://evil.example/p.png) <http://evil.example>",
    "```\n# [y](http://evil.example)\n```",
    "\x1b]8;;http://evil.example\x07x\x1b[2J\u202e",
    "a\n\n<img src=x>\n\n| b |",
    "`" * 50 + "<i>",
    "x" * 100_000,
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(HOSTILE) | st.text(), st.sampled_from(HOSTILE) | st.text() | st.none() | st.integers())
def test_nothing_a_model_writes_reaches_the_reader(
    tmp_path_factory: pytest.TempPathFactory, text: str, other: Any
) -> None:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "a.py").write_text("1")
    outcomes = [
        classified("a.py", role=text, reason=text),
        summarised("a.py", text, main_names=[text, other], depends_on=[text, other]),
        classified("b.py", relevant=False, reason=text),
        Outcome(item="c.py", step="classify", status="failed", error=text),
        classified(f"{text}.py"),
        summarised(f"{text}.py", other, main_names=other, depends_on=other),
        Outcome(item=other, step="summarise", status="ok", output=other),
    ]
    spec = document_codebase(folder)
    pages = write_pages(spec, outcomes, text, folder, folder / "out")
    assert check_links(folder / "out") == []
    for page in pages:
        content = page.read_text()
        assert "\x1b" not in content
        assert len(content) < 70_000
        for target in targets(content):
            assert target.endswith((".md", "a.py"))


def test_results_as_json_lines_are_outcomes(source: Path, tmp_path: Path) -> None:
    line = json.dumps({"item": {"path": "app.py"}, "step": "summarise", "status": "ok", "output": {"purpose": "P."}})
    write_pages(document_codebase(source), [Outcome.model_validate_json(line)], "", source, tmp_path / "out")
    assert "P." in (tmp_path / "out/packages/top-level.md").read_text()
