"""`fleet routes`: what was learned of each kind of work, and where its subtasks start now."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from fleet.client import FleetClient
from fleet.display import clean
from fleet.documents import nearest
from fleet.errors import BadInputError
from fleet.output import Output, print_data
from fleet.receipt_view import fine_usd
from fleet.routes import Route
from fleet.routing import START
from fleet.session import ask, environment_here
from fleet.tenants import DEFAULT, check_tenant

commands = typer.Typer()

#: Characters of a kind in the table; `-o json` has all.
MOST_KIND = 16


@commands.command()
def routes(
    kind: Annotated[str | None, typer.Argument(help="One kind of work; left out: all that are known.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose.")] = DEFAULT,
    output: Output = "text",
) -> None:
    """Where `tier: auto` starts each kind of work, and why: per tier what was accepted, at what cost, and what audits found."""

    async def question(client: FleetClient) -> list[Route]:
        return await client.runtime.routes.look(check_tenant(tenant))

    found = ask(environment_here(), question)
    if kind is not None:
        known = [route.kind for route in found]
        found = [route for route in found if route.kind == kind]
        if not found:
            raise BadInputError(f'Nothing is known of the kind "{kind}" yet{nearest(kind, known)}.')
    print_data({"kinds": [described(route) for route in found]}, output, table_of(found))


def described(route: Route) -> dict[str, Any]:
    """A route as JSON: counts are discounted, so they are no whole numbers; moments are Unix seconds, costs dollars."""
    arms = []
    for (tier, came_from), arm in sorted(route.arms.items()):
        arms.append(
            {
                "tier": tier,
                "came_from": came_from or None,
                "n": round(arm.n, 1),
                "accepted": round(arm.accepted / arm.n, 4) if arm.n else None,
                "cost_usd": round(arm.cost / arm.n / 1e9, 9) if arm.n else None,
            }
        )
    audits = {
        tier: {"audited": round(its.audited, 1), "right": round(its.right, 1)} for tier, its in route.audits.items()
    }
    return {
        "kind": route.kind,
        "tiers": list(route.tiers),
        "starts_on": route.choice,
        "odds": {tier: round(odds, 3) for tier, odds in route.odds.items()},
        "since": route.since,
        "last": route.last,
        "below_floor": sorted(route.barred),
        "arms": arms,
        "audits": audits,
    }


def table_of(found: list[Route]) -> Table:
    """A line per kind and tier, and one more for each tier that it was handed on from."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("kind", "tier", "from", "n", "ok", "cost", "right", "starts since"):
        right = column in ("n", "ok", "cost", "starts since")
        # Where the line is too short for all of it, the kind goes on in the next.
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "kind", overflow="fold")
    for route in found:
        for number, tier in enumerate(route.tiers):
            label = clipped(clean(route.kind)) if number == 0 else ""
            for came_from in (START, *route.tiers[:number]):
                arm = route.arms.get((tier, came_from))
                if arm is None and came_from != START:
                    continue
                told = ("", "", "") if arm is None or not arm.n else _told(arm.n, arm.accepted, arm.cost)
                start = came_from == START
                table.add_row(
                    label, tier, came_from, *told, _audited(route, tier) if start else "", _starts(route, tier, start)
                )
                label = ""
    return table


def _told(n: float, accepted: float, cost: float) -> tuple[str, str, str]:
    return f"{n:,.0f}", f"{accepted / n:.0%}", fine_usd(round(cost / n))


def clipped(kind: str) -> str:
    return kind if len(kind) <= MOST_KIND else kind[: MOST_KIND - 1] + "…"


def _audited(route: Route, tier: str) -> str:
    """`82%/18`: of the audited answers those that were right, and how many they were; `low`: below the floor."""
    audits = route.audits.get(tier)
    if audits is None or audits.audited < 0.5:
        return ""
    share = f"{audits.right / audits.audited:.0%}/{audits.audited:.0f}"
    return f"{share} low" if tier in route.barred else share


def _starts(route: Route, tier: str, start: bool) -> str:
    """The share of subtasks that start here; of the tier that is chosen by the means, and since which day."""
    if not start or not (route.odds[tier] or tier == route.choice):
        return ""
    if tier != route.choice or route.since is None:
        return f"{route.odds[tier]:.0%}"
    return f"{route.odds[tier]:.0%} {datetime.datetime.fromtimestamp(route.since, datetime.UTC):%m-%d}"
