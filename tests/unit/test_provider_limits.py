"""What is read from a vendor's headers, and what is not."""

from __future__ import annotations

import pytest

from fleet.providers.limits import told
from queues.limits import Told


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        (
            {
                "x-ratelimit-limit-requests": "3000",
                "x-ratelimit-remaining-requests": "2999",
                "x-ratelimit-limit-tokens": "2000000",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "12ms",
            },
            Told(3000, 2999, 2_000_000, 0),
        ),
        ({"anthropic-ratelimit-requests-limit": "50"}, Told(requests_per_minute=50)),
        ({"x-ratelimit-limit-requests": "-1", "x-ratelimit-limit-tokens": "many"}, None),
        ({"x-ratelimit-limit-requests": "9" * 5_000}, None),
        # A day's limit; that of the minute is told beside it.
        (
            {
                "x-ratelimit-limit-requests": "14400",
                "x-ratelimit-remaining-requests": "14370",
                "x-ratelimit-reset-requests": "2m59.56s",
                "x-ratelimit-limit-tokens": "18000",
                "x-ratelimit-reset-tokens": "7.66s",
            },
            Told(tokens_per_minute=18_000),
        ),
        ({"x-ratelimit-limit-requests": "60", "x-ratelimit-reset-requests": "1m0s"}, Told(requests_per_minute=60)),
        ({"x-ratelimit-limit-requests": "60", "x-ratelimit-reset-requests": "1h"}, None),
        ({"x-ratelimit-limit-requests": "60", "x-ratelimit-reset-requests": "86400"}, None),
        ({"x-ratelimit-limit-requests": "60", "x-ratelimit-reset-requests": "soon"}, Told(requests_per_minute=60)),
        ({"x-ratelimit-limit-requests": "\u0663"}, None),
    ],
)
def test_limits_in_headers(headers: dict[str, str], expected: Told | None) -> None:
    assert told(headers) == expected
