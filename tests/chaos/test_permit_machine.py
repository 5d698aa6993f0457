"""Permits under any order of asking, returning and dying: never more in flight than allowed, and every place heals."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from queues.limits import Allowance, Limiter, Permit
from tests.chaos.machines import StoreMachine, check
from tests.support.valkey import Valkey

IN_FLIGHT = 3
ALLOWANCE = Allowance(in_flight=IN_FLIGHT)
ids = st.sampled_from([f"call{number}" for number in range(6)])


class Permits(StoreMachine):
    """The model: who has a place."""

    def __init__(self, valkey: Valkey) -> None:
        super().__init__(valkey)
        self.limiter = Limiter(self.link, self.namespace)
        self.flying: set[str] = set()

    @rule(id_=ids)
    def ask(self, id_: str) -> None:
        reply = self.run(self.limiter._ask("m", ALLOWANCE, 1, id_, 600, confirm=False))
        if id_ in self.flying or len(self.flying) < IN_FLIGHT:
            assert reply == [0]
            self.flying.add(id_)
        else:
            assert reply[0] == -1

    @rule(id_=ids)
    def settle(self, id_: str) -> None:
        self.run(self.limiter.settle(Permit(id_, "m", ALLOWANCE, 1, 0), 1))
        self.flying.discard(id_)

    @rule(id_=ids)
    def its_worker_died_long_ago(self, id_: str) -> None:
        self.expire("p:m:flying", id_)
        self.flying.discard(id_)

    @invariant()
    def never_more_than_allowed(self) -> None:
        live = self.execute("ZCOUNT", f"{self.namespace}:p:m:flying", 1, "+inf")
        assert live == len(self.flying) <= IN_FLIGHT


def test_permits(valkey: Valkey) -> None:
    check(Permits, valkey)
