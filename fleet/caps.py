"""Budgets as the configuration has them: caps on a tenant's and the fleet's day and month, and what is said of one that is short.

Pure: from configuration to the words of the scripts, and from their refusal to an error that a user can act on. Whether
something fits the store alone decides (`queues/lua/_hold.lua`, where the proof is that no cap is ever passed).
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from decimal import Decimal

from fleet.config import FleetConfig
from fleet.entitlements import Budgets, TenantConfig
from fleet.errors import BudgetExceededError
from fleet.prices import NANO_PER_USD
from fleet.tenants import tenant_of
from queues.shared import EVERYBODY, Cap, ends_at, words
from queues.subtasks import Intent, Refused


def caps_of(config: FleetConfig, tenant: str) -> tuple[Cap, ...]:
    """What a tenant's calls have to fit under beside their jobs' budgets."""
    own = config.tenants.get(tenant, TenantConfig())
    return (*_caps(tenant, own), *_caps(EVERYBODY, config.budgets))


class Caps:
    """The same as the scripts take it, by job; reckoned once for each tenant."""

    def __init__(self, config: FleetConfig) -> None:
        self._config = config
        self._known: dict[str, str] = {}

    def of(self, job: str) -> str:
        tenant = tenant_of(job)
        known = self._known.get(tenant)
        if known is None:
            known = self._known[tenant] = words(caps_of(self._config, tenant))
        return known

    def over(self, intent: Intent) -> Intent:
        """The intent with what it has to fit under."""
        caps = self.of(intent.quota)
        return replace(intent, caps=caps) if caps else intent


def exceeded(job: str, short: Refused, amount: int) -> BudgetExceededError:
    """The error of a call of `amount` nano-dollars, at the least, that does not fit under the cap that was refused."""
    left = f"has {exact(max(0, short.cap - short.used))} left and this call may cost {exact(amount)}"
    if short.whom == "":
        text = f"The job's budget of {exact(short.cap)} {left}."
        onwards = "Resume it with a higher budget_usd."
        return BudgetExceededError(text, onwards, amount=amount, guards=((f"q:{job}", "cap", str(short.cap)),))
    until = ends_at(short.per, short.number)
    # What the whole fleet may spend, and has, is not for every tenant to know.
    what = (
        f"The fleet's budget for this {short.per} (budgets.usd_per_{short.per}) is used up"
        if short.whom == EVERYBODY
        else f"The budget of {exact(short.cap)} that {short.whom} has for this {short.per} (usd_per_{short.per}) {left}"
    )
    onwards = "The job goes on by itself then, or as soon as the configuration allows more."
    return BudgetExceededError(f"{what}; there is more at {moment(until)}.", onwards, amount=amount, until=until)


def used_up(level: str) -> tuple[str, float]:
    """What is said of a cap that is used up, `WHOM:PER:NUMBER` as the store names it, and when its period ends."""
    whom, per, number = level.split(":")
    until = ends_at(per, int(number))
    key = f"budgets.usd_per_{per}" if whom == EVERYBODY else f"usd_per_{per}"
    who = "the fleet" if whom == EVERYBODY else whom
    return f"{who} has spent what the configuration lets in this {per} ({key}), which ends at {moment(until)}", until


def exact(nano: int) -> str:
    """Nano-dollars to the last of them: `$0.000012`."""
    text = f"{Decimal(nano) / NANO_PER_USD:.9f}".rstrip("0")
    whole, _, rest = text.partition(".")
    return f"${whole}.{rest.ljust(2, '0')}"


def moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _caps(whom: str, budgets: Budgets) -> list[Cap]:
    caps = []
    if budgets.usd_per_day is not None:
        caps.append(Cap(whom, "day", int(budgets.usd_per_day * NANO_PER_USD)))
    if budgets.usd_per_month is not None:
        caps.append(Cap(whom, "month", int(budgets.usd_per_month * NANO_PER_USD)))
    return caps
