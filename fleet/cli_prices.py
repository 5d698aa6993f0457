"""`fleet prices`: which prices apply to each model in use in each lane, where they come from and since when. It asks nobody."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fleet import price_list
from fleet.config import FleetConfig, Frozen
from fleet.display import clean
from fleet.errors import BadInputError
from fleet.output import Output, print_data
from fleet.price_list import STANDARD
from fleet.prices import CONFIG, Rates, tariff
from fleet.runtime import checked_config
from fleet.session import environment_here

commands = typer.Typer()

LANES = (STANDARD, "flex", "batch")


class ShownPrice(Frozen):
    """A model's prices in a lane, for calls with more than so many input tokens; or why there are none."""

    model: str
    tiers: tuple[str, ...]
    lane: str
    price: Rates | None
    #: Why there is none: such a call is refused before anything is spent.
    unknown: str | None = None


class Prices(Frozen):
    """What `fleet prices` shows."""

    prices: tuple[ShownPrice, ...]
    #: The bundled list, and the day from which its youngest price holds: it is not older than that.
    list: str
    list_not_before: date | None


@commands.command()
def prices(output: Output = "text") -> None:
    """Per model in use and lane: dollars per million tokens, where they come from, and since when they hold."""
    rows = tuple(shown(checked_config(environment_here())))
    dated = price_list.dated(int(time.time() // price_list.MINUTE_S))
    found = Prices(prices=rows, list=price_list.SOURCE, list_not_before=dated)
    print_data(found, output, view(found))


def shown(config: FleetConfig) -> Iterator[ShownPrice]:
    """Every model that a tier may ask, in the order of the tiers, lane by lane."""
    tiers: dict[str, list[str]] = {}
    for tier in config.tiers:
        for name in config.models_of(tier):
            tiers.setdefault(name, []).append(tier)
    for name, its in tiers.items():
        for lane in LANES:
            try:
                bands: Iterable[Rates | None] = tariff(name, config.models[name], lane).bands
            except BadInputError as error:
                yield ShownPrice(model=name, tiers=tuple(its), lane=lane, price=None, unknown=str(error))
                continue
            for rates in bands:
                yield ShownPrice(model=name, tiers=tuple(its), lane=lane, price=rates)


def view(found: Prices) -> RenderableType:
    """The table for people."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    # All but the name has to be whole in a line; the name goes on in the next.
    table.add_column("model", overflow="fold", max_width=22)
    table.add_column("lane", no_wrap=True)
    for heading in ("input", "cached", "written", "output"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("from", "since"):
        table.add_column(heading, no_wrap=True)
    notes: list[RenderableType] = []
    before = ""
    for row in found.prices:
        name = Text("" if row.model == before else clean(row.model, 40))
        before = row.model
        if row.price is None:
            table.add_row(name, row.lane, "-", "-", "-", "-", "not known", "")
            continue
        price = row.price
        lane = row.lane + (f" >{price.above // 1000}k" if price.above else "")
        amounts = map(_dollars, (price.input, price.cached_input, price.cache_write, price.output))
        table.add_row(name, lane, *amounts, CONFIG if price.source == CONFIG else "list", str(price.since or "-"))
        if price.request and name:
            notes.append(Text(f"{clean(row.model, 40)}: each call costs ${_dollars(price.request)} beside its tokens."))
    notes += [Text(clean(row.unknown, 400)) for row in found.prices if row.unknown is not None]
    head = Text("US dollars per million tokens; >200k: of calls with more input tokens than that.")
    foot = Text(
        f"list: {found.list}, which comes with the package; its youngest price in force is of {found.list_not_before}."
    )
    return Group(head, Text(), table, Text(), *notes, foot)


def _dollars(amount: Decimal) -> str:
    """Without zeros that mean nothing."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
