"""`--budget USD`: an amount as it is typed at a terminal, by the rule that all caps keep."""

from __future__ import annotations

from decimal import Decimal

from pydantic import TypeAdapter, ValidationError

from fleet.entitlements import Usd
from fleet.errors import BadInputError

_USD: TypeAdapter[Decimal] = TypeAdapter(Usd)


def budget(text: str) -> Decimal:
    """The amount that `text` says. Raises BadInputError: it can be no cap."""
    try:
        return _USD.validate_python(text.strip())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise BadInputError(f"--budget is {text[:40]}: {problem[:1].lower()}{problem[1:]}.") from None
