"""Making a call fit into budgets that are short: with less output, by waiting in line, or not at all.

What a call holds is the most that it can cost, so that no cap can be passed (`queues/lua/_hold.lua`). As long as that fits,
nothing here is asked. Where it does not,

- the call is sent with a lower limit on its output, by what calls of its kind were seen to write (`fleet.observed`): that is
  the most it can cost then. So a budget smaller than the sum of all worst cases lets several times as many calls run, and is
  used up to a call's real size. An answer that the lower limit cuts off is booked as rejected and the call made again with all
  of its output. Where nothing was seen yet and nobody else holds anything, a quarter of the output is tried, or what there is
  money for;
- else it waits for others to settle. Of those who wait in a process for the same budget only the first asks the store, and
  who gets in is followed by the next at once;
- where nobody holds anything no wait helps: BudgetExceededError, and the job pauses.

It knows budgets as what the store refuses; it calls no model.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from fleet.caps import exceeded
from fleet.choices import Choice
from fleet.drain import GiveBack
from fleet.entries import Purpose
from fleet.likely import TYPICAL_OUTPUT
from fleet.observed import Observed
from fleet.providers.base import Completion
from fleet.tenants import tenant_of
from queues.subtasks import Refused

#: How long to wait for others to free a part of a budget before the subtask goes back to its backlog, the first time and at
#: most, how often to look meanwhile, and how often it may come back.
PATIENCE_S, MOST_PATIENCE_S = 2.0, 10.0
LOOK_S = 0.2
CLAIMS = 300
#: Vendors take no lower limit.
LEAST_OUTPUT = 16
#: With less of its output an answer of which nothing is known is rather cut off than whole.
LEAST_PART = 0.02
#: The reason of an answer that was cut off by us.
CUT = "cut off at the output that was reserved where the budget is short; asked again with all of it"


@dataclass(slots=True)
class _Line:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: How many are in it.
    length: int = 0


class Lines:
    """Who waits for which budget, in one process."""

    def __init__(self) -> None:
        self.observed = Observed()
        self._lines: dict[tuple[str, ...], _Line] = {}

    async def enter(self, name: tuple[str, ...], until: float) -> None:
        """Be the first in a line by then (monotonic); `leave` it. Raises TimeoutError."""
        line = self._lines.setdefault(name, _Line())
        line.length += 1
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await line.lock.acquire()
        except BaseException:
            self._shorter(name, line)
            raise

    def leave(self, name: tuple[str, ...]) -> None:
        """The next one's turn."""
        line = self._lines[name]
        line.lock.release()
        self._shorter(name, line)

    def _shorter(self, name: tuple[str, ...], line: _Line) -> None:
        line.length -= 1
        if line.length == 0:
            del self._lines[name]


class Fitting:
    """How one call is made to fit; leave the block, and the next in line has its turn."""

    def __init__(self, lines: Lines, purpose: Purpose, whole: Sequence[Choice]) -> None:
        """`whole`: the choices with all their output."""
        self._lines = lines
        self._purpose = purpose
        self._kind = (tenant_of(purpose.job), purpose.kind, purpose.tier)
        self._most = max(choice.request.max_output_tokens for choice in whole)
        self._whole = self.choices = whole
        self._may_cut = not purpose.holdout  # what it would have written is what is to be measured
        #: Of the output; None: there is all of it.
        self._limit: int | None = None
        self._until: float | None = None
        #: In which it is the first.
        self._line: tuple[str, ...] | None = None
        self._asked = 0

    def next_id(self) -> str:
        """The id of the next try."""
        self._asked += 1
        return f"{self._purpose.subtask}.{self._purpose.claim.fence}.{self._asked}"

    def __enter__(self) -> Fitting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.begun()

    def instead(self, whole: Sequence[Choice]) -> None:
        """From now on the call is made in another way: the choices with all their output."""
        self._whole = self.choices = whole
        self._limit = None

    def begun(self) -> None:
        """The call has its hold, or is not made: whoever is next in line may look."""
        if self._line is not None:
            self._lines.leave(self._line)
            self._line = None

    async def after(self, short: Refused, name: str, within: Callable[[int], Sequence[Choice]]) -> None:
        """Have `choices` fit better than those that were refused, or wait a moment.

        `name`: of the model whose choice was refused; `within`: the choices with at most so much output.

        Raises:
            BudgetExceededError: nothing that anybody holds could make room.
            GiveBack: others hold what is left for longer than a moment.
        """
        if self._may_cut:
            left = short.cap - short.used - short.others
            limit = self._lines.observed.bound(self._kind)
            if limit is None and short.others == 0:
                limit = self._affordable(math.ceil(TYPICAL_OUTPUT * self._most), left, name, within)
            if limit is not None and (limit := max(LEAST_OUTPUT, limit)) < (self._limit or self._most):
                self.choices, self._limit = within(limit), limit
                if self._amount(name) <= left:
                    return
        if short.others == 0 or self._purpose.claim.claims >= CLAIMS:
            raise exceeded(self._purpose.job, short, self._amount(name))
        if self._until is None:
            self._until = time.monotonic() + min(MOST_PATIENCE_S, PATIENCE_S * max(1, self._purpose.claim.claims))
        try:
            if self._line is None:
                line = (short.whom or self._purpose.job, short.per, self._purpose.tier)
                await self._lines.enter(line, self._until)
                self._line = line
                return
            await asyncio.sleep(LOOK_S)
        except TimeoutError:
            pass
        if time.monotonic() > self._until:
            # Others may need this one's place to free what they hold: lost calls are settled by the next claim.
            raise GiveBack("others hold what is left of the budget")

    def is_whole(self, completion: Completion) -> bool:
        """Whether an answer is all that there is to it; else `choices` have all their output from now on."""
        cut = completion.finish == "length"
        self._lines.observed.add(self._kind, self._most if cut else completion.usage.output_tokens)
        if not cut or self.choices is self._whole:
            return True
        self.choices, self._limit, self._may_cut = self._whole, None, False
        return False

    def _affordable(self, limit: int, left: int, name: str, within: Callable[[int], Sequence[Choice]]) -> int:
        """The highest output up to `limit` that costs no more than what is left, if there is one that may be of use."""
        least = max(LEAST_OUTPUT, math.ceil(LEAST_PART * self._most))
        return bisect_right(range(limit), left, lo=least + 1, key=lambda most: _amount(within(most), name)) - 1

    def _amount(self, name: str) -> int:
        return _amount(self.choices, name)


def _amount(choices: Sequence[Choice], name: str) -> int:
    return next(choice.worst.cost_nano_usd for choice in choices if choice.name == name)


async def wait_or_fail(purpose: Purpose, short: Refused, amount: int) -> None:
    """Wait for a moment where others hold what is left of a budget; else BudgetExceededError."""
    if short.others == 0 or purpose.claim.claims >= CLAIMS:
        raise exceeded(purpose.job, short, amount)
    await asyncio.sleep(PATIENCE_S)
