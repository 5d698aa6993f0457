"""The folder of a result: what is in it, and when it may be written to."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.config import load_config
from fleet.errors import BadInputError, FleetError
from fleet.jobs import JobSpec, JobStatus, Outcome, Step
from fleet.ledger import LedgerEntry
from fleet.quality import Judged
from fleet.receipt import Receipt, Tally
from fleet.recipes.document_codebase import document_codebase
from fleet.recipes.pages import check_links
from fleet.replay import replay
from fleet.results import ResultNotWrittenError, check_out, read_books, write_books, write_results
from fleet.session import raise_unless_closed
from tests.support.hostile import NAME, acting

SPEC = JobSpec(name="triage", steps=(Step(id="a", prompt="x"),))
OUTCOMES = [
    Outcome(
        item={"id": 1, "text": "ünï\u2028"}, step="a", status="ok", output={"topic": "bug"}, tier="nano", cost_usd=0.1
    ),
    Outcome(item="two", step="a", status="failed", error="no"),
]


CONFIG = load_config(Path(__file__).parents[2] / "config" / "fleet.yaml")


def entry(number: int) -> LedgerEntry:
    return LedgerEntry(
        call_id=f"c{number}",
        job="j",
        subtask="s1",
        step="a",
        role="work",
        tier="nano",
        model="gpt-5.4-nano",
        provider="openai",
        cost_nano_usd=200_000,
        status="ok",
        started_at=1.0,
        finished_at=2.0,
    )


def receipt(simulated: bool = False) -> Receipt:
    tally = Tally(CONFIG)
    tally.add(entry(1))
    for outcome in OUTCOMES:
        tally.count(outcome)
    return tally.receipt(
        job_id="j",
        name="triage",
        status=JobStatus.COMPLETED,
        simulated=simulated,
        wall_s=1,
    )


def write(out: Path, result: Any = "Briefing.", **changes: Any) -> list[Path]:
    told = changes.pop("receipt", receipt())
    ledger = changes.pop("ledger", iter([entry(1), entry(2)]))
    books = write_books(out, told, ledger, changes.pop("verdicts", ()))
    values: dict[str, Any] = {"spec": SPEC, "outcomes": iter(OUTCOMES), "result": result, "simulated": told.simulated}
    return [*write_results(out, **{**values, **changes}), *books]


def names(out: Path) -> set[str]:
    """The files below `out`, but for the one that is there where pyarrow is."""
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} - {"ledger.parquet"}


def test_what_the_folder_holds(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    charges = tmp_path / "charges.jsonl"
    charges.write_text('{"call_id": "c1"}\n')
    written = write(out, charges=charges)
    assert written[0] == out / "result.md"
    assert names(out) == {"result.md", "results.jsonl", "receipt.json", "ledger.jsonl", "charges.jsonl"}
    assert set(written) == set(out.iterdir())
    assert (out / "result.md").read_text() == "Briefing.\n"
    assert Receipt.model_validate_json((out / "receipt.json").read_text()) == receipt()
    lines = (out / "results.jsonl").read_text().split("\n")
    assert [Outcome.model_validate_json(line) for line in lines if line] == OUTCOMES
    assert set(json.loads(lines[0])) == {
        "item",
        "step",
        "status",
        "output",
        "error",
        "error_kind",
        "tier",
        "model",
        "attempts",
        "usage",
        "cost_usd",
    }
    entries = [LedgerEntry.model_validate_json(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert entries == [entry(1), entry(2)]
    assert (out / "charges.jsonl").read_text() == charges.read_text()


def test_an_earlier_result_is_replaced(tmp_path: Path) -> None:
    charges = tmp_path / "charges.jsonl"
    charges.touch()
    write(tmp_path / "out", charges=charges)
    write(tmp_path / "out", {"topic": "ünï"})
    assert names(tmp_path / "out") == {"result.json", "results.jsonl", "receipt.json", "ledger.jsonl"}
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == {"topic": "ünï"}
    write(tmp_path / "out", None)
    assert names(tmp_path / "out") == {"results.jsonl", "receipt.json", "ledger.jsonl"}


def test_charges_that_are_there_already_stay(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "charges.jsonl").write_text("x\n")
    write(tmp_path, charges=tmp_path / "charges.jsonl")
    assert (tmp_path / "charges.jsonl").read_text() == "x\n"


def test_a_simulated_result_says_so(tmp_path: Path) -> None:
    write(tmp_path / "out", receipt=receipt(simulated=True))
    assert (tmp_path / "out" / "result.md").read_text().startswith("> **Simulated:** no model was asked.")


def test_a_result_holds_no_terminal_escapes(tmp_path: Path) -> None:
    write(tmp_path, "a\x1b]0;x\x07\n\n  b\u202e\n")
    assert (tmp_path / "result.md").read_text() == "a\n\n  b\n"


def test_folders_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for out, message in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "out", "is no folder that can be written to|Not a directory"),
        (tmp_path / "full", "not empty and holds no earlier result"),
    ):
        with pytest.raises(BadInputError, match=message):
            check_out(out)
        with pytest.raises(BadInputError, match=message):
            write(out)
    assert names(tmp_path) == {"file", "full/thesis.txt"}
    check_out(tmp_path / "new" / "deep")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".part-0123").touch()
    check_out(tmp_path / "empty")


def test_a_write_that_fails_leaves_whole_files(tmp_path: Path) -> None:
    write(tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()

    def cut() -> Iterator[Outcome]:
        yield OUTCOMES[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(ResultNotWrittenError, match="No space left"):
        write(tmp_path, outcomes=cut())
    assert (tmp_path / "results.jsonl").read_bytes() == before
    check_out(tmp_path)


def test_the_ledger_is_a_parquet_file_too_where_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec("pyarrow") is not None
    assert (tmp_path / "ledger.parquet" in write(tmp_path)) is there is (tmp_path / "ledger.parquet").exists()
    (tmp_path / "ledger.parquet").write_text("an earlier one")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert tmp_path / "ledger.parquet" not in write(tmp_path)
    assert not (tmp_path / "ledger.parquet").exists(), "what an earlier result left would belie this one's ledger"


def test_verdicts_of_people_are_there_where_there_are_any(tmp_path: Path) -> None:
    said = [Judged(subtask="a/0", kind="a", tier="nano", right=True)]
    assert tmp_path / "verdicts.jsonl" in write(tmp_path, verdicts=said)
    assert list(read_books(tmp_path)[3]) == said
    assert tmp_path / "verdicts.jsonl" not in write(tmp_path)
    assert list(read_books(tmp_path)[3]) == []


def books(out: Path) -> Receipt:
    return replay(*read_books(out), CONFIG).receipt


def test_the_books_of_a_folder_are_read_again(tmp_path: Path) -> None:
    write(tmp_path, ledger=[entry(1)])
    assert books(tmp_path) == receipt()
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write(entry(2).model_dump_json(exclude={"tenant"}).replace('"attempt"', '"later_field"') + "\n")
    assert books(tmp_path).calls == 2, "another version's line is read tolerantly"
    told = (tmp_path / "receipt.json").read_text()
    with pytest.raises(FleetError, match=r"(?s)do not agree:\n- .*\n- calls: the receipt says 1, the books say 2"):
        raise_unless_closed(tmp_path, replay(*read_books(tmp_path), CONFIG))
    assert (tmp_path / "receipt.json").read_text() == told


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ledger.jsonl", None, "has no ledger.jsonl; give a folder that `fleet run --out`"),
        ("results.jsonl", "{}", r"results.jsonl, line 1, is no Outcome: Field required"),
        ("ledger.jsonl", "nonsense", r"ledger.jsonl, line 1, is no LedgerEntry: Invalid JSON"),
        ("receipt.json", "\ud83d", r"receipt.json, line 1, is no Receipt: no UTF-8"),
    ],
)
def test_a_folder_that_holds_no_books_says_what_is_wrong(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    write(tmp_path)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadInputError, match=message):
        books(tmp_path)


def test_a_recipe_writes_its_pages(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.py").write_text("1")
    outcomes = [
        Outcome(item={"path": "a.py"}, step="classify", status="ok", output={"role": "library", "relevant": True}),
        Outcome(item={"path": "a.py"}, step="summarise", status="ok", output={"purpose": "Does it."}),
    ]
    out = tmp_path / "out"
    written = write(
        out,
        "## Overview\n\nOne file.",
        spec=document_codebase(source),
        outcomes=outcomes,
        receipt=receipt(simulated=True),
    )
    assert written[0] == out / "index.md"
    assert names(out) == {
        "index.md",
        "architecture.md",
        "left-out.md",
        "packages/top-level.md",
        "results.jsonl",
        "receipt.json",
        "ledger.jsonl",
    }
    assert check_links(out) == []
    assert "**Simulated:**" in (out / "index.md").read_text()
    with pytest.raises(BadInputError, match="There is no recipe"):
        write(tmp_path / "other", spec=SPEC.model_copy(update={"recipe": "nonsense"}))


def test_no_file_does_anything_to_the_terminal_that_shows_it(tmp_path: Path) -> None:
    hostile = NAME + "\u2028\x85\x7f"
    outcome = OUTCOMES[0].model_copy(update={"output": {"text": hostile}, "item": hostile})
    asked = entry(1).model_copy(update={"answered_model": hostile})
    shown = receipt().model_copy(update={"name": hostile})
    out = tmp_path / "out"
    write(out, {"text": hostile}, outcomes=iter([outcome]), ledger=iter([asked]), receipt=shown)
    for path in out.iterdir():
        assert acting(path.read_text()) == "", path.name
    assert Outcome.model_validate_json((out / "results.jsonl").read_text()) == outcome, "it says the same"
    assert LedgerEntry.model_validate_json((out / "ledger.jsonl").read_text()) == asked
    assert Receipt.model_validate_json((out / "receipt.json").read_text()) == shown
    assert json.loads((out / "result.json").read_text()) == {"text": hostile}
