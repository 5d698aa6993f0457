"""What the configuration lets tenants have and spend, and all of them together. Data only."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]
#: More US dollars than these the store cannot count to the nano-dollar.
MOST_USD = 9_000_000
#: US dollars of a cap: a job's, a day's, a month's.
Usd = Annotated[Decimal, Field(gt=0, le=MOST_USD)]


class Budgets(BaseModel):
    """What may be spent at most: hard caps. A call belongs to the day and the month, of UTC, in which it begins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Dollars in a day.
    usd_per_day: Usd | None = None
    #: Dollars in a month.
    usd_per_month: Usd | None = None


class TenantConfig(Budgets):
    """What a tenant is entitled to; what it may spend in a day and in a month, too."""

    #: Its part of the fleet where several want all of it, to that of one with 1; of jobs that are submitted from now on.
    weight: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    #: Jobs, and calls that wait for their answers, that it may have under way at a time; None: any number.
    open_jobs: Count | None = None
    #: Bytes of items and conversations that it may send in a day; days are UTC's.
    bytes_per_day: Count | None = None
