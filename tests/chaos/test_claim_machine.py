"""Claims and gates under any order of events: one holder, fences rise, only the holder writes, a gate is due once."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from queues.subtasks import Claim, State
from tests.chaos.machines import StoreMachine, check
from tests.support.stores import new
from tests.support.valkey import Valkey

MEMBERS = [f"j/m/{number}" for number in range(3)]
BODY = "j/gate"
AFTER = "j/after"
ALL = [*MEMBERS, AFTER, BODY]
one_of_all = st.sampled_from(ALL)


class Claims(StoreMachine):
    """The model: who holds what, whose time has passed, what is final."""

    def __init__(self, valkey: Valkey) -> None:
        super().__init__(valkey)
        self.claims: list[Claim] = []
        self.holder: dict[str, Claim] = {}
        self.expired: set[str] = set()
        self.final: set[str] = set()
        self.fences = dict.fromkeys(ALL, 0)

    @initialize()
    def plan(self) -> None:
        self.run(self.store.register("nano", "w", 100, 600_000))
        self.add()

    @rule()
    def add(self) -> None:
        """Again and again: what is there stays as it is."""
        members = [new(id_, gate=BODY, gate_index=index) for index, id_ in enumerate(MEMBERS)]
        after = new(AFTER, needs=(MEMBERS[0],))
        self.run(self.store.add([new(BODY, members=len(MEMBERS)), *members, after]))

    @rule()
    def release(self) -> None:
        for released in self.run(self.store.release("nano", 10)):
            assert released.id not in self.final | self.holder.keys()

    @rule(id_=one_of_all)
    def claim(self, id_: str) -> None:
        claim = self.run(self.store.claim(id_, "nano"))
        if isinstance(claim, Claim):
            assert id_ not in self.holder or id_ in self.expired, "two hold it"
            assert id_ not in self.final
            assert claim.fence > self.fences[id_], "a fence came back"
            self.fences[id_] = claim.fence
            self.holder[id_] = claim
            self.expired.discard(id_)
            self.claims.append(claim)
        elif id_ in self.final:
            assert claim.why == "final"
        elif id_ in self.holder:
            assert claim.why == "busy" and id_ not in self.expired

    @rule(id_=one_of_all)
    def time_passes(self, id_: str) -> None:
        if id_ in self.holder:
            self.expire("watch", id_)
            self.expired.add(id_)

    @rule()
    def reconcile(self) -> None:
        put_back = {id_ for id_, state in self.run(self.store.reconcile()) if state is State.RUNNING}
        assert put_back == self.expired
        for id_ in put_back:
            del self.holder[id_]
            self.fences[id_] += 1
        self.expired.clear()

    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        if self.claims:
            claim = data.draw(st.sampled_from(self.claims))
            lost = self.run(self.store.renew([claim]))
            assert (not lost) == self._holds(claim)
            if not lost:
                self.expired.discard(claim.id)

    @rule(data=st.data(), onward=st.booleans())
    def write(self, data: st.DataObject, onward: bool) -> None:
        """The end of a subtask, or giving it back: only its holder may, any number of times."""
        if not self.claims:
            return
        claim = data.draw(st.sampled_from(self.claims))
        holds = self._holds(claim)
        if onward:
            done = self.run(self.store.hand_on(claim, "nano", ""))
        else:
            done = self.run(self.store.finish(claim, "ok", str(claim.fence)))
        if holds:
            assert done
            del self.holder[claim.id]
            self.expired.discard(claim.id)
            if not onward:
                self.final.add(claim.id)
        elif done:
            assert claim.fence == self.fences[claim.id], "only the same call again is told that it is done"

    @invariant()
    def only_holders_wrote(self) -> None:
        for result in self.run(self.store.results(ALL)):
            if result is not None:
                assert (result.state is State.FINAL) == (result.id in self.final)
                if result.id in self.final:
                    assert result.output == str(self.fences[result.id])

    @invariant()
    def the_gate_is_due_when_its_last_member_is_final_and_once(self) -> None:
        (state, needs) = self.run(self.store.fields(BODY, "state", "needs"))
        if state is None:
            return
        missing = len(set(MEMBERS) - self.final)
        assert int(needs or 0) == missing
        assert (state == "waiting") == (missing > 0)

    def _holds(self, claim: Claim) -> bool:
        return self.holder.get(claim.id) is claim


def test_claims_and_gates(valkey: Valkey) -> None:
    check(Claims, valkey)
