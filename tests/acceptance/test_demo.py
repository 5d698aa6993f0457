"""The main job as a user meets it: the real command, real processes, no key."""

from __future__ import annotations

import json
from pathlib import Path

import celery
import pytest

from fleet.recipes.pages import check_links
from tests.support.cli import Folder, books_agree, lines


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """`fleet demo` over the installed package celery: over 100 files."""
    folder = Folder(tmp_path_factory.mktemp("demo"), {})
    ran = folder.fleet("demo", str(Path(celery.__file__).parent), "--out", "out")
    assert ran.code == 0, ran.out + ran.err
    return ran.out, folder.path / "out"


def test_it_runs_separate_processes_and_says_that_the_provider_is_simulated(documented: tuple[str, Path]) -> None:
    text, _ = documented
    for name in ("valkey", "sim", "coordinator", "nano", "mini", "flagship"):
        assert f"{name} (" in text.replace("\n", " "), text
    assert "the simulated provider answers" in text
    assert "Simulated provider" in text


def test_books_agree_to_the_call_and_the_nano_dollar(documented: tuple[str, Path]) -> None:
    calls, cost = books_agree(documented[1])
    assert calls > 200
    assert cost > 0


def test_every_file_is_classified_and_every_relevant_one_summarised(documented: tuple[str, Path]) -> None:
    results = lines(documented[1] / "results.jsonl")
    classified = {line["item"]["path"]: line for line in results if line["step"] == "classify"}
    summarised = {line["item"]["path"]: line for line in results if line["step"] == "summarise"}
    receipt = json.loads((documented[1] / "receipt.json").read_text())
    sources = list(Path(celery.__file__).parent.rglob("*.py"))
    assert len(sources) >= 100
    assert len(classified) + receipt["skipped_items"] == len(sources)
    assert all(line["status"] == "ok" for line in classified.values())
    relevant = {path for path, line in classified.items() if line["output"]["relevant"]}
    assert relevant
    assert {path for path, line in summarised.items() if line["status"] == "ok"} == relevant


def test_escalation_is_seen_and_every_link_resolves(documented: tuple[str, Path]) -> None:
    receipt = json.loads((documented[1] / "receipt.json").read_text())
    assert receipt["tiers"]["nano"]["escalated_from"] > 0
    assert receipt["failed"] == 0
    assert check_links(documented[1]) == []
    assert "`Celery`" in "".join(page.read_text() for page in (documented[1] / "packages").glob("*.md"))


def test_the_receipt_shows_all_of_it_in_80_columns(documented: tuple[str, Path]) -> None:
    assert "Per accepted outcome" in documented[0]
    told = Folder(documented[1].parent, {"COLUMNS": "80"}).fleet("jobs", "cost", "--from", "out")
    assert told.code == 0, told.err
    shown = told.out.splitlines()
    assert all(len(line) <= 80 for line in shown)
    assert not any("…" in line for line in shown)
    for name in (
        "tier",
        "total",
        "Outcomes",
        "Per accepted outcome",
        "Cost of",
        "By lane",
        "By step",
        "From the vendor's",
    ):
        assert any(line.startswith(name) for line in shown), told.out
    assert "100% accepted, " in " ".join(told.out.split())


def test_the_ledger_alone_gives_the_receipt_again(documented: tuple[str, Path]) -> None:
    out = documented[1]
    folder = Folder(out.parent, {})
    again = folder.fleet("jobs", "cost", "--from", "out", "-o", "json")
    assert again.code == 0, again.err
    assert json.loads(again.out) == json.loads((out / "receipt.json").read_text())
    for row in lines(out / "ledger.jsonl"):
        assert row["price"]["source"].startswith("genai-prices")
        assert row["attempt"] >= 1
        assert row["reserved_nano_usd"] > 0
    ledger = (out / "ledger.jsonl").read_text()
    (out / "ledger.jsonl").write_text(ledger.partition("\n")[2])
    try:
        short = folder.fleet("jobs", "cost", "--from", "out")
    finally:
        (out / "ledger.jsonl").write_text(ledger)
    assert short.code == 1
    assert "calls: the receipt says" in short.err
