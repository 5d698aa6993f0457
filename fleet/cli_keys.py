"""The commands on API keys: create, list, revoke; and what was done with them."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fleet.audit import Audit, Note
from fleet.client import FleetClient
from fleet.display import clean
from fleet.documents import nearest
from fleet.errors import BadInputError
from fleet.keys import SCOPES, Keys, Principal, Scope
from fleet.output import Output, print_data
from fleet.runtime import NAMESPACE
from fleet.session import ask, environment_here
from fleet.tenants import DEFAULT, check_tenant

#: Who it was that used a command: whoever reaches the store.
COMMAND = "command"

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
        link = client.runtime.link
        principal, key = await Keys(link, NAMESPACE).create(tenant, scopes, name, await client.runtime.store.now())
        await Audit(link, NAMESPACE).note(tenant, COMMAND, "create key", principal.key_id, ", ".join(sorted(scopes)))
        return principal, key

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
        keys = Keys(client.runtime.link, NAMESPACE)
        tenant = next((one.tenant for one in await keys.all() if one.key_id == key_id), DEFAULT)
        await keys.revoke(key_id)
        await Audit(client.runtime.link, NAMESPACE).note(tenant, COMMAND, "revoke key", key_id, "")

    ask(environment_here(), question)
    Console().print(f"{key_id} opens nothing any more", markup=False)


@keys.command()
def audit(
    tenant: Annotated[str, typer.Option(help="Whose.")] = DEFAULT,
    most: Annotated[int, typer.Option(help="How many, from the latest on.", min=1, max=10_000)] = 50,
    output: Output = "text",
) -> None:
    """Who did what: every change that came in by the API, and every key made or revoked."""

    async def question(client: FleetClient) -> list[Note]:
        return await Audit(client.runtime.link, NAMESPACE).latest(check_tenant(tenant), most)

    notes = ask(environment_here(), question)
    table = Table()
    for column in ("when", "who", "did", "to", "outcome"):
        table.add_column(column)
    for note in notes:
        at = datetime.datetime.fromtimestamp(note.at, datetime.UTC)
        table.add_row(f"{at:%Y-%m-%d %H:%M:%S}", note.actor, note.action, clean(note.target), note.outcome)
    print_data({"notes": [asdict(note) for note in notes]}, output, table)


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
