"""Regular expressions that others wrote: which can be used at all, and how long a matcher can take over one. Pure; none is tried.

A matcher that backtracks goes over every way in which the repeats and choices of an expression can share a text out. Here the
ways are counted, so what is over a bound can be left alone, or tried where it can be ended (`fleet.examiners`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from re import _constants as re_constants  # type: ignore[attr-defined]
from re import _parser as re_parser  # type: ignore[attr-defined]
from typing import Any

#: Repeats that a pattern may have within others.
MOST_REPEATS = 20
#: Nobody tries out so many ways; it is not counted further.
MOST_WAYS = 10**12
_REPEATS = (re_constants.MAX_REPEAT, re_constants.MIN_REPEAT)


class Unusable(ValueError):
    """No regular expression."""


def check_pattern(pattern: str) -> None:
    """ValueError where a regular expression can take for ever over a short text; `Unusable` where it is none."""
    if _may_take_for_ever(_parsed(pattern)):
        raise ValueError(
            f'the pattern "{pattern[:100]}" can take for ever: it repeats what repeats, or has a choice in what it repeats'
        )


@lru_cache(maxsize=1024)
def steps(pattern: str, length: int) -> int:
    """About how many steps a search in a text of so many characters can take, at most `MOST_WAYS`. Raises Unusable."""
    return min(MOST_WAYS, (length + 1) * _ways(_parsed(pattern), length))


@lru_cache(maxsize=64)
def _parsed(pattern: str) -> Any:
    try:
        parsed = re_parser.parse(pattern)
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise Unusable(f'"{pattern[:100]}" is no regular expression') from error
    return parsed


def _may_take_for_ever(parsed: Any, *, repeated: bool = False) -> bool:
    """Whether a backtracking matcher can need a time that doubles with each character: a repeat or a choice in a repeat."""
    for operation, argument in parsed:
        repeats = operation in _REPEATS and argument[1] > MOST_REPEATS
        if repeated and (repeats or operation is re_constants.BRANCH):
            return True
        for inner in _within(argument):
            if _may_take_for_ever(inner, repeated=repeated or repeats):
                return True
    return False


def _ways(parsed: Any, length: int) -> int:
    """In how many ways it can be laid over a text of so many characters, from one place on."""
    ways = 1
    for operation, argument in parsed:
        inner = [_ways(part, length) for part in _within(argument)]
        if operation in _REPEATS:
            least, most = min(argument[0], length), min(argument[1], length)
            of_one = inner[0] if inner else 1
            # Times that are more than the bound has bits need not be multiplied out.
            ways *= (most - least + 1) * of_one ** (min(most, MOST_WAYS.bit_length()) if of_one > 1 else 1)
        elif operation is re_constants.BRANCH:
            ways *= sum(inner)
        else:
            for of_one in inner:
                ways *= of_one
        ways = min(ways, MOST_WAYS)
    return ways


def _within(argument: Any) -> Iterable[Any]:
    """The expressions within a part of one."""
    if isinstance(argument, re_parser.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for part in argument:
            yield from _within(part)
