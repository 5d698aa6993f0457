"""How much work one simulated answer may be: a schema can ask for more than anybody waits for, or than there is memory for."""

from __future__ import annotations

#: A value, a character of a text, or a property that is merged is one unit.
BASE_UNITS = 50_000
#: Steps of a matcher, for all patterns of an answer: some tenths of a second.
MATCHING_UNITS = 10_000_000


class Effort:
    """So many units, and what is left of them."""

    def __init__(self, units: int) -> None:
        self._left = units

    @property
    def is_spent(self) -> bool:
        return self._left <= 0

    def spend(self, units: int) -> None:
        """Take what has been worked."""
        self._left -= units

    def affords(self, units: int) -> bool:
        """Whether so much is left; it is taken then."""
        if units > self._left:
            return False
        self._left -= units
        return True

    def at_most(self, number: int, units_each: int = 1) -> int:
        """As many of `number` as there is something left for, of so many units each."""
        return max(0, min(number, self._left // units_each))
