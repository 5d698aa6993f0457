"""How long a matcher can take over a pattern: what it does is counted, for those that it can be seen doing it."""

from __future__ import annotations

import pytest

from fleet.patterns import MOST_STEPS, Unusable, steps

MANY = 10**9


@pytest.mark.parametrize(
    "pattern",
    [
        ".*.*.*=",
        "a*a*a*a*a*a*a*b",
        "^" + "(?:a|aa)" * 40 + "b",
        "a?" * 30 + "a" * 30,
        "(?:a?){20}a{20}b",
        "(a|a){19}b",
        "(?=a*a*a*b)a",
        "(?P<x>a)?(?(x)a*a*b|a*a*a*c)",
        "(a*)a*\\1b",
    ],
)
def test_what_has_many_ways_is_known(pattern: str) -> None:
    assert steps(pattern, 2_000) > MANY
    assert steps(pattern, 100_000) <= MOST_STEPS


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d{4}-\d{2}-\d{2}$",
        "^(billing|bug|other)$",
        "^ok-[0-9a-f]{8}$",
        r"^(\d{1,3}\.){3}\d{1,3}$",
        "^[a-z][a-z0-9_]{0,30}$",
        "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    ],
)
def test_what_people_write_grows_with_the_text(pattern: str) -> None:
    short, long = steps(pattern, 1_000), steps(pattern, 10_000)
    assert 9 * short < long < 11 * short
    assert short < 2_000_000


def test_each_repeat_without_an_end_is_one_power_more() -> None:
    for repeats in range(1, 4):
        pattern = "[a-z]*" * repeats + "0"
        growth = steps(pattern, 200) / steps(pattern, 100)
        assert 0.8 * 2 ** (repeats + 1) < growth < 1.2 * 2 ** (repeats + 1)


def test_a_long_run_of_one_thing_is_gone_over_from_each_place() -> None:
    """One way for each place, and it is long."""
    assert steps("a{30000}b", 10_000) > 10_000 * 10_000


def test_what_is_none_has_no_steps() -> None:
    with pytest.raises(Unusable):
        steps("(", 10)
