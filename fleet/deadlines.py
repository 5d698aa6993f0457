"""Deadlines as users give them: seconds, or a number with a unit (`90s`, `30m`, `24h`, `7d`), from a job's submission on."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
#: Vendors keep what is asked of them for about so long.
MOST_S = 30 * 86_400
_GIVEN = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhd])")


def seconds(given: Any) -> Any:
    """`given` in seconds where it is a text; anything else as it is. ValueError for a text that is no such time."""
    if not isinstance(given, str):
        return given
    found = _GIVEN.fullmatch(given.strip())
    if found is None:
        raise ValueError(f'"{given[:40]}" is no time; give seconds, or a number with s, m, h or d, as in 30m or 24h')
    return float(found.group(1)) * UNITS[found.group(2)]


_TOLD = {
    "anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": MOST_S}, {"type": "string"}],
    "examples": [1_800, "30m", "24h"],
}
#: Seconds.
Deadline = Annotated[
    float,
    BeforeValidator(seconds),
    Field(gt=0, le=MOST_S, allow_inf_nan=False),
    WithJsonSchema(_TOLD, mode="validation"),
]
