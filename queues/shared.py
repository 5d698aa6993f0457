"""Shared quotas: what a tenant, and all tenants together, may use in a day and in a month of UTC, as data.

It owns how caps are said to the scripts, and which moment a period begins and ends at; what is used and held is the store's.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Per = Literal["day", "month"]
#: In place of a tenant: all of them.
EVERYBODY = "*"
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Cap:
    """At most so much in a day or a month, of one tenant or of all together."""

    #: A tenant, or `EVERYBODY`.
    whom: str
    per: Per
    most: int


@dataclass(frozen=True, slots=True)
class Shared:
    """A shared quota in the period of now: what is used and held of it."""

    whom: str
    per: Per
    number: int
    used: int
    held: int


def words(caps: Iterable[Cap]) -> str:
    """Caps as the scripts take them."""
    return " ".join(f"{cap.whom}:{cap.per}:{cap.most}" for cap in caps)


def number_at(per: str, seconds: float) -> int:
    """The number of the day (since 1970) or month (since the year 0) that a moment, in seconds since 1970, is in."""
    if per == "day":
        return int(seconds // _DAY_S)
    at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return at.year * 12 + at.month - 1


def ends_at(per: str, number: int) -> float:
    """When a day or month ends, in seconds since 1970."""
    if per == "day":
        return (number + 1) * _DAY_S
    year, month = divmod(number + 1, 12)
    return datetime.datetime(year, month + 1, 1, tzinfo=datetime.UTC).timestamp()
