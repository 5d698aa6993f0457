"""What a vendor's headers say of its limits on an account.

Names: `x-ratelimit-limit-requests` and its like (OpenAI, and most who speak its protocols), and
`anthropic-ratelimit-requests-limit` and its like; both vendors list them in their guides on rate limits.
"""

from __future__ import annotations

from collections.abc import Mapping

from queues.limits import Told

#: A number with more digits is none.
MOST_DIGITS = 12


def told(headers: Mapping[str, str]) -> Told | None:
    """The limits and what is left of them; None where nothing is said that can be read."""

    def number(what: str, kind: str) -> int | None:
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
