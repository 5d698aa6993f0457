"""What the state machines share: a link of their own to a real Valkey, and time moved by hand through the store's keys."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from queues.link import Link
from queues.store import Store
from tests.support.valkey import Valkey

T = TypeVar("T")

#: Bounded, so that a run takes seconds; nothing here waits for a clock.
BRIEF = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
_numbers = itertools.count()


class StoreMachine(RuleBasedStateMachine):
    """A machine over a store of its own namespace."""

    def __init__(self, valkey: Valkey) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self.namespace = f"machine{next(_numbers)}"
        self.link = Link.from_url(valkey.url)
        self.store = Store(self.link, self.namespace)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def expire(self, key: str, member: str) -> None:
        """Let the time of a member of a sorted set of times pass."""
        self.execute("ZADD", f"{self.namespace}:{key}", "XX", 0, member)

    def execute(self, *command: str | int) -> Any:
        async def work() -> Any:
            return await self.link.execute(*command)

        return self.run(work())

    def teardown(self) -> None:
        self.run(self.link.aclose())
        self._loop.close()


def check(machine: type[StoreMachine], valkey: Valkey) -> None:
    """Run a machine as a test."""
    run_state_machine_as_test(cast("Any", lambda: machine(valkey)), settings=BRIEF)
