"""`fleet audit`: a person says of a sample of a job's accepted outputs which are right."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fleet.client import FleetClient
from fleet.config import FleetConfig
from fleet.display import clean
from fleet.errors import BadInputError
from fleet.human_audit import Given, HumanAudit, Shown, Taken, read_verdicts
from fleet.output import Output, print_data
from fleet.quality import Quality
from fleet.session import ask, environment_here
from fleet.trust import Audits, is_below

#: Characters of an item and of an output that a terminal is shown.
SHOWN_CHARS = 4_000
#: Outputs that one call lists.
MOST_LISTED = 1_000

commands = typer.Typer()


@commands.command()
def audit(
    job_id: Annotated[str, typer.Argument(help="The job's id.", metavar="JOB")],
    share: Annotated[
        float, typer.Option(help="Of its accepted outputs, so many: 0.05 is one in twenty.", min=0, max=1)
    ] = 0.05,
    verdicts: Annotated[
        Path | None,
        typer.Option(
            help='Take verdicts from a file: a line {"subtask": "step/0", "right": true} each.', metavar="FILE"
        ),
    ] = None,
    output: Output = "text",
) -> None:
    """Judge accepted outputs yourself, and see how many are right by kind and tier.

    On a terminal it asks about each output of the sample; otherwise it lists them, for verdicts in a file.
    """
    environment = environment_here()
    if verdicts is not None:
        given = _read(verdicts)
    else:
        sample = ask(environment, lambda client: _sample(client, job_id, share))
        if output == "json" or not sys.stdin.isatty():
            return _list(sample, output)
        given = _asked(sample)

    async def kept(client: FleetClient) -> tuple[Taken, list[Quality], FleetConfig]:
        human = HumanAudit(client, await client.job(job_id))
        return await human.keep(given), await human.quality(), client.runtime.config

    taken, rows, config = ask(environment, kept)
    if output == "text":
        changed = f" and {taken.corrected} corrected" if taken.corrected else ""
        there = len(given) - taken.new - taken.corrected
        Console().print(
            f"{taken.new} new verdicts are kept with {job_id}{changed}; {there} were there already",
            markup=False,
            soft_wrap=True,
        )
    counted = {"new": taken.new, "corrected": taken.corrected}
    print_data(counted | {"quality": [_described(row, config) for row in rows]}, output, _table(rows, config))
    return None


async def _sample(client: FleetClient, job_id: str, share: float) -> list[Shown]:
    return (await HumanAudit(client, await client.job(job_id)).sample(share))[:MOST_LISTED]


def _read(path: Path) -> list[Given]:
    try:
        with path.open(encoding="utf-8") as lines:
            return read_verdicts(lines, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _list(sample: Sequence[Shown], output: str) -> None:
    table = Table()
    for column in ("subtask", "kind", "tier", "output"):
        table.add_column(column)
    for one in sample:
        table.add_row(one.subtask, clean(one.kind, 40), clean(one.tier, 40), clean(_text(one.output)))
    print_data({"sample": [_plain(one) for one in sample]}, output, table)


def _asked(sample: Sequence[Shown]) -> list[Given]:
    """What somebody at a terminal says; they may stop at any time."""
    console = Console()
    given: list[Given] = []
    for number, one in enumerate(sample, 1):
        console.rule(f"{number} of {len(sample)}: {one.subtask}")
        if one.item is not None:
            console.print(
                "item: " + clean(_text(one.item), SHOWN_CHARS, keep_lines=True), markup=False, highlight=False
            )
        console.print(
            "output: " + clean(_text(one.output), SHOWN_CHARS, keep_lines=True), markup=False, highlight=False
        )
        said = typer.prompt("right? yes, no, skip, quit", default="skip", show_default=False)
        if said[:1].lower() == "q":
            break
        if said[:1].lower() in ("y", "n"):
            given.append(Given(subtask=one.subtask, right=said[:1].lower() == "y"))
    return given


def _table(rows: Sequence[Quality], config: FleetConfig) -> Table:
    table = Table()
    for column in ("kind", "tier", "accepted", "audited", "right", "95 %", "floor"):
        table.add_column(column, justify="left" if column in ("kind", "tier") else "right")
    for row in rows:
        floor = config.floor(row.kind)
        table.add_row(
            clean(row.kind, 40),
            clean(row.tier or "-", 40),
            f"{row.accepted:,} of {row.accepted + row.rejected:,}",
            f"{row.audited:,}",
            f"{row.right / row.audited:.1%}" if row.audited else "-",
            f"{row.low:.1%} to {row.high:.1%}" if row.audited else "-",
            "-" if floor is None else f"{floor:.1%}" + (" missed" if _missed(row, floor) else ""),
        )
    return table


def _described(row: Quality, config: FleetConfig) -> dict[str, Any]:
    floor = config.floor(row.kind)
    return row.model_dump() | {"floor": floor, "below_floor": _missed(row, floor)}


def _missed(row: Quality, floor: float | None) -> bool:
    return floor is not None and is_below(Audits(row.audited, row.right), floor)


def _plain(one: Shown) -> dict[str, Any]:
    return {"subtask": one.subtask, "kind": one.kind, "tier": one.tier, "item": one.item, "output": one.output}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
