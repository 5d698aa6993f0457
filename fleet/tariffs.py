"""What an operator says of a model's prices: keys of the configuration, in US dollars per million tokens.

Data and its form only; what they come to, and where they come from when nothing is said, is `fleet.prices`' to know.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

#: A dollar a token is nobody's price; above that the store could not count what a call may cost.
Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000)]
#: Ways of being served that can have prices of their own.
Context = Literal["flex", "batch", "priority"]


class TokenPrices(BaseModel):
    """US dollars per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Of input.
    input: Dollars
    #: Of input that the vendor had cached; left out: as `input`.
    cached_input: Dollars | None = None
    #: Of input that the vendor writes into its cache; left out: as `input`.
    cache_write: Dollars | None = None
    #: Of output, with what a model thinks.
    output: Dollars


class LongContext(TokenPrices):
    """Prices of a call with a long input. They hold for all its tokens, as vendors have it."""

    #: Input tokens; a call with more than these has the prices here.
    above: Annotated[int, Field(gt=0)]


class LanePrice(TokenPrices):
    """US dollars per million tokens, where a lane's are not a factor on the standard ones."""

    #: Of calls with a long input; left out: as of all others.
    long_context: LongContext | None = None


class Price(LanePrice):
    """US dollars per million tokens."""

    #: Dollars of a call, beside its tokens.
    request: Dollars = Decimal(0)
    #: By `flex`, `batch` and `priority`: a factor on these prices, or prices of its own. Left out: flex and batch cost half.
    lanes: dict[Context, Dollars | LanePrice] = {}
