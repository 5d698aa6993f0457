"""Permits on a virtual clock: no minute sees more starts than allowed, nothing starts in a pause, every place heals."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from queues.limits import CONFIRM_OVER_MS, Limiter, Permit
from queues.tiers import Allowance
from tests.chaos.machines import ROUNDS, Mode, StoreMachine, check
from tests.support.valkey import Valkey

IN_FLIGHT = 3
#: A call ends at the latest by its timeout, and its place outlives that.
TIMEOUT_S, LEASE_S = 60, 90
MINUTE_MS = 60_000
#: A strict limit on requests, one on tokens (a call takes a tenth to all of it), both, and none but the places.
ALLOWANCES = [
    Allowance(requests_per_minute=requests, tokens_per_minute=tokens, in_flight=IN_FLIGHT)
    for requests in (2, None)
    for tokens in (100, None)
]


@dataclass(slots=True)
class Call:
    """A call as its worker sees it."""

    permit: Permit
    #: When it may start.
    moment: int
    #: Its wait was long, so at its end it asks whether the account was paused meanwhile.
    confirms: bool
    #: When the reservation was made.
    asked: int
    #: Its place among the starts.
    start: list[int] | None = None

    @property
    def started(self) -> bool:
        return self.start is not None

    def due(self) -> int:
        """When its worker does something of its own accord: start it, or give it up."""
        return self.moment + TIMEOUT_S * 1000 if self.started else self.moment


class Permits(StoreMachine):
    """The model: who has a place and until when, what has started when, until when the account is paused."""

    def __init__(self, valkey: Valkey, mode: Mode) -> None:
        super().__init__(valkey, mode)
        self.limiter = Limiter(self.link, self.namespace)
        self.allowance = Allowance()
        self.asked = 0
        self.calls: dict[str, Call] = {}
        self.ended: Permit | None = None
        #: Of calls whose worker died: id -> when their place heals.
        self.dead: dict[str, int] = {}
        #: [moment, tokens] of every start; the tokens are those used once that is known.
        self.starts: list[list[int]] = []
        self.paused_until = 0

    @initialize(allowance=st.sampled_from(ALLOWANCES))
    def limit(self, allowance: Allowance) -> None:
        self.allowance = allowance

    @rule(tokens=st.sampled_from([10, 40, 100]))
    def ask(self, tokens: int) -> None:
        """A new call asks, as `Limiter.acquire` does."""
        self.asked += 1
        id_ = f"call{self.asked}"
        if len(self.calls) + len(self.dead) < IN_FLIGHT:
            self._reserve(id_, tokens)
        else:
            assert self._ask(id_, tokens)[0] == -1

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), share=st.sampled_from([0.5, 1.0]))
    def settle(self, data: st.DataObject, share: float) -> None:
        """A call ends, having used some of what it asked for; one that still waits is given up."""
        self._settle(data.draw(st.sampled_from(sorted(self.calls))), share)

    @precondition(lambda self: self.ended)
    @rule()
    def settle_again(self) -> None:
        """The reply to the last end was lost: the second time nothing is given back."""
        assert self.ended is not None
        self.run(self.limiter.settle(self.ended, 0))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """A worker dies: its call ends, the place stays taken until the lease is over."""
        id_ = data.draw(st.sampled_from(sorted(self.calls)))
        self.dead[id_] = self.calls.pop(id_).moment + LEASE_S * 1000

    @rule(seconds=st.sampled_from([1, 20, 70]))
    def pause(self, seconds: int) -> None:
        self.run(self.limiter.pause("m", seconds))
        self.paused_until = max(self.paused_until, self.now_ms + seconds * 1000)

    @rule(ms=st.sampled_from([1, 100, 999, 7_000, 31_000, 61_000, 200_000]))
    def time_goes_on(self, ms: int) -> None:
        """In it every call starts at its moment and ends by its timeout, in order."""
        until = self.now_ms + ms
        while due := [(call.due(), id_) for id_, call in self.calls.items() if call.due() <= until]:
            moment, id_ = min(due)
            self._pass_to(moment)
            if self.calls[id_].started:
                self._settle(id_, 1.0)
            else:
                self._wake(self.calls[id_])
        self._pass_to(until)

    @invariant()
    def never_more_in_flight_than_allowed(self) -> None:
        (live,) = self.execute(("ZCOUNT", f"{self.namespace}:p:m:flying", f"({self.now_ms}", "+inf"))
        assert live == len(self.calls) + len(self.dead) <= IN_FLIGHT

    def recover(self) -> None:
        """Every call that asks starts, one after the other, and every place heals."""
        for id_ in list(self.calls):
            self._settle(id_, 1.0)
        for number in range(2 * IN_FLIGHT):
            started = len(self.starts)
            for _ in range(ROUNDS):
                if not self.calls:
                    self.ask(10)
                if len(self.starts) > started:
                    break
                self.time_goes_on(10_000)
            assert len(self.starts) == started + 1, f"number {number} never started"
            for id_ in list(self.calls):
                self._settle(id_, 1.0)
        # One that died while it waited for its moment holds its place from then on for as long as a lease.
        last = max(self.dead.values(), default=0)
        self.time_goes_on(max(LEASE_S * 1000, last - self.now_ms))
        assert not self.dead
        self.never_more_in_flight_than_allowed()

    def _ask(self, id_: str, tokens: int, *, confirm: bool = False) -> list[int]:
        return self.run(self.limiter._ask("m", self.allowance, tokens, id_, LEASE_S, 3_600, confirm=confirm))

    def _reserve(self, id_: str, tokens: int) -> None:
        (wait_ms, *_) = self._ask(id_, tokens)
        permit = Permit(id_, "m", self.allowance, tokens, 0)
        call = Call(permit, self.now_ms + wait_ms, wait_ms > CONFIRM_OVER_MS, self.now_ms)
        self.calls[id_] = call
        if wait_ms == 0:
            self._start(call)

    def _settle(self, id_: str, share: float) -> None:
        call = self.calls.pop(id_)
        self.ended = call.permit
        if call.start is None:
            self.run(self.limiter.settle(call.permit, 0, "unused"))
        else:
            call.start[1] = round(call.permit.tokens * share)
            self.run(self.limiter.settle(call.permit, call.start[1]))

    def _wake(self, call: Call) -> None:
        if call.confirms:
            (wait_ms, *_) = self._ask(call.permit.id, call.permit.tokens, confirm=True)
            if wait_ms > 0:
                call.moment, call.confirms, call.asked = self.now_ms + wait_ms, wait_ms > CONFIRM_OVER_MS, self.now_ms
                return
        self._start(call)

    def _start(self, call: Call) -> None:
        assert self.now_ms >= self.paused_until or (self.now_ms - call.asked <= CONFIRM_OVER_MS), "started in a pause"
        call.start = [self.now_ms, call.permit.tokens]
        self.starts.append(call.start)
        # Of all minutes those that end with a start hold most.
        window = [used for moment, used in self.starts if moment > self.now_ms - MINUTE_MS]
        assert len(window) <= (self.allowance.requests_per_minute or len(window)), "too many requests in a minute"
        assert sum(window) <= (self.allowance.tokens_per_minute or sum(window)), "too many tokens in a minute"

    def _pass_to(self, moment: int) -> None:
        self.pass_time(moment - self.now_ms)
        # A place is held until the lease is over, whoever holds it.
        self.dead = {id_: heals for id_, heals in self.dead.items() if heals > moment}


def test_permits_are_safe(in_memory: Valkey) -> None:
    check(Permits, in_memory, "safety")


def test_permits_heal(in_memory: Valkey) -> None:
    check(Permits, in_memory, "liveness")
