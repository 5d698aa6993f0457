"""The commands on webhooks: the secret that they are signed with, what was delivered, and delivering it again."""

from __future__ import annotations

import asyncio
import datetime
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fleet.client import FleetClient
from fleet.display import clean
from fleet.errors import BadInputError
from fleet.output import Output, print_data
from fleet.session import ask, environment_here
from fleet.tenants import DEFAULT
from queues.outbox import Notice

webhooks = typer.Typer(help="Webhooks: their secret, what was delivered, delivering it again.", no_args_is_help=True)

#: Longest that the end of a `fleet run` waits for the first try of its webhook, and how often it looks.
FIRST_TRY_S, LOOK_S = 25.0, 0.1


@webhooks.command()
def secret(
    tenant: Annotated[str, typer.Option(help="Whose jobs call the webhooks.")] = DEFAULT,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new one; for 24 hours both it and the one before sign.")
    ] = False,
    output: Output = "text",
) -> None:
    """Show the secret that a tenant's webhooks are signed with; it is made on first use."""

    async def question(client: FleetClient) -> tuple[str, ...]:
        secrets = client.runtime.secrets
        return await (secrets.rotate(tenant) if rotate else secrets.of(tenant))

    found = ask(environment_here(), question)
    print_data({"tenant": tenant, "secret": found[0], "also_signs": found[1:]}, output, found[0])
    if output == "text" and len(found) > 1:
        Console(stderr=True).print("The secret before it still signs, too, for 24 hours after it was replaced.")


@webhooks.command("list")
def list_(
    job_id: Annotated[str | None, typer.Argument(help="A job; all of them when left out.", metavar="[JOB]")] = None,
    most: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=1000)] = 20,
    output: Output = "text",
) -> None:
    """The deliveries of the last seven days, newest first."""

    async def question(client: FleetClient) -> list[Notice]:
        return await client.runtime.outbox.latest(most, job_id)

    found = ask(environment_here(), question)
    table = Table()
    for column in ("event", "type", "host", "state", "tries", "last answer", "next try"):
        table.add_column(column, overflow="fold")
    for notice in found:
        table.add_row(
            notice.id,
            f"job.{notice.kind}",
            clean(notice.host),
            notice.state,
            str(notice.tries),
            clean(notice.last or "", 300),
            _moment(notice.due),
        )
    print_data({"deliveries": [_described(notice) for notice in found]}, output, table)


@webhooks.command()
def redeliver(
    name: Annotated[str, typer.Argument(help="An event, or a job: its latest one.", metavar="EVENT|JOB")],
) -> None:
    """Deliver an event again, under the same id."""

    async def question(client: FleetClient) -> str | None:
        return await client.runtime.outbox.again(name)

    event = ask(environment_here(), question)
    if event is None:
        raise BadInputError(
            f'There is no event and no job "{clean(name, 100)}" with one in the last seven days; '
            "`fleet webhooks list` shows what there is."
        )
    Console().print(f"{event} is delivered again; `fleet webhooks list` shows it", markup=False, soft_wrap=True)


async def told(client: FleetClient, job_id: str) -> str:
    """What came of the first try of a job's latest webhook, in a sentence; waits for it a bounded time.

    A fleet that lives for one job would otherwise end before it.
    """
    deadline = time.monotonic() + FIRST_TRY_S
    while True:
        # The end of a job and the notice of it are written at once.
        notices = await client.runtime.outbox.latest(1, job_id)
        if not notices:
            return "webhook: there is nothing to tell of yet"
        if notices[0].last is not None:
            break
        if time.monotonic() > deadline:
            return "webhook: not called yet; a running fleet (`fleet up`) goes on trying for a day"
        await asyncio.sleep(LOOK_S)
    notice = notices[0]
    answer = clean(notice.last or "", 300)
    if notice.state == "delivered":
        return f"webhook: delivered to {clean(notice.host)} ({answer})"
    return f"webhook: not delivered ({answer}); a running fleet (`fleet up`) goes on trying for a day"


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M:%S}Z"


def _described(notice: Notice) -> dict[str, Any]:
    return {
        "id": notice.id,
        "job": notice.job,
        "type": f"job.{notice.kind}",
        "host": notice.host,
        "at": notice.at,
        "state": notice.state,
        "tries": notice.tries,
        "last_answer": notice.last,
        "next_try_at": notice.due,
    }
