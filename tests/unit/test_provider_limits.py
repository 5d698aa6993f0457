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
        ({"x-ratelimit-limit-requests": "\u0663"}, None),
    ],
)
def test_limits_in_headers(headers: dict[str, str], expected: Told | None) -> None:
    assert told(headers) == expected
