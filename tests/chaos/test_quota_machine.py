"""A budget under any order of intents, ends, guesses and late truths: settled and held never pass the cap."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from queues.subtasks import Charge, Intent, Refused
from tests.chaos.machines import StoreMachine, check
from tests.support.valkey import Valkey

CAP = 100
HOLDS = [f"j/{name}" for name in "abc"]


class Quota(StoreMachine):
    """The model: what each hold keeps, and what was booked under which id, as guess or as truth."""

    def __init__(self, valkey: Valkey) -> None:
        super().__init__(valkey)
        self.held: dict[str, Intent] = {}
        #: Intent id -> (amount booked, whether it is a guess).
        self.booked: dict[str, tuple[int, bool]] = {}
        self.made: dict[str, Intent] = {}

    @initialize()
    def cap(self) -> None:
        self.run(self.store.set_cap("j", CAP))

    @rule(hold=st.sampled_from(HOLDS), amount=st.integers(0, 60))
    def intend(self, hold: str, amount: int) -> None:
        intent = Intent("j", hold, f"{hold}.{len(self.made)}", amount, "note")
        refused = self.run(self.store.intend(intent))
        if hold in self.held:
            assert refused == Refused("unsettled", note="note")
        elif self._spoken_for() + amount > CAP:
            assert refused is not None
            assert refused.why == "short"
        else:
            assert refused is None
            self.held[hold] = self.made[intent.id] = intent

    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        """The reply was lost, so the same intent is journalled again."""
        if self.held:
            intent = self.held[data.draw(st.sampled_from(sorted(self.held)))]
            assert self.run(self.store.intend(intent)) is None

    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        if self.made:
            intent = self.made[data.draw(st.sampled_from(sorted(self.made)))]
            self.run(self.store.let_go(intent))
            self._freed(intent)

    @rule(data=st.data(), guess=st.booleans())
    def end(self, data: st.DataObject, guess: bool) -> None:
        """An end at any time, by anybody, any number of times: a truth costs at most what was held, a guess all of it."""
        if not self.made:
            return
        intent = self.made[data.draw(st.sampled_from(sorted(self.made)))]
        if intent.id not in self.booked and self.held.get(intent.hold) is not intent:
            return  # it was let go: nothing was used
        amount = intent.amount if guess else intent.amount // 2
        self.run(self.store.settle([Charge("j", intent.id, "body", "j", intent.hold, amount, provisional=guess)]))
        before = self.booked.get(intent.id)
        if before is None or (before[1] and not guess):
            self.booked[intent.id] = (amount, guess)
        self._freed(intent)

    @invariant()
    def it_adds_up(self) -> None:
        _, used, held = self.run(self.store.quota("j"))
        assert used == sum(amount for amount, _ in self.booked.values())
        assert held == sum(intent.amount for intent in self.held.values())
        assert used + held <= CAP

    def _spoken_for(self) -> int:
        return sum(a for a, _ in self.booked.values()) + sum(intent.amount for intent in self.held.values())

    def _freed(self, intent: Intent) -> None:
        if self.held.get(intent.hold) is intent:
            del self.held[intent.hold]


def test_quota(valkey: Valkey) -> None:
    check(Quota, valkey)
