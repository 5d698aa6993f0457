"""Which calls run in the background."""

from __future__ import annotations

import pytest

from fleet.config import TierConfig
from fleet.router import DEAR_NANO_USD, LONG_OUTPUT_TOKENS, runs_in_background


@pytest.mark.parametrize(
    ("tokens", "nano_usd", "expected"),
    [
        (400, 1_000_000, False),
        (LONG_OUTPUT_TOKENS - 1, DEAR_NANO_USD - 1, False),
        (LONG_OUTPUT_TOKENS, 0, True),
        (1, DEAR_NANO_USD, True),
    ],
)
def test_auto_is_for_long_or_dear_calls(tokens: int, nano_usd: int, expected: bool) -> None:
    assert runs_in_background(TierConfig(model="m"), tokens, nano_usd) is expected


def test_always_and_never_mean_it() -> None:
    assert runs_in_background(TierConfig(model="m", background="always"), 1, 0)
    assert not runs_in_background(TierConfig(model="m", background="never"), 10**6, 10**12)
