"""Budgets under any order of intents, ends, guesses, late truths and midnights, by workers that live, died or are zombies.

What is settled and held never passes a cap: that of the job, or those of its tenant's and of everybody's day and month; only
who holds the claim may begin to pay; and under a fair schedule what the dead have left is settled from what they journalled,
until nothing is held.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from queues.quotas import Quotas
from queues.shared import Cap, number_at, words
from queues.subtasks import Charge, Claim, Intent, Refused, State
from tests.chaos.machines import ROUND_MS, ROUNDS, Mode, StoreMachine, check
from tests.support.stores import new
from tests.support.valkey import Valkey

CAP = 100
#: The first is paused and cancelled; the second, of another tenant, takes of what is everybody's.
JOB, OTHER = "j", "k"
RECORD = "j/shard"
TENANTS = {JOB: "acme", OTHER: "bravo"}
SUBTASKS = ["j/a", "j/b", "k/a"]
#: The most that may be used in a day and in a month, by whom.
CAPS = {("acme", "day"): 70, ("acme", "month"): 150, ("*", "day"): 90, ("*", "month"): 170}
WORDS = words([Cap(whom, per, most) for (whom, per), most in CAPS.items()])  # type: ignore[arg-type]
#: Of how many days and months the store keeps what was used.
KEPT = {"day": 3, "month": 2}
HOUR_MS = 3_600_000
#: (day, month), by number.
Since = tuple[int, int]
#: A subtask holds under its own id, or under that of a part.
HOLDS = ["", "/review"]


class Quota(StoreMachine):
    """The model: who holds which claim, what each hold keeps, and what was booked under which id, as guess or as truth."""

    def __init__(self, valkey: Valkey, mode: Mode) -> None:
        super().__init__(valkey, mode)
        self.claims: list[Claim] = []
        #: The fence with which a subtask may begin to pay; None: nobody's.
        self.fence: dict[str, int | None] = {}
        self.held: dict[str, Intent] = {}
        #: When each hold was taken, and, by intent, when what was booked was held.
        self.since: dict[str, Since] = {}
        self.booked_in: dict[str, Since] = {}
        self.made: list[Intent] = []
        #: Intent id -> (amount booked, whether it is a guess).
        self.booked: dict[str, tuple[int, bool]] = {}
        self.stopped: Literal["paused", "cancelled"] | None = None
        self.by_cap = False
        self.closed = False
        self.memos: dict[str, str] = {}

    @initialize()
    def open(self) -> None:
        for job, tenant in TENANTS.items():
            self.run(self.store.open_job(job, tenant=tenant, share=1))
            self.run(Quotas(self.store.link, self.namespace).set_cap(job, CAP))
        self.run(self.store.add([new(id_) for id_ in SUBTASKS]))

    @rule(id_=st.sampled_from(SUBTASKS))
    def claim(self, id_: str) -> None:
        self._claim(id_)

    @rule(ms=st.sampled_from([1, 2_000, 31_000, 9 * HOUR_MS, 25 * HOUR_MS, 10 * 24 * HOUR_MS]))
    def time_goes_on(self, ms: int) -> None:
        self.pass_time(ms)

    @rule()
    def reconcile(self) -> None:
        for id_, state in self.run(self.store.reconcile()):
            if state is State.RUNNING:
                self.fence[id_] = None

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), part=st.sampled_from(HOLDS), amount=st.integers(0, 60))
    def intend(self, data: st.DataObject, part: str, amount: int) -> None:
        """Whoever ever held the claim is about to pay."""
        claim = data.draw(st.sampled_from(self.claims))
        hold = claim.id + part
        id_ = f"{hold}.{claim.fence}.{len(self.made)}"
        intent = Intent(_job(hold), hold, id_, amount, f"{id_} {hold} {amount}", claim.id, claim.fence, WORDS)
        self.made.append(intent)
        self._intend(intent)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), handle=st.booleans())
    def again(self, data: st.DataObject, handle: bool) -> None:
        """The reply was lost and it is journalled again; or it has a handle, which only a later claim keeps from the journal."""
        intent = self.held[data.draw(st.sampled_from(sorted(self.held)))]
        if handle:
            note = f"{intent.note} {len(self.claims)}"
            changed = replace(intent, note=note)
            if note != intent.note:
                refused = self.run(self.store.intend(changed))
                if self.fence[intent.claimed] in (None, intent.fence):
                    assert refused is None
                else:
                    assert refused in (None, Refused("stale"))
                if refused is None:
                    self.held[intent.hold] = changed
        else:
            self._intend(intent)

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        intent = data.draw(st.sampled_from(self.made))
        self.run(self.store.let_go(intent))
        self._freed(intent)

    @precondition(lambda self: self._begun())
    @rule(data=st.data(), guess=st.booleans(), way=st.sampled_from(["settle", "finish", "hand_on", "memo"]))
    def end(self, data: st.DataObject, guess: bool, way: str) -> None:
        """An end at any time, by anybody, any number of times: a truth costs at most what was held, a guess all of it."""
        intent = data.draw(st.sampled_from(self._begun()))
        amount = intent.amount if guess else intent.amount // 2
        job = _job(intent.hold)
        charge = Charge(_record(job), intent.id, "body", job, intent.hold, amount, {"calls": 1}, provisional=guess)
        claim = next(claim for claim in self.claims if (claim.id, claim.fence) == (intent.claimed, intent.fence))
        match way:
            case "settle":
                self.run(self.store.settle([charge]))
            case "finish":
                self.run(self.store.finish(claim, "ok", "", [charge]))
            case "hand_on":
                self.run(self.store.hand_on(claim, "nano", "", [charge]))
            case _:
                self.run(self.store.set_memo(JOB, claim.id, intent.id, [charge]))
                self.memos.setdefault(claim.id, intent.id)
        self._book(intent, amount, guess=guess)

    @rule()
    def pause(self) -> None:
        self.run(self.store.stop(JOB, "paused", ["nano"]))
        self.stopped, self.by_cap = self.stopped or "paused", False

    @rule()
    def pause_at_a_cap(self) -> None:
        """Who is paused by somebody's wish stays so."""
        self.run(self.store.stop(JOB, "paused", ["nano"], why="a cap", short=30))
        self.by_cap = self.by_cap or self.stopped is None
        self.stopped = self.stopped or "paused"

    @rule()
    def relieve(self) -> None:
        fits = all(left >= 30 for left in self._left(JOB, self._now()))
        relieved = self.run(Quotas(self.store.link, self.namespace).relieve(JOB, WORDS, ["nano"]))
        assert relieved == (self.by_cap and fits)
        if relieved:
            self.stopped, self.by_cap = None, False

    @rule()
    def resume(self) -> None:
        self.run(self.store.resume(JOB, ["nano"]))
        self.stopped, self.by_cap = None if self.stopped == "paused" else self.stopped, False

    @precondition(lambda self: len(self.made) > 2)
    @rule()
    def cancel(self) -> None:
        self.run(self.store.stop(JOB, "cancelled", ["nano"]))
        self.stopped, self.by_cap = "cancelled", False

    @precondition(lambda self: self.booked and not any(_job(hold) == JOB for hold in self.held))
    @rule()
    def forget(self) -> None:
        """The entries so far are kept elsewhere; only the truth about a guess among them is still news."""
        entries, guesses = len(self.run(self.store.records(RECORD))), self.run(self.store.guesses(RECORD))
        assert self.run(self.store.forget(f"{JOB}/gate", [], RECORD, JOB, entries=entries, guesses=guesses))
        self.closed = True

    @invariant()
    def it_adds_up(self) -> None:
        for job in TENANTS:
            cap, used, held = self.run(self.store.quota(job))
            assert cap == CAP
            assert used == sum(amount for id_, (amount, _) in self.booked.items() if _job(id_) == job)
            assert held == sum(intent.amount for hold, intent in self.held.items() if _job(hold) == job)
            assert used + held <= CAP
            calls = [id_ for id_ in self.booked if _job(id_) == job]
            assert self.run(self.store.tally(job)).get("calls", 0) == len(calls)

    @invariant()
    def it_adds_up_by_day_and_month(self) -> None:
        now = self._now()
        for (whom, per), most in CAPS.items():
            at = ("day", "month").index(per)
            for number in range(now[at] - KEPT[per] + 1, now[at] + 1):
                names = (f"{self.namespace}:{per}:{what}:{whom}" for what in ("used", "held"))
                used, held = [int(found or 0) for found in self.execute(*(("HGET", name, number) for name in names))]
                assert (used, held) == self._shared(whom, at, number)
                assert used + held <= most
        assert len(self.held) == self.execute(("HLEN", f"{self.namespace}:sh"))[0]

    @invariant()
    def what_is_journalled_is_what_is_held(self) -> None:
        notes = [note for job in TENANTS for note in self.run(self.store.unsettled(job))]
        assert sorted(notes) == sorted(intent.note for intent in self.held.values())
        for name, body in self.memos.items():
            assert self.run(self.store.memo(JOB, name)) == body

    def recover(self) -> None:
        """New workers know only what the store says: they settle what the dead journalled, make their call and end."""
        self.resume()
        for _ in range(ROUNDS):
            self.run(self.store.register("nano", "w", 2, 10**9))
            self.reconcile()
            ended = [result for result in self.run(self.store.results(SUBTASKS)) if result and result.status]
            if len(ended) == len(SUBTASKS):
                break
            for released in self.run(self.store.release("nano", 10)):
                claim = self._claim(released.id)
                assert claim is not None
                self._work(claim)
            self.pass_time(ROUND_MS)
        assert self.stopped == "cancelled" or len(ended) == len(SUBTASKS)
        # The end of the jobs: what is left belongs to nobody who will call again.
        for job in TENANTS:
            for note in self.run(self.store.unsettled(job)):
                self._settle(note)
            assert self.run(self.store.quota(job))[2] == 0
        self.it_adds_up()
        self.it_adds_up_by_day_and_month()
        assert not self.held

    def _claim(self, id_: str) -> Claim | None:
        claim = self.run(self.store.claim(id_, "nano"))
        if not isinstance(claim, Claim):
            # An earlier one may have run out: the store then takes it back, and moves the fence on.
            (fence,) = self.run(self.store.fields(id_, "fence"))
            if fence != str(self.fence.get(id_)):
                self.fence[id_] = None
            return None
        self.claims.append(claim)
        self.fence[id_] = claim.fence
        return claim

    def _work(self, claim: Claim) -> None:
        id_ = f"{claim.id}.{claim.fence}"
        job = _job(claim.id)
        intent = Intent(job, claim.id, id_, 1, f"{id_} {claim.id} 1", claim.id, claim.fence, WORDS)
        self.made.append(intent)
        refused = self._intend(intent)
        if refused is not None and refused.why == "unsettled":
            self._settle(refused.note)
            refused = self._intend(intent)
        if refused is None:
            charge = Charge(_record(job), id_, "body", job, claim.id, 1, {"calls": 1})
            assert self.run(self.store.finish(claim, "ok", "", [charge]))
            self._book(intent, 1, guess=False)
        elif refused.why == "short":
            assert self.run(self.store.finish(claim, "failed", ""))

    def _intend(self, intent: Intent) -> Refused | None:
        refused = self.run(self.store.intend(intent))
        kept = self.held.get(intent.hold)
        job, now = _job(intent.hold), self._now()
        if self.stopped is not None and job == JOB:
            assert refused == Refused(self.stopped)
        elif self.fence[intent.claimed] != intent.fence:
            assert refused == Refused("stale")
        elif kept is not None and kept.id != intent.id:
            assert refused == Refused("unsettled", note=kept.note)
        elif kept is None and any(left < intent.amount for left in self._left(job, now)):
            assert refused is not None
            assert refused.why == "short"
        else:
            assert refused is None
            self.held[intent.hold] = intent
            self.since.setdefault(intent.hold, now)
        return refused

    def _settle(self, note: str) -> None:
        """As whoever comes after a dead worker: its call is booked at its worst case."""
        id_, hold, amount, *_ = note.split()
        charge = Charge(_record(_job(id_)), id_, "body", _job(id_), hold, int(amount), {"calls": 1}, provisional=True)
        self.run(self.store.settle([charge]))
        self._book(self.held[hold], int(amount), guess=True)

    def _left(self, job: str, now: Since) -> list[int]:
        """What is left under each cap that a new call of a job has to fit under."""
        kept = sum(intent.amount for hold, intent in self.held.items() if _job(hold) == job)
        spent = sum(amount for id_, (amount, _) in self.booked.items() if _job(id_) == job)
        shared = (
            most - sum(self._shared(whom, at, now[at]))
            for (whom, per), most in CAPS.items()
            if whom in (TENANTS[job], "*") and (at := ("day", "month").index(per)) >= 0
        )
        return [CAP - kept - spent, *shared]

    def _shared(self, whom: str, at: int, number: int) -> tuple[int, int]:
        """What is used and held in a period, of one tenant or of all."""

        def counts(id_: str, since: Since) -> bool:
            return since[at] == number and whom in (TENANTS[_job(id_)], "*")

        used = sum(amount for id_, (amount, _) in self.booked.items() if counts(id_, self.booked_in[id_]))
        held = sum(intent.amount for hold, intent in self.held.items() if counts(hold, self.since[hold]))
        return used, held

    def _now(self) -> Since:
        return number_at("day", self.now_ms / 1000), number_at("month", self.now_ms / 1000)

    def _begun(self) -> list[Intent]:
        """What was not refused or let go: only there something was used."""
        return [intent for intent in self.made if intent.id in self.booked or self._holding(intent)]

    def _holding(self, intent: Intent) -> Intent | None:
        kept = self.held.get(intent.hold)
        return kept if kept is not None and kept.id == intent.id else None

    def _book(self, intent: Intent, amount: int, *, guess: bool) -> None:
        before = self.booked.get(intent.id)
        closed = self.closed and _job(intent.id) == JOB
        if (before is None and not closed) or (before is not None and before[1] and not guess):
            self.booked[intent.id] = (amount, guess)
            # A truth takes the place of its guess; else it is used where it was held.
            since = self.since[intent.hold] if self._holding(intent) is not None else self._now()
            self.booked_in.setdefault(intent.id, since)
        self._freed(intent)

    def _freed(self, intent: Intent) -> None:
        if self._holding(intent) is not None:
            del self.held[intent.hold], self.since[intent.hold]


def _job(id_: str) -> str:
    return id_.partition("/")[0]


def _record(job: str) -> str:
    return f"{job}/shard"


def test_the_budget_holds(in_memory: Valkey) -> None:
    check(Quota, in_memory, "safety")


def test_nothing_stays_held(in_memory: Valkey) -> None:
    check(Quota, in_memory, "liveness")
