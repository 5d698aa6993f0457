"""What the state machines share: a store of their own on a real Valkey, a clock that only they move, and the two modes.

Safety: the rules are drawn in any order with any steps of the clock, and the invariants hold after each. Liveness: after such
a run the faults cease and `recover` plays a fair schedule; not to arrive within its rounds is the failure.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar, cast

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from queues.link import Link
from queues.store import Store
from tests.support.valkey import Valkey
from tests.support.virtual_clock import at, virtual_clock

T = TypeVar("T")

Mode = Literal["safety", "liveness"]
#: A fair schedule has to arrive within so many rounds of so many milliseconds: longer than any lease, watch and grace.
ROUNDS, ROUND_MS = 60, 2_500
_numbers = itertools.count()


class StoreMachine(RuleBasedStateMachine):
    """A machine over a store of its own namespace and time."""

    def __init__(self, valkey: Valkey, mode: Mode) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._mode = mode
        self.namespace = f"machine{next(_numbers)}"
        self.link = Link.from_url(valkey.url)
        self.store = Store(self.link, self.namespace)
        self.now_ms = 1_000_000_000_000

    def run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            # The clock is set in one batch with the first call of `work`, and before it.
            _, done = await asyncio.gather(self.link.execute(*at(self.namespace, self.now_ms)), work)
            return done

        return self._loop.run_until_complete(awaited())

    def execute(self, *commands: tuple[str | int, ...]) -> list[Any]:
        """Plain commands, in one batch."""

        async def work() -> list[Any]:
            return await asyncio.gather(*(self.link.execute(*command) for command in commands))

        return self.run(work())

    def pass_time(self, ms: int) -> None:
        """The only way in which time passes."""
        self.now_ms += ms

    def recover(self) -> None:
        """Liveness: the faults have ceased; play a fair schedule and arrive."""
        raise NotImplementedError

    def teardown(self) -> None:
        try:
            # Where a rule has failed already, its error is the one to see.
            if self._mode == "liveness" and sys.exc_info()[0] is None:
                self.recover()
        finally:
            self._loop.run_until_complete(self.close())
            self._loop.close()

    async def close(self) -> None:
        """Close what was connected."""
        await self.link.aclose()


def check(machine: Callable[[Valkey, Mode], StoreMachine], valkey: Valkey, mode: Mode) -> None:
    """Run a machine as a test."""
    # Of the examples of the run's profile (see conftest) a part: each of them is some hundred calls of the server.
    examples = settings().max_examples // 3
    bounded = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with virtual_clock():
        run_state_machine_as_test(cast("Any", lambda: machine(valkey, mode)), settings=bounded)
