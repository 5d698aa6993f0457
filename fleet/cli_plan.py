"""`fleet plan`: what a job will cost and how long it will take, before it runs. It reads, asks what does the sums, and prints."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from redis.exceptions import RedisError
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fleet import dollars
from fleet.blobs import Blobs
from fleet.client import FleetClient, check
from fleet.config import Environment, FleetConfig, Frozen
from fleet.display import clean
from fleet.errors import BadInputError
from fleet.estimate import Work, measure
from fleet.evidence import Evidence, from_history
from fleet.feasible import check_feasible
from fleet.forecast import Forecast, Range, forecast
from fleet.items import pack_items, read_item
from fleet.jobs import JobSpec, Outcome, load_job
from fleet.ledger import LedgerEntry
from fleet.output import Output, print_data
from fleet.prices import NANO_PER_USD, usd
from fleet.receipt_view import duration, fine_usd, tokens
from fleet.routes import book_of
from fleet.routing import Arm
from fleet.runtime import Runtime, checked_config
from fleet.sampling import MOST, evidence_of, sample_job, spread
from fleet.session import ask, environment_here, fleet_for_a_job, follow
from fleet.tenants import DEFAULT

commands = typer.Typer()

#: Items whose prompts are rendered.
SAMPLES = 50
#: How long is waited for what a fleet has counted.
PATIENCE_S = 5.0
BASES = {"sample": "sample", "history": "history", "prior": "guess"}


class Sampled(Frozen):
    """The sample that was asked for."""

    job: str
    items: int
    calls: int
    cost_nano_usd: int


class Plan(Frozen):
    """A job before it runs. Costs are nano-dollars, times seconds."""

    name: str
    items: int
    forecast: Forecast
    sample: Sampled | None


@commands.command()
def plan(
    job: Annotated[Path, typer.Argument(help="A job in YAML.", metavar="JOB.yaml")],
    sample: Annotated[
        int | None,
        typer.Option("--sample", help="Ask the models about so many items first; it costs.", min=1, max=MOST),
    ] = None,
    budget: Annotated[
        Decimal | None,
        typer.Option("--budget", help="What the sample may cost in US dollars.", metavar="USD", parser=dollars.budget),
    ] = None,
    output: Output = "text",
) -> None:
    """Dry run: steps, subtasks per tier, estimated cost and time with 95 % intervals. No model is asked without --sample."""
    spec = load_job(job)
    config = checked_config(environment_here())
    check_feasible(spec, config)
    _check_options(sample, budget)
    if not spec.steps:
        Console().print(f"{job} gives no steps: the flagship plans them when it runs, so nothing can be estimated yet.")
        return
    shown, few, count = _samples(spec, sample or 0)
    works = measure(spec, shown, count, config)
    evidence, sampled = _history(works), None
    if sample is not None and budget is not None:
        found, sampled = _ask(spec, few, works, config, budget)
        evidence |= found
    told = forecast(works, evidence, config, spec.budget_nano_usd)
    made = Plan(name=spec.name, items=count, forecast=told, sample=sampled)
    print_data(made, output, _shown(made, spec.budget_nano_usd))


def _check_options(sample: int | None, budget: Decimal | None) -> None:
    if sample is not None and budget is None:
        raise BadInputError(
            "--sample asks models and costs money: give --budget USD as well, the most that the sample may cost."
        )
    if sample is None and budget is not None:
        raise BadInputError("--budget is what a sample may cost: give --sample N as well, or leave it out.")


def _history(works: list[Work]) -> dict[str, Evidence]:
    """What the fleet has counted of the steps' kinds; nothing where there is none, or it does not answer."""
    environment = environment_here()
    if environment.fleet_redis_url is None:
        return {}
    try:
        known = asyncio.run(_counted(environment))
    except (RedisError, TimeoutError):
        return {}
    return {work.step: from_history(known.get(book_of(work.kind), {})) for work in works}


async def _counted(environment: Environment) -> dict[str, Mapping[tuple[str, str], Arm]]:
    runtime = Runtime.from_environment(environment)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return {route.kind: route.arms for route in await runtime.routes.look(DEFAULT)}
    finally:
        await runtime.aclose()


def _samples(spec: JobSpec, few: int) -> tuple[list[Any], list[Any], int]:
    """Items spread over all of them, to render prompts over; those to ask models about; and how many there are."""
    if spec.items == ():
        return [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        blobs = Blobs(Path(folder))
        index = pack_items(spec.items, blobs, "items")
        shown, asked = (
            [read_item(blobs, index, i) for i in (spread(number, len(index)) if number else ())]
            for number in (SAMPLES, few)
        )
        return shown, asked, len(index)


def _ask(
    spec: JobSpec, items: list[Any], works: list[Work], config: FleetConfig, budget: Decimal
) -> tuple[Mapping[str, Evidence], Sampled]:
    """Run the sample as a job like any other, and what it says."""
    small = sample_job(spec, items, budget)
    check(small, config)
    console = Console(stderr=True)
    with fleet_for_a_job(console) as (environment, fleet):

        async def to_the_end(client: FleetClient) -> tuple[str, list[LedgerEntry], list[Outcome]]:
            job_id = await client.submit(small)
            console.print(f"job {job_id}: {clean(small.name)}", markup=False)
            await follow(client, job_id, console, fleet)
            job = await client.job(job_id)
            outcomes = [outcome async for outcome in client.outcomes(job)]
            return job_id, [entry async for entry in client.ledger(job)], outcomes

        job_id, ledger, outcomes = ask(environment, to_the_end)
    sampled = measure(small, items, len(items), config)
    cost = sum(entry.cost_nano_usd for entry in ledger)
    return (
        evidence_of(ledger, outcomes, sampled, works, config),
        Sampled(job=job_id, items=len(items), calls=len(ledger), cost_nano_usd=cost),
    )


def _shown(made: Plan, budget: int | None) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 1), title=Text(f"{clean(made.name)}: {made.items:,} items"))
    table.title_justify = "left"
    table.add_column("step", overflow="ellipsis", max_width=14, no_wrap=True)
    table.add_column("tier", overflow="ellipsis", max_width=8, no_wrap=True)
    for heading in ("subtasks", "calls", "typical", "at least", "at most"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("from", no_wrap=True)
    told = made.forecast
    for row in told.steps:
        seen = f" {tokens(round(row.seen))}" if row.seen else ""
        count = f"{row.subtasks:,}", tokens(round(row.calls.typical))
        name, tier = Text(clean(row.step, 64)), Text(clean(row.tier, 64))
        table.add_row(name, tier, *count, *_money(row.cost_nano_usd), f"{BASES[row.basis]}{seen}")
    subtasks = sum(row.subtasks for row in told.steps)
    table.add_row("all", "", f"{subtasks:,}", "", *_money(told.cost_nano_usd), "", style="bold")
    time = told.time_s
    lines: list[RenderableType] = [
        table,
        Text(),
        Text(
            f"Time {duration(time.typical)}, from {duration(time.low)} to {duration(time.high)}, with one worker of each tier."
        ),
    ]
    lines += [Text(line) for line in _lanes(told)]
    if told.limits_s >= 1:
        lines.append(Text(f"The limits of the accounts alone make it {duration(told.limits_s)}."))
    if budget is not None and told.over_budget is not None:
        lines.append(Text(f"The budget of {usd(budget)} {_enough(told.over_budget)}."))
    lines.append(Text("At least and at most: 95 % of the outcomes lie between them."))
    if made.sample is not None:
        its = made.sample
        lines.append(
            Text(f"The sample: {its.items} items, {its.calls:,} calls, {fine_usd(its.cost_nano_usd)} (job {its.job}).")
        )
    elif any(row.basis == "prior" for row in told.steps):
        lines.append(
            Text("A guess is what such work usually takes; `--sample 3 --budget USD` asks models about 3 items.")
        )
    return Group(*lines)


def _lanes(told: Forecast) -> list[str]:
    """How steps are asked that have time."""
    by_lane = {
        lane: ", ".join(clean(row.step, 64) for row in told.steps if row.lane == lane) for lane in ("flex", "batch")
    }
    found = []
    if by_lane["flex"]:
        found.append(f"As flex, for less and slower: {by_lane['flex']}.")
    if told.batches_until_s is not None:
        found.append(
            f"In batches, for less: {by_lane['batch']}. The vendor may take a day for each; what is not back "
            f"{duration(told.batches_until_s)} after the submission is asked at once."
        )
    return found


def _money(cost: Range) -> tuple[str, str, str]:
    return rough_usd(cost.typical), rough_usd(cost.low), rough_usd(cost.high)


def rough_usd(nano: float) -> str:
    """To two digits that mean something: an estimate has no more. `$0.000050`, `$0.0055`, `$12.40`, `$1,240`."""
    value = nano / NANO_PER_USD
    if value >= 100:
        return f"${value:,.0f}"
    if value >= 1 or value == 0:
        return f"${value:.2f}"
    exponent = int(f"{value:.1e}".partition("e")[2])
    return f"${value:.{1 - exponent}f}"


def _enough(over: float) -> str:
    if over < 0.005:
        return "is enough"
    return f"is too small in {over:.0%} of the outcomes" if over < 0.995 else "is too small"
