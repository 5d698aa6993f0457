"""The command `fleet`: reads arguments, calls what does the work, prints. Exit codes: 0 done, 1 failed, 2 bad input."""

from __future__ import annotations

import asyncio
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from fleet import cli_audit, cli_plan, cli_prices, cli_routes, cli_top, dollars, processes
from fleet.accounts import AccountLimits, limits_table
from fleet.cli_jobs import jobs
from fleet.cli_keys import keys
from fleet.cli_webhooks import told, webhooks
from fleet.client import FleetClient, check
from fleet.config import Environment
from fleet.display import clean
from fleet.doctor import Finding, examine
from fleet.embedded import EmbeddedFleet, stop_signals
from fleet.errors import BadInputError, FleetError
from fleet.jobs import FilesSource, Items, JobSpec, load_job
from fleet.output import Output, print_data
from fleet.receipt_view import render_receipt
from fleet.recipes import recipe
from fleet.results import check_out
from fleet.runtime import checked_config
from fleet.session import ask, environment_here, finished, fleet_for_a_job, follow, page_of, raise_unless_completed
from queues.link import LinkError

app = typer.Typer(
    name="fleet",
    help="A team of language models as distributed workers: the cheapest tier that will do, checked, and a receipt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(jobs, name="jobs")
app.add_typer(keys, name="keys")
app.add_typer(webhooks, name="webhooks")
app.registered_commands += [
    command
    for part in (cli_audit, cli_plan, cli_prices, cli_routes, cli_top, processes)
    for command in part.commands.registered_commands
]

JobFile = Annotated[Path, typer.Argument(help="A job in YAML.", metavar="JOB.yaml")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for result, receipt and ledger.", metavar="DIR")]
Budget = Annotated[
    Decimal | None, typer.Option("--budget", help="Hard cap in US dollars.", metavar="USD", parser=dollars.budget)
]
SIMULATED = "no key and no base URL: the simulated provider answers, nothing is charged"


def main() -> None:
    """Run a command and exit; errors of ours are sentences on stderr."""
    try:
        # Without its standalone mode the code of an `Exit` is what a command returns.
        sys.exit(app(standalone_mode=False) or 0)
    except BadInputError as error:
        _exit(2, str(error))
    except (FleetError, LinkError) as error:
        _exit(1, str(error))
    except RedisError as error:
        _exit(
            1,
            f"The store refused: {error}. Nothing of this command can be relied upon; mend the store, then repeat it.",
        )
    except (KeyboardInterrupt, typer.Abort):
        _exit(1, "Stopped.")
    except Exception as error:
        # What typer itself refuses: an unknown command or option, a value of the wrong type.
        show = getattr(error, "format_message", None)
        if show is None:
            raise
        _exit(2, str(show()))


@app.command()
def demo(
    path: Annotated[Path | None, typer.Argument(help="The codebase to document; this one when left out.")] = None,
    out: Out = Path("out/demo"),
    budget: Budget = None,
) -> None:
    """Document a codebase: nano sorts the files, mini summarises, the flagship writes it up once."""
    root = path or (Path.cwd() if (Path.cwd() / "fleet").is_dir() else Path(__file__).parent)
    _run(recipe("document_codebase").build(root, budget_usd=budget), out)


@app.command()
def run(
    job: JobFile,
    items: Annotated[
        Path | None, typer.Option("--items", help="File or folder of items, instead of the job's.")
    ] = None,
    budget: Budget = None,
    out: Out = None,
) -> None:
    """Run a job to its end, on the fleet at FLEET_REDIS_URL, the one in this folder, or one of its own."""
    _run(_job(job, items, budget), out)


@app.command()
def submit(job: JobFile, output: Output = "text") -> None:
    """Submit a job to a running fleet and print its id."""
    spec = load_job(job)

    async def submitted(client: FleetClient) -> str:
        return await client.submit(spec)

    environment = environment_here()
    job_id = ask(environment, submitted)
    page = page_of(environment, job_id)
    print_data({"id": job_id, "page": page}, output, job_id)
    if page is not None and output == "text":
        # Not where a script reads the id.
        Console(stderr=True).print(f"its page: {page}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def limits(output: Output = "text") -> None:
    """Per model: its limits a minute, what is used of them, and until when it is paused."""

    async def question(client: FleetClient) -> list[AccountLimits]:
        return await client.limits()

    accounts = ask(environment_here(), question)
    print_data({"accounts": [account.model_dump(mode="json") for account in accounts]}, output, limits_table(accounts))


@app.command()
def up() -> None:
    """A whole fleet on this machine: Valkey, coordinator, a worker per tier, API, Flower, metrics. Ctrl-C drains."""
    console = Console()
    stopped = threading.Event()
    fleet = EmbeddedFleet(Environment(), doors=True)
    with stop_signals(stopped.set):
        with console.status("starting the fleet") as status:
            fleet.start(lambda name: status.update(f"starting {name}"))
        try:
            if fleet.sim_url is not None:
                console.print(f"simulated provider  {fleet.sim_url}   ({SIMULATED})")
            console.print(f"API                 {fleet.api_url}/v1/jobs")
            console.print(f"Jobs, for a browser {fleet.api_url}/jobs")
            console.print(f"Flower              {fleet.flower_url}")
            console.print(f"Metrics             {fleet.metrics_url}   (all processes: {fleet.targets})", soft_wrap=True)
            console.print("`fleet run`, `fleet submit` and `fleet jobs` in this folder use this fleet. Ctrl-C drains.")
            while not stopped.wait(1.0):
                fleet.supervise()
        finally:
            console.print("draining: running calls end first")
            fleet.stop()


@app.command()
def doctor(output: Output = "text") -> None:
    """Check configuration, provider, store and workers, and say what to do."""

    async def all_findings() -> list[Finding]:
        return [finding async for finding in examine(environment_here())]

    findings = asyncio.run(all_findings())
    table = Table(show_header=False, box=None)
    for finding in findings:
        table.add_row(finding.state, finding.what, finding.text)
    print_data(findings, output, table)
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


def _job(path: Path, items: Path | None, budget: Decimal | None) -> JobSpec:
    spec = load_job(path)
    if items is not None:
        if not items.exists():
            raise BadInputError(f"--items {items}: there is no such file or folder.")
        source = Items(files=FilesSource(root=items)) if items.is_dir() else Items(path=items)
        spec = spec.model_copy(update={"items": source})
    if budget is not None:
        spec = spec.model_copy(update={"budget_usd": budget})
    return spec


def _run(spec: JobSpec, out: Path | None) -> None:
    """Run `spec` to its end and print its receipt; exits with 1 when it failed or was paused."""
    console = Console()
    check(spec, checked_config(environment_here()))
    if out is not None:
        check_out(out)
    with fleet_for_a_job(console) as (environment, fleet):

        async def to_the_end(client: FleetClient) -> Any:
            if await client.runtime.simulation.known():
                console.print(SIMULATED)
            job_id = await client.submit(spec)
            console.print(f"job {job_id}: {clean(spec.name)}", markup=False)
            await follow(client, job_id, console, fleet)
            if spec.webhook is not None:
                console.print(await told(client, job_id), markup=False)
            charges = fleet.charges if fleet is not None else None
            return await finished(client, job_id, out, charges)

        status, error, receipt, written = ask(environment, to_the_end)
    console.print(render_receipt(receipt))
    if written:
        console.print(f"written: {written[0]} and {len(written) - 1} more files in {out}", markup=False, soft_wrap=True)
    raise_unless_completed(receipt.job_id, status, error)


def _exit(code: int, text: str) -> None:
    Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.stdout.flush()
    # Not sys.exit: a command that failed owns no thread that has to end first.
    sys.exit(code)
