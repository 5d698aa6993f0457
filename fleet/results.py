"""The folder a job's result is written to (`--out DIR`): result, results.jsonl, receipt.json, ledger.jsonl, ledger.parquet and
verdicts.jsonl.

It owns the folder's names, when it may be written to and how it is read again; it is handed everything and reads no store.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fleet.atomic import TEMPORARY, atomic_writer, write_text
from fleet.display import clean, inert
from fleet.errors import BadInputError, FleetError
from fleet.jobs import JobSpec, Outcome
from fleet.ledger import LedgerEntry
from fleet.parquet import write_parquet
from fleet.quality import Judged
from fleet.receipt import Receipt
from fleet.recipes import recipe
from fleet.sources import Skipped
from fleet.stored import read_json

M = TypeVar("M", bound=BaseModel)

#: Tells a folder with an earlier result, which may be written over, from any other.
MARKER = "receipt.json"
LEDGER, PARQUET, RESULTS = "ledger.jsonl", "ledger.parquet", "results.jsonl"
#: What people said of the outputs; there where somebody said anything.
VERDICTS = "verdicts.jsonl"
MAX_RESULT_CHARS = 4_000_000
_SIMULATED = "> **Simulated:** no model was asked. The simulated provider made up this text.\n\n"


class ResultNotWrittenError(FleetError):
    """The job ended, but its result could not be written; it is still in the store and can be written elsewhere."""


def check_out(out: Path) -> None:
    """Before anything is spent: may `out` be written to? It may be missing, empty, or hold an earlier result.

    Raises:
        BadInputError: it is a file, a folder with something else in it, or cannot be written to.
    """
    try:
        if not out.exists():
            above = next(folder for folder in out.absolute().parents if folder.exists())
            if not above.is_dir() or not os.access(above, os.W_OK):
                raise BadInputError(f"{out} cannot be made: {above} is no folder that can be written to.")
            return
        if not out.is_dir():
            raise BadInputError(f"{out} is a file; give a folder for the result.")
        # What a killed run left half-written is no reason to refuse.
        others = [entry.name for entry in out.iterdir() if not entry.name.startswith(TEMPORARY)]
    except OSError as error:
        raise BadInputError(f"{out} cannot be used for the result: {error.strerror or error}.") from error
    if others and MARKER not in others:
        raise BadInputError(
            f"{out} is not empty and holds no earlier result (no {MARKER}); give an empty or a new folder."
        )
    if not os.access(out, os.W_OK):
        raise BadInputError(f"{out} cannot be written to; give another folder.")


def write_books(
    out: Path, receipt: Receipt, ledger: Iterable[LedgerEntry], verdicts: Sequence[Judged] = ()
) -> list[Path]:
    """Write a job's receipt, its ledger and what people said of its outputs below `out`, before its results.

    So an answer that cannot be written costs no books.

    Ledger entries are streamed. The files are given back.

    Raises:
        BadInputError: `out` cannot be used (see `check_out`).
        ResultNotWrittenError: the disk is full or the folder went away.
    """
    check_out(out)
    with _told_to(out):
        # First, so that the folder is known as ours should this be cut short.
        write_text(out / MARKER, inert(receipt.model_dump_json(indent=2)) + "\n")
        _write_lines(out / LEDGER, ledger)
        written = [out / MARKER, out / LEDGER]
        if write_parquet(out / PARQUET, _read(out / LEDGER, LedgerEntry)):
            written.append(out / PARQUET)
        if verdicts:
            _write_lines(out / VERDICTS, verdicts)
            written.append(out / VERDICTS)
        for name in (PARQUET, VERDICTS):
            if out / name not in written:
                (out / name).unlink(missing_ok=True)
    return written


def write_results(
    out: Path,
    *,
    spec: JobSpec,
    outcomes: Iterable[Outcome],
    result: Any,
    simulated: bool,
    charges: Path | None = None,
    skipped: Sequence[Skipped] = (),
) -> list[Path]:
    """Write a job's result below `out`, beside its books, each file whole or not at all; an earlier result there is replaced.

    Outcomes are streamed. `result` is text (result.md), JSON (result.json) or None (neither); a job of a recipe gets the
    recipe's pages instead.

    Args:
        charges: the simulated provider's record of what it charged, copied to charges.jsonl.
        skipped: inputs that could not become items, for the recipe's pages.

    Returns:
        The files, the one to read first in front.

    Raises:
        BadInputError: `out` cannot be used (see `check_out`), or the recipe is not known.
        ResultNotWrittenError: the disk is full or the folder went away.
    """
    check_out(out)
    writer = recipe(spec.recipe).write if spec.recipe is not None else None
    lines = out / RESULTS
    with _told_to(out):
        _write_lines(lines, outcomes)
        written = [lines]
        if charges is not None:
            written.append(_copy(charges, out / "charges.jsonl"))
        if writer is not None:
            pages = writer(spec, _read(lines, Outcome), result, out, simulated=simulated, skipped=skipped)
            written = [*pages, *written]
        elif isinstance(result, str):
            # People print this file to their terminal.
            text = clean(result, MAX_RESULT_CHARS, keep_lines=True).rstrip()
            write_text(out / "result.md", (_SIMULATED if simulated else "") + text + "\n")
            written.insert(0, out / "result.md")
        elif result is not None:
            write_text(out / "result.json", inert(json.dumps(result, ensure_ascii=False, indent=2)) + "\n")
            written.insert(0, out / "result.json")
        for name in ("result.md", "result.json", "charges.jsonl"):
            if out / name not in written:
                (out / name).unlink(missing_ok=True)
    return written


@contextmanager
def _told_to(out: Path) -> Iterator[None]:
    """A disk that does not take the files is told of in a sentence."""
    try:
        yield
    except OSError as error:
        raise ResultNotWrittenError(
            f"The job ended, but its result cannot be written to {out}: {error.strerror or error}."
        ) from error


def _write_lines(path: Path, entries: Iterable[BaseModel]) -> None:
    with atomic_writer(path) as file:
        for entry in entries:
            file.write(inert(entry.model_dump_json()).encode() + b"\n")


def read_books(folder: Path) -> tuple[Receipt, Iterator[LedgerEntry], Iterator[Outcome], Iterator[Judged]]:
    """The receipt, the ledger, the outcomes and the verdicts of people of a folder that was written by some version.

    Raises:
        BadInputError: a file is missing, or (while they are gone through) has a line that is none.
    """
    for name in (MARKER, LEDGER, RESULTS):
        if not (folder / name).is_file():
            raise BadInputError(
                f"{folder} has no {name}; give a folder that `fleet run --out` or `jobs results --out` wrote."
            )
    (receipt,) = _told(folder / MARKER, Receipt, [(folder / MARKER).read_bytes()])
    verdicts = _lines_of(folder / VERDICTS, Judged) if (folder / VERDICTS).is_file() else iter(())
    return receipt, _lines_of(folder / LEDGER, LedgerEntry), _lines_of(folder / RESULTS, Outcome), verdicts


def _lines_of(path: Path, model: type[M]) -> Iterator[M]:
    with path.open("rb") as file:
        yield from _told(path, model, file)


def _told(path: Path, model: type[M], texts: Iterable[bytes]) -> Iterator[M]:
    for number, text in enumerate(texts, 1):
        try:
            yield read_json(model, text.decode())
        except ValueError as error:
            what = error.errors(include_input=False)[0]["msg"] if isinstance(error, ValidationError) else "no UTF-8"
            raise BadInputError(f"{path}, line {number}, is no {model.__name__}: {what}.") from None


def _read(path: Path, model: type[M]) -> Iterator[M]:
    with path.open("rb") as file:
        for line in file:
            yield model.model_validate_json(line)


def _copy(source: Path, target: Path) -> Path:
    if not (target.exists() and source.samefile(target)):
        with source.open("rb") as original, atomic_writer(target) as copy:
            shutil.copyfileobj(original, copy)
    return target
