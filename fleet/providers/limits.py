"""What a vendor's headers say of its limits on an account.

Names: `x-ratelimit-limit-requests` and its like (OpenAI, and most who speak its protocols), and
`anthropic-ratelimit-requests-limit` and its like; both vendors list them in their guides on rate limits. Some who use the
first names mean a day by them: then `x-ratelimit-reset-…`, which says when all of it is back, is longer than a minute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from queues.limits import Told

#: A number with more digits is none.
MOST_DIGITS = 12
#: All of a minute's limit is back within a minute, give or take what vendors round up.
MINUTE_S = 61.0
#: A duration as vendors write it (`1h2m3.5s`, `12ms`), or seconds alone.
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)(ms|s)?)?")


def told(headers: Mapping[str, str]) -> Told | None:
    """The limits and what is left of them; None where nothing is said that can be read."""

    def number(what: str, kind: str) -> int | None:
        if _seconds(headers.get(f"x-ratelimit-reset-{kind}", "")) > MINUTE_S:
            return None
        for name in (f"x-ratelimit-{what}-{kind}", f"anthropic-ratelimit-{kind}-{what}"):
            value = headers.get(name, "")
            if value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS:
                return int(value)
        return None

    found = Told(
        requests_per_minute=number("limit", "requests"),
        requests_left=number("remaining", "requests"),
        tokens_per_minute=number("limit", "tokens"),
        tokens_left=number("remaining", "tokens"),
    )
    return None if found == Told() else found


def _seconds(duration: str) -> float:
    """0 for what is no duration."""
    found = _DURATION.fullmatch(duration)
    if found is None:
        return 0.0
    hours, minutes, rest, unit = found.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(rest or 0) * (0.001 if unit == "ms" else 1)
