"""Regular expressions that others wrote: which can be used at all, and how long a matcher can take over one. Pure; none is tried.

A matcher that backtracks goes over every way in which the repeats and choices of an expression can share a text out. Here those
are counted, so what is over a bound can be left alone, or tried where it can be ended (`fleet.examiners`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from math import prod
from re import _constants as re_constants  # type: ignore[attr-defined]
from re import _parser as re_parser  # type: ignore[attr-defined]
from typing import Any

#: Repeats that a pattern may have within others.
MOST_REPEATS = 20
#: Nobody waits for so many; it is not counted further.
MOST_STEPS = 10**12
_REPEATS = (re_constants.MAX_REPEAT, re_constants.MIN_REPEAT, re_constants.POSSESSIVE_REPEAT)


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
    """How many steps a search in a text of so many characters can take, at most `MOST_STEPS`. Raises Unusable."""
    _, cost = _way(_parsed(pattern), length)
    return min(MOST_STEPS, (length + 1) * (1 + cost))


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


def _way(parsed: Any, length: int) -> tuple[int, int]:
    """In how many ways it can be laid over a text of so many characters from one place on, and what it takes to try them."""
    ways, cost = 1, 0
    for operation, argument in parsed:
        inner = [_way(part, length) for part in _within(argument)]
        if operation in _REPEATS:
            its, once = inner[0]
            least, most = min(argument[0], length), min(argument[1], length)
            # Times that are more than the bound has bits need not be multiplied out.
            laid = (most - least + 1) * its ** (min(most, MOST_STEPS.bit_length()) if its > 1 else 1)
            tried = laid + most * once * (laid if its > 1 else 1)
        elif operation is re_constants.BRANCH:
            laid, tried = sum(its for its, _ in inner), sum(1 + once for _, once in inner)
        elif operation is re_constants.GROUPREF:
            laid, tried = 1, 1 + length  # it is compared with what was found before
        else:
            laid, tried = prod(its for its, _ in inner), 1 + sum(once for _, once in inner)
        # All of it is tried again for each way in which what stands before it can be laid.
        ways, cost = min(MOST_STEPS, ways * laid), min(MOST_STEPS, cost + ways * tried)
    return ways, cost


def _within(argument: Any) -> Iterable[Any]:
    """The expressions within a part of one."""
    if isinstance(argument, re_parser.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for part in argument:
            yield from _within(part)
