"""`fleet jobs`: look at jobs of a running fleet, and act on them."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from fleet import dollars
from fleet.client import FleetClient
from fleet.control import Control
from fleet.display import clean, inert
from fleet.errors import BadInputError
from fleet.output import Output, print_data
from fleet.receipt_view import render_receipt
from fleet.replay import replay
from fleet.results import check_out, read_books
from fleet.runtime import checked_config
from fleet.session import ask, environment_here, finished, follow, raise_unless_closed, raise_unless_completed
from fleet.views import job_view

jobs = typer.Typer(help="Look at the jobs of a running fleet, and act on them.", no_args_is_help=True)

T = TypeVar("T")

Budget = Annotated[
    Decimal | None, typer.Option("--budget", help="New hard cap in US dollars.", metavar="USD", parser=dollars.budget)
]
JobId = Annotated[str, typer.Argument(help="The job's id.", metavar="JOB")]


@jobs.command("list")
def list_(
    most: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=1000)] = 20, output: Output = "text"
) -> None:
    """The newest jobs."""

    async def question(client: FleetClient) -> list[dict[str, Any]]:
        return [await _described(client, job_id) for job_id, _ in await client.latest(most)]

    found = ask(environment_here(), question)
    table = Table()
    for column in ("job", "name", "status", "done", "failed", "cost"):
        table.add_column(column)
    for job in found:
        counts = job["counts"]
        done = f"{counts['done']}/{counts['total']}"
        table.add_row(
            job["id"], clean(job["name"]), job["status"], done, str(counts["failed"]), f"${job['cost_usd']:.4f}"
        )
    print_data({"jobs": found}, output, table)


@jobs.command()
def get(job_id: JobId, output: Output = "text") -> None:
    """One job: status, counts, cost, what its subtasks wait for, and the reason where it failed or is paused."""

    async def question(client: FleetClient) -> dict[str, Any]:
        return await _described(client, job_id, waits=True)

    job = ask(environment_here(), question)
    counts = job["counts"]
    lines = [
        f"{job['id']}  {clean(job['name'])}",
        f"status   {job['status']}" + ("  (simulated provider)" if job["simulated"] else ""),
        "subtasks " + ", ".join(f"{counts[name]} {name}" for name in ("done", "failed", "running", "waiting")),
        f"cost     ${job['cost_usd']:.6f}" + (f" of ${job['budget_usd']}" if job["budget_usd"] is not None else ""),
    ]
    for wait in job["waits"]:
        lines.append(f"waits    {clean(wait['tier'])}: {wait['subtasks']:,} ({wait['reason']}): {clean(wait['text'])}")
    if job["error"]:
        lines.append(f"reason   {clean(job['error'])}")
    print_data(job, output, "\n".join(lines))


@jobs.command()
def watch(job_id: JobId) -> None:
    """Follow a job to its end and print its receipt."""
    console = Console()

    async def question(client: FleetClient) -> Any:
        await client.job(job_id)
        await follow(client, job_id, console, None)
        return await finished(client, job_id, None, None)

    status, error, receipt, _ = ask(environment_here(), question)
    console.print(render_receipt(receipt))
    raise_unless_completed(job_id, status, error)


@jobs.command()
def results(
    job_id: JobId,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write result, receipt and ledger there.", metavar="DIR")
    ] = None,
) -> None:
    """One JSON line per subtask, or with --out the folder that `fleet run --out` writes."""
    environment = environment_here()

    async def question(client: FleetClient) -> list[Path]:
        job = await client.job(job_id)
        if out is not None:
            check_out(out)
            return (await finished(client, job.id, out, environment.fleet_state / "charges.jsonl"))[3]
        async for outcome in client.outcomes(job):
            sys.stdout.write(inert(outcome.model_dump_json()) + "\n")
        return []

    written = ask(environment, question)
    if written:
        Console().print(
            f"written: {written[0]} and {len(written) - 1} more files in {out}", markup=False, soft_wrap=True
        )


@jobs.command()
def cost(
    job_id: Annotated[str | None, typer.Argument(help="The job's id.", metavar="JOB")] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--from", help="Add up the ledger in a folder that --out wrote, instead.", metavar="DIR"),
    ] = None,
    output: Output = "text",
) -> None:
    """The receipt as it stands; with --from added up anew from an exported ledger, which fails where the two differ."""
    if (job_id is None) == (folder is None):
        raise BadInputError("Give a job's id, or --from with the folder of one, such as `--from out/demo`.")
    if folder is not None:
        replayed = replay(*read_books(folder), checked_config(environment_here()))
        print_data(replayed.receipt, output, render_receipt(replayed.receipt))
        raise_unless_closed(folder, replayed)
        return

    async def question(client: FleetClient) -> Any:
        return await client.receipt(await client.job(str(job_id)))

    receipt = ask(environment_here(), question)
    print_data(receipt, output, render_receipt(receipt))


@jobs.command()
def pause(job_id: JobId) -> None:
    """Start no further call of a job; running ones end."""
    _control(lambda control: control.pause(job_id))
    Console().print(f"{job_id} is paused; `fleet jobs resume {job_id}` lets it go on")


@jobs.command()
def resume(job_id: JobId, budget: Budget = None) -> None:
    """Let a paused job go on."""
    _control(lambda control: control.resume(job_id, budget_usd=budget))
    Console().print(f"{job_id} goes on")


@jobs.command()
def cancel(job_id: JobId) -> None:
    """End a job; what was done is kept."""
    _control(lambda control: control.cancel(job_id))
    Console().print(f"{job_id} is cancelled; its outputs and its ledger are kept")


@jobs.command()
def retry(
    job_id: JobId,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only what failed, and what was skipped because of it.")
    ] = False,
    budget: Budget = None,
) -> None:
    """Run what failed in an ended job again; what was accepted stays."""
    if not failed:
        raise BadInputError(
            f"Say what to retry: `fleet jobs retry --failed {job_id}`. To run all again, submit the job."
        )
    number = _control(lambda control: control.retry_failed(job_id, budget_usd=budget))
    what = f"{number} subtasks of {job_id} run" if number else f"the plan or the review of {job_id} is made"
    Console().print(f"{what} again; `fleet jobs watch {job_id}` shows it")


def _control(act: Callable[[Control], Awaitable[T]]) -> T:
    async def question(client: FleetClient) -> T:
        return await act(Control(client.runtime))

    return ask(environment_here(), question)


async def _described(client: FleetClient, job_id: str, *, waits: bool = False) -> dict[str, Any]:
    return (await job_view(client, job_id, waits=waits)).model_dump(mode="json", exclude=None if waits else {"waits"})
