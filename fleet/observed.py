"""How much output calls of a kind were seen to write, by tenant, kind and tier: so much is reserved where a budget is short.

It owns the counts of one process, in memory: whoever knows nothing yet reserves all that a call may write. A bound of it
holds nobody to anything; what makes it hard is that the call is sent with it as its limit (`fleet.fitting`).
"""

from __future__ import annotations

import math
from collections import OrderedDict

#: Of so many calls, all but one in a hundred wrote no more; and so much more is reserved, for what was not seen yet.
QUANTILE, MARGIN = 0.99, 1.25
#: Calls before anything is said, and after which earlier ones count half.
LEAST, MOST = 20, 1_000
#: Sizes are told apart by a quarter of a power of two.
STEPS = 4
#: What is kept in memory: kinds are the users' words.
KINDS = 2_000

Kind = tuple[str, str, str]


class Observed:
    """Outputs of calls, by (tenant, kind, tier)."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Kind, dict[int, float]] = OrderedDict()

    def add(self, kind: Kind, tokens: int) -> None:
        """A call of a kind wrote so many tokens; one that was cut off, all that it might have written."""
        counts = self._kinds.get(kind)
        if counts is None:
            counts = self._kinds[kind] = {}
            if len(self._kinds) > KINDS:
                self._kinds.popitem(last=False)
        size = math.ceil(STEPS * math.log2(max(1, tokens)))
        counts[size] = counts.get(size, 0.0) + 1.0
        if sum(counts.values()) > MOST:
            for one in counts:
                counts[one] /= 2

    def bound(self, kind: Kind) -> int | None:
        """Tokens that hardly a call of a kind exceeds; None as long as too few were seen."""
        counts = self._kinds.get(kind, {})
        all_ = sum(counts.values())
        if all_ < LEAST:
            return None
        seen = 0.0
        for size in sorted(counts):
            seen += counts[size]
            if seen >= QUANTILE * all_:
                return math.ceil(MARGIN * 2 ** (size / STEPS))
        return None
