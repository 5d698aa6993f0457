"""Claims under any order of events: one holder, fences rise, only the holder writes, what is stopped does not start.

And under a fair schedule after them: everything that was added ends, or was cancelled and holds no place.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from queues.store import Store
from queues.subtasks import Claim, State
from tests.chaos.machines import ROUND_MS, ROUNDS, Mode, StoreMachine, check
from tests.support.stores import new
from tests.support.valkey import Valkey

TIERS = ("nano", "mini")
MEMBERS = [f"j/m/{number}" for number in range(5)]
BODY = "j/gate"
AFTER = "j/after"
#: The last member of the gate waits for the first.
GATHERED = [*MEMBERS, AFTER]
ALL = [*GATHERED, BODY]
#: What _common.lua says: nobody was here for so long, so claims are kept for so long.
AWAY_MS, LENIENT_MS = 3_000, 4_000
#: And what so many workers died at runs only when it was released, and apart: few of them in a worker or one alone.
SUSPECT_KILLS = 2
#: Two processes claim.
WORKERS = 2
ids, tiers, workers = st.sampled_from(ALL), st.sampled_from(TIERS), st.integers(0, WORKERS - 1)


class Claims(StoreMachine):
    """The model: who holds what and until when, what is final, when it is that nobody was here."""

    def __init__(self, valkey: Valkey, mode: Mode) -> None:
        super().__init__(valkey, mode)
        self.workers = [Store(self.link, self.namespace) for _ in range(WORKERS)]
        self.tier = dict.fromkeys(ALL, "nano")
        self.claims: list[Claim] = []
        self.holder: dict[str, Claim] = {}
        self.runs_out: dict[str, int] = {}
        #: Claims that came to their end, by writing it.
        self.ended: set[Claim] = set()
        self.kills = dict.fromkeys(ALL, 0)
        #: Which worker it was claimed by last.
        self.claimed_by = dict.fromkeys(ALL, 0)
        #: Running suspects that were not the only one in their worker, and those that a worker died at so: the next is alone.
        self.beside: set[str] = set()
        self.alone: set[str] = set()
        self.fences = dict.fromkeys(ALL, 0)
        #: Released or due, and claimed by nobody: the earliest and the latest moment at which it is put back.
        self.queued: dict[str, tuple[int, int]] = {}
        self.final: dict[str, str] = {}
        self.forgotten: set[str] = set()
        self.stopped: str | None = None
        #: Away: nothing is ever stopped. Hesitant: nothing is cancelled.
        self.user = "away"
        self.seen_ms, self.lenient_until = self.now_ms, 0

    @initialize(user=st.sampled_from(["away", "hesitant", "fickle"]), deaths=st.integers(0, SUSPECT_KILLS + 1))
    def plan(self, user: str, deaths: int) -> None:
        self.user = user
        self.run(self.store.register("mini", "w", 2, 10**9))
        self.heartbeat()
        self.add()
        for _ in range(deaths):
            self._release("nano", sent=True)
            for id_ in self._free():
                self._claim(id_, "nano", 0)
            self.a_lease_passes()

    @rule()
    def heartbeat(self) -> None:
        self.run(self.store.register("nano", "w", 2, 10**9))
        self._somebody_was_here()

    @rule()
    def another_worker(self) -> None:
        """Suspects run apart in as many workers as there are."""
        self.run(self.store.register("nano", "v", 2, 10**9))
        self._somebody_was_here()

    @rule()
    def add(self) -> None:
        """Again and again: what is there stays as it is, and what was there and forgotten does not come back."""
        members = [
            new(id_, gate=BODY, gate_index=index, needs=(MEMBERS[0],) if id_ == AFTER else ())
            for index, id_ in enumerate(GATHERED)
        ]
        self.run(self.store.add([new(BODY, members=len(GATHERED)), *members]))

    @rule(tier=tiers, sent=st.booleans())
    def release(self, tier: str, sent: bool) -> None:
        """The dispatcher; it may die before it has sent what was released."""
        self._release(tier, sent=sent)

    @rule(id_=ids, tier=tiers, worker=workers)
    def claim(self, id_: str, tier: str, worker: int) -> None:
        """A worker, woken up by whatever message."""
        self._claim(id_, tier, worker)

    @precondition(lambda self: self.holder)
    @rule(data=st.data(), worker=workers)
    def claim_again(self, data: st.DataObject, worker: int) -> None:
        """A worker, woken up by a message that was delivered twice."""
        id_ = data.draw(st.sampled_from(sorted(self.holder)))
        self._claim(id_, self.tier[id_], worker)

    @precondition(lambda self: self._free())
    @rule(data=st.data(), most=st.integers(1, len(ALL)), worker=workers)
    def take(self, data: st.DataObject, most: int, worker: int) -> None:
        """A worker, woken up by the right messages."""
        for id_ in data.draw(st.permutations(self._free()))[:most]:
            others = self._suspects_in(worker, self.tier[id_])
            claim = self._claim(id_, self.tier[id_], worker)
            assert claim is not None or (self._suspect(id_) and others)

    @rule(ms=st.sampled_from([1, 2_900, 4_100, 6_000, 29_000, 40_000]), looked_at=st.booleans())
    def time_goes_on(self, ms: int, looked_at: bool) -> None:
        self.pass_time(ms)
        if looked_at:
            self.reconcile()

    @rule()
    def a_lease_passes(self) -> None:
        """The fleet lives on and nobody renews: what is held now is lost, and those who held it count as dead."""
        for _ in range(self.store.lease_ms // AWAY_MS + 1):
            self.heartbeat()
            self.pass_time(AWAY_MS)
        self.reconcile()

    @rule()
    def reconcile(self) -> None:
        put_back = self.run(self.store.reconcile())
        self._somebody_was_here()
        due = {id_ for id_ in self.holder if self.runs_out[id_] <= self.now_ms}
        if self.lenient_until > self.now_ms:
            self.runs_out |= dict.fromkeys(due, self.lenient_until)
            due.clear()
        assert {id_ for id_, state in put_back if state is State.RUNNING} == due
        for id_ in due:
            self._died(id_)
        unclaimed = {id_ for id_, state in put_back if state is State.QUEUED}
        assert all(self.queued[id_][0] <= self.now_ms for id_ in unclaimed), "too early"
        for id_ in unclaimed:
            del self.queued[id_]
        assert all(self.now_ms < latest for _, latest in self.queued.values()), "too late"

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        lost = self.run(self.store.renew([claim]))
        assert (not lost) == (self._holds(claim) and self.stopped != "cancelled")
        if not lost:
            self.runs_out[claim.id] = self.now_ms + self.store.lease_ms

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), onward=st.none() | tiers)
    def write(self, data: st.DataObject, onward: str | None) -> None:
        """The end of a subtask, or handing it on: only its holder may, any number of times."""
        self._write(data.draw(st.sampled_from(self.claims)), onward)

    @precondition(lambda self: self.user != "away")
    @rule()
    def pause(self) -> None:
        """One that was cancelled stays so."""
        self.run(self.store.stop("j", "paused", TIERS))
        self.stopped = self.stopped or "paused"

    @precondition(lambda self: self.user != "away")
    @rule()
    def resume(self) -> None:
        assert self.run(self.store.resume("j", TIERS)) == (self.stopped == "paused")
        self.stopped = None if self.stopped == "paused" else self.stopped

    @precondition(lambda self: self.user == "fickle" and len(self.claims) > 1)
    @rule()
    def cancel(self) -> None:
        self.run(self.store.stop("j", "cancelled", TIERS))
        self.stopped = "cancelled"

    @precondition(lambda self: self.final.keys() >= set(GATHERED))
    @rule()
    def forget(self) -> None:
        """What the gate's body does, once all is kept elsewhere."""
        self.run(self.store.forget(BODY, GATHERED, "j", "j", entries=0, guesses=0))
        self.forgotten.update(GATHERED)

    @invariant()
    def it_stands_where_the_model_says(self) -> None:
        kept = [id_ for id_ in ALL if id_ not in self.forgotten]
        space = self.namespace
        *records, watch, counts = self.execute(
            *(("HMGET", f"{space}:s:{id_}", "state", "tier", "output") for id_ in kept),
            ("ZRANGE", f"{space}:watch", 0, -1),
            ("HGETALL", f"{space}:c:j"),
        )
        lists = [(tier, name) for tier in TIERS for name in (f"b:{tier}:default:j", f"sus:{tier}")]
        entries = self.execute(*(("LRANGE", f"{space}:{name}", 0, -1) for _, name in lists))
        backlog = {(tier, id_.decode()) for (tier, _), ids in zip(lists, entries, strict=True) for id_ in ids}
        outs = self.execute(*(("SMEMBERS", f"{space}:out:{tier}") for tier in TIERS))
        out = {(tier, id_.decode()) for tier, ids in zip(TIERS, outs, strict=True) for id_ in ids}
        expected = Counter(f"{self.tier[id_]}:final" for id_ in self.forgotten)
        taken = set()
        for id_, (state, tier, output) in zip(kept, records, strict=True):
            where = State(state.decode())
            assert tier.decode() == self.tier[id_]
            assert (where is State.FINAL) == (id_ in self.final), id_
            assert where is not State.FINAL or output.decode() == self.final[id_]
            assert (where is State.RUNNING) == (id_ in self.holder), id_
            assert (where is State.WAITING) == self._waits(id_), id_
            expected[f"{self.tier[id_]}:{where}"] += 1
            if where in (State.QUEUED, State.RUNNING):
                taken.add((self.tier[id_], id_))
            if self.stopped != "cancelled":  # else it is dropped
                assert where is not State.READY or (self.tier[id_], id_) in backlog, "nobody will release it"
                assert where is not State.QUEUED or id_ in self.queued
        watched = {id_.decode() for id_ in watch}
        assert {id_ for _, id_ in out} <= watched, "a place in the window that nobody frees"
        # What lies in the queues when its job is cancelled is dropped as its message comes; nothing else holds a place.
        assert out == taken if self.stopped != "cancelled" else out <= taken
        assert {id_ for _, id_ in out}.isdisjoint(self.forgotten)
        found = {name.decode(): int(number) for name, number in zip(counts[::2], counts[1::2], strict=True)}
        assert +expected == +Counter({name: n for name, n in found.items() if not name.endswith(":ok")})

    def recover(self) -> None:
        self.add()
        self.resume()
        for _ in range(ROUNDS):
            self.heartbeat()
            self.reconcile()
            for tier in TIERS:
                for id_ in self._release(tier, sent=True):
                    claim = self._claim(id_, tier, 0)
                    assert claim is not None or self._suspect(id_)
                    if claim is not None:
                        self._write(claim, None)
            self.pass_time(ROUND_MS)
            if self.final.keys() == set(ALL):
                break
        assert self.stopped == "cancelled" or self.final.keys() == set(ALL)
        assert not self.holder
        assert self.execute(*(("SCARD", f"{self.namespace}:out:{tier}") for tier in TIERS)) == [0, 0]

    def _release(self, tier: str, *, sent: bool) -> list[str]:
        ids = [released.id for released in self.run(self.store.release(tier, 10))]
        for id_ in ids:
            assert self.stopped is None, "it was stopped"
            assert id_ not in self.final.keys() | self.holder.keys() | self.queued.keys()
            assert self.tier[id_] == tier
            self.queued[id_] = (self.now_ms + self.store.unsent_ms,) * 2
        if sent:
            self.run(self.store.sent(ids))
            for id_ in ids:
                self.queued[id_] = (self.now_ms + self.store.resend_ms, self.now_ms + 2 * self.store.resend_ms)
        return ids

    def _claim(self, id_: str, tier: str, worker: int) -> Claim | None:
        expected = self._refusal(id_, tier)
        others = self._suspects_in(worker, tier) - {id_} if self._suspect(id_) else set()
        claim = self.run(self.workers[worker].claim(id_, tier))
        if not isinstance(claim, Claim):
            if expected is None and others:  # too many of them here: it waits for its turn
                assert claim.why == "busy"
                del self.queued[id_]
                return None
            assert claim.why == expected
            if id_ in self.holder and self.tier[id_] == tier and self._ran_out(id_):
                self._died(id_)  # it waits for its turn as a suspect
            elif self.stopped and expected in ("busy", "gone"):
                self.queued.pop(id_, None)
            return None
        assert expected is None
        assert not others or self.alone.isdisjoint(others | {id_}), "it was to be alone"
        self.kills[id_] += id_ in self.holder
        assert claim.kills == self.kills[id_]
        assert claim.fence > self.fences[id_], "a fence came back"
        self.fences[id_] = claim.fence
        self.holder[id_] = claim
        self.claimed_by[id_] = worker
        self.beside.discard(id_)
        self.beside |= others | {id_} if others else set()
        self.runs_out[id_] = self.now_ms + self.store.lease_ms
        self.queued.pop(id_, None)
        self.claims.append(claim)
        return claim

    def _refusal(self, id_: str, tier: str) -> str | None:
        """Why there is no claim now, None if there is."""
        if id_ in self.forgotten:
            return "gone"
        if id_ in self.final:
            return "final"
        if self.tier[id_] != tier:
            return "elsewhere"
        if self._waits(id_):
            return "busy"
        if id_ in self.holder:
            return None if self._ran_out(id_) and self.kills[id_] + 1 < SUSPECT_KILLS else "busy"
        if id_ not in self.queued and self.kills[id_] >= SUSPECT_KILLS:
            return "busy"
        return {None: None, "paused": "busy", "cancelled": "gone"}[self.stopped]

    def _ran_out(self, id_: str) -> bool:
        return self.runs_out[id_] <= self.now_ms and self._lenience() <= self.now_ms

    def _died(self, id_: str) -> None:
        del self.holder[id_]
        if id_ in self.beside:
            self.alone.add(id_)
        else:
            self.kills[id_] += 1

    def _suspect(self, id_: str) -> bool:
        return self.kills[id_] >= SUSPECT_KILLS

    def _suspects_in(self, worker: int, tier: str) -> set[str]:
        return {
            id_
            for id_ in self.holder
            if self._suspect(id_) and self.claimed_by[id_] == worker and self.tier[id_] == tier
        }

    def _free(self) -> list[str]:
        return [id_ for id_ in ALL if self._refusal(id_, self.tier[id_]) is None]

    def _waits(self, id_: str) -> bool:
        needs = {AFTER: MEMBERS[:1], BODY: GATHERED}.get(id_, [])
        return not self.final.keys() >= set(needs)

    def _write(self, claim: Claim, onward: str | None) -> None:
        id_, output = claim.id, str(claim.fence)
        waiting = self._waits(BODY)
        if onward is not None:
            done = self.run(self.store.hand_on(claim, onward, "trail"))
        else:
            done = self.run(self.store.finish(claim, "ok", output))
        if not self._holds(claim):
            assert not done or claim in self.ended, "only the same call again is told that it is done"
            return
        assert done
        del self.holder[id_]
        self.ended.add(claim)
        if onward is not None:
            self.tier[id_] = onward
            return
        self.final[id_] = output
        if waiting and not self._waits(BODY):
            self.queued[BODY] = (self.now_ms + self.store.gate_grace_ms,) * 2

    def _holds(self, claim: Claim) -> bool:
        return self.holder.get(claim.id) is claim

    def _lenience(self) -> int:
        away = self.now_ms - self.seen_ms > AWAY_MS
        return self.now_ms + LENIENT_MS if away else self.lenient_until

    def _somebody_was_here(self) -> None:
        self.seen_ms, self.lenient_until = self.now_ms, self._lenience()


def test_claims_are_safe(in_memory: Valkey) -> None:
    check(Claims, in_memory, "safety")


def test_all_that_was_added_ends(in_memory: Valkey) -> None:
    check(Claims, in_memory, "liveness")
