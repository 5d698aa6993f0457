"""The commands on API keys: create, list, revoke."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fleet.client import FleetClient
from fleet.display import clean
from fleet.documents import nearest
from fleet.errors import BadInputError
from fleet.keys import SCOPES, Keys, Principal, Scope
from fleet.output import Output, print_data
from fleet.runtime import NAMESPACE
from fleet.session import ask, environment_here
from fleet.tenants import DEFAULT

keys = typer.Typer(help="API keys: who may act for which tenant.", no_args_is_help=True)


@keys.command()
def create(
    tenant: Annotated[str, typer.Option(help="For whom it acts.")] = DEFAULT,
    scope: Annotated[
        list[str] | None, typer.Option(help="submit, read, admin (more than one may be given) or sign.")
    ] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    output: Output = "text",
) -> None:
    """Make a key and show it; nobody can show it again."""
    scopes = [_scope(given) for given in scope or ("submit", "read")]

    async def created(client: FleetClient) -> tuple[Principal, str]:
        now = await client.runtime.store.now()
        return await Keys(client.runtime.link, NAMESPACE).create(tenant, scopes, name, now)

    principal, key = ask(environment_here(), created)
    print_data(_described(principal) | {"key": key}, output, key)
    if output == "text":
        Console(stderr=True).print(
            f"{principal.key_id}: {', '.join(sorted(principal.scopes))} for {tenant}. Keep the key now; it is not shown again.",
            markup=False,
        )


@keys.command(name="list")
def list_(output: Output = "text") -> None:
    """Every key but for the keys themselves."""

    async def question(client: FleetClient) -> list[Principal]:
        return await Keys(client.runtime.link, NAMESPACE).all()

    found = ask(environment_here(), question)
    table = Table()
    for column in ("id", "tenant", "scopes", "created", "name"):
        table.add_column(column)
    for one in found:
        created = datetime.datetime.fromtimestamp(one.created_at, datetime.UTC)
        table.add_row(
            one.key_id, one.tenant, ", ".join(sorted(one.scopes)), f"{created:%Y-%m-%d %H:%M}", clean(one.name)
        )
    print_data({"keys": [_described(one) for one in found]}, output, table)


@keys.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The id of a key, as `fleet keys list` shows it.")]) -> None:
    """Let a key open nothing any more."""

    async def question(client: FleetClient) -> None:
        await Keys(client.runtime.link, NAMESPACE).revoke(key_id)

    ask(environment_here(), question)
    Console().print(f"{key_id} opens nothing any more", markup=False)


def _described(principal: Principal) -> dict[str, Any]:
    return {
        "id": principal.key_id,
        "tenant": principal.tenant,
        "scopes": sorted(principal.scopes),
        "name": principal.name,
        "created_at": principal.created_at,
    }


def _scope(given: str) -> Scope:
    for known in SCOPES:
        if known == given:
            return known
    raise BadInputError(f'--scope is "{given[:40]}"{nearest(given, SCOPES)}.')
