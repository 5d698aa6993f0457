"""Cached tokens: repeated prefixes, from 1,024 tokens on, in steps of 128."""

from __future__ import annotations

from fleet.sim.caching import PrefixCache
from fleet.tokens import estimate_tokens

LONG = "".join(f"Sentence {number} of a long preamble for all. " for number in range(400))


def test_a_prefix_is_cached_for_the_next_call_of_the_same_model() -> None:
    cache = PrefixCache()
    assert cache.cached_tokens("nano", LONG + "first") == 0
    again = cache.cached_tokens("nano", LONG + "second")
    assert 0 <= estimate_tokens(LONG) - again < 256
    assert again % 128 == 0
    assert cache.cached_tokens("mini", LONG) == 0


def test_what_differs_at_the_start_or_is_short_is_not() -> None:
    cache = PrefixCache()
    cache.cached_tokens("nano", LONG)
    assert cache.cached_tokens("nano", "x" + LONG) == 0
    assert cache.cached_tokens("nano", LONG[:2000]) == 0
    assert cache.cached_tokens("nano", LONG[:2000]) == 0
