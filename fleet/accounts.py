"""How the accounts of a configuration stand: limits, use, pauses and outages, as data and as a table.

It is handed what the store says of each; it asks nobody.
"""

from __future__ import annotations

from rich.table import Table

from fleet.choices import account_of, allowance_of
from fleet.config import FleetConfig, Frozen
from fleet.display import clean
from queues.limits import Standing
from queues.tiers import Allowance


class AccountLimits(Frozen):
    """One account now; counts are of the last minute, None is no limit."""

    account: str
    tiers: tuple[str, ...]
    requests: int
    requests_per_minute: int | None
    tokens: int
    tokens_per_minute: int | None
    calls: int
    in_flight: int | None
    #: Seconds until another call may start, and that are left of a pause.
    next_s: float
    paused_s: float
    #: Seconds until the vendor is tried again, None where it has no outage.
    outage_s: float | None


def accounts_of(config: FleetConfig) -> dict[str, tuple[Allowance, tuple[str, ...]]]:
    """By account, what is configured for it and the tiers that use it."""
    found: dict[str, tuple[Allowance, tuple[str, ...]]] = {}
    for tier in config.tiers:
        for name in config.models_of(tier):
            model = config.models[name]
            tiers = found.get(account_of(name, model), (None, ()))[1]
            found[account_of(name, model)] = (allowance_of(model), (*tiers, tier))
    return found


def account_limits(account: str, tiers: tuple[str, ...], standing: Standing) -> AccountLimits:
    """The account as it is shown."""
    return AccountLimits(
        account=account,
        tiers=tiers,
        requests=standing.requests,
        requests_per_minute=standing.requests_per_minute,
        tokens=standing.tokens,
        tokens_per_minute=standing.tokens_per_minute,
        calls=standing.calls,
        in_flight=standing.in_flight,
        next_s=standing.next_s,
        paused_s=standing.paused_s,
        outage_s=standing.outage_s,
    )


def limits_table(accounts: list[AccountLimits]) -> Table:
    """A row per account."""
    table = Table()
    for column in ("model", "tiers", "requests/min", "tokens/min", "in flight", "state"):
        table.add_column(column, justify="left" if column in ("model", "tiers", "state") else "right")
    for one in accounts:
        state = "open"
        if one.outage_s is not None:
            state = f"outage, tried again in {one.outage_s:.0f} s"
        elif one.paused_s > 0:
            state = f"paused for {one.paused_s:.0f} s"
        table.add_row(
            clean(one.account),
            ", ".join(clean(tier) for tier in one.tiers),
            _of(one.requests, one.requests_per_minute),
            _of(one.tokens, one.tokens_per_minute),
            _of(one.calls, one.in_flight),
            state,
        )
    return table


def _of(used: int, limit: int | None) -> str:
    return f"{used:,} of {limit:,}" if limit is not None else f"{used:,}"
