"""Trees of gates over Celery's real chord counts: a body is due when its last member has ended, not before, and ends once.

Its workers die before and after the part of a chord is counted, its messages are lost and doubled, its chord counts vanish.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator

import pytest
from celery import Celery
from celery.app.task import Context
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from queues.app import QueueSettings, build_app
from queues.bridge import Crossing
from queues.dispatcher import Dispatcher
from queues.gate import Gates, tree
from queues.messages import Publisher
from queues.subtasks import Claim
from queues.tiers import Tier
from tests.chaos.machines import ROUND_MS, ROUNDS, Mode, StoreMachine, check
from tests.support.messages import Message
from tests.support.stores import new
from tests.support.valkey import Valkey
from tests.support.virtual_clock import at

TIER = "nano"


class GateTree(StoreMachine):
    """The model: which members have ended, what lies in the broker, who works on what."""

    def __init__(self, app: Celery, valkey: Valkey, mode: Mode) -> None:
        super().__init__(valkey, mode)
        self.app = app
        self.broker = valkey.client()
        # Parts are counted on the machine's link, and there every script asks a key for the time, this one without need.
        app.backend._link = app.backend.client.link = self.link
        self.broker.execute_command(*at(app.backend._prefix, self.now_ms))
        self.broker.delete(TIER)
        #: Chord counts are Celery's and know no namespace, so the job is another one each time.
        self.root = f"{self.namespace}/gate"
        self.members: list[str] = []
        #: gate -> its members, which may be gates.
        self.gathers: dict[str, list[str]] = {}
        self.messages: list[Message] = []
        self.working: list[tuple[Claim, Message]] = []
        self.final: set[str] = set()
        #: How often the chord of a gate sent its body.
        self.fired: Counter[str] = Counter()

    @initialize(members=st.integers(1, 7), width=st.integers(2, 3))
    def plan(self, members: int, width: int) -> None:
        self.width = width
        self.members = [f"{self.namespace}/m/{number}" for number in range(members)]
        self.gates = Gates(self.app, self.store, gather_tier=TIER)
        self.publisher = Publisher(self.app)
        self.dispatcher = Dispatcher(self.publisher, self.store, self.gates, [Tier(name=TIER, queue=TIER)])
        self.heartbeat()
        self.open()
        for gate, (parent, _, _) in tree(self.root, members, width).items():
            self.gathers[gate] = []
            if parent is not None:
                self.gathers[parent].append(gate)
        for position, member in enumerate(self.members):
            gate, index = self.gates.place(self.root, members, position, width=width)
            assert index == len(self.gathers[gate])
            self.gathers[gate].append(member)

    @rule()
    def open(self) -> None:
        """Again and again, as after a crash: no chord starts anew and nothing is added twice."""
        places = self.run(self.gates.open(new(self.root), self.members, width=self.width))
        members = [new(id_, gate=gate, gate_index=index) for id_, (gate, index) in places.items()]
        self.run(self.store.add(members))

    @rule()
    def heartbeat(self) -> None:
        self.run(self.store.register(TIER, "w", 100, 10**9))

    @rule(sent=st.booleans())
    def dispatch(self, sent: bool) -> None:
        """The dispatcher, or one that dies before it has sent what it released."""
        if sent:
            self.run(self.dispatcher.dispatch())
            self._arrive()
        else:
            self.run(self.store.release(TIER, 2))

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), doubled=st.booleans())
    def deliver(self, data: st.DataObject, doubled: bool) -> None:
        message = data.draw(st.sampled_from(self.messages))
        if not doubled:
            self.messages.remove(message)
        self._begin(message)

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.messages.remove(data.draw(st.sampled_from(self.messages)))

    @precondition(lambda self: self.working)
    @rule(data=st.data(), counted=st.booleans())
    def end(self, data: st.DataObject, counted: bool) -> None:
        """A worker writes its end; it may die before its part of the chord is counted."""
        claim, message = data.draw(st.sampled_from(self.working))
        self._end(claim, message, counted=counted)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.working.remove(data.draw(st.sampled_from(self.working)))

    @rule(gate=st.integers(0, 5))
    def lose_chord(self, gate: int) -> None:
        """Its counts are gone: evicted, or expired."""
        gates = list(self.gathers)
        keys = self.broker.keys(f"celery-taskset-meta-{gates[gate % len(gates)]}.*")
        if keys:
            self.broker.delete(*keys)

    @rule()
    def a_lease_passes(self) -> None:
        for _ in range(self.store.lease_ms // ROUND_MS + 1):
            self.heartbeat()
            self.pass_time(ROUND_MS)
        self.run(self.store.reconcile())

    @invariant()
    def a_body_is_due_when_its_last_member_has_ended(self) -> None:
        for gate, members in self.gathers.items():
            state, needs = self.run(self.store.fields(gate, "state", "needs"))
            missing = len(set(members) - self.final)
            assert needs == str(missing)
            assert (state == "waiting") == (missing > 0)
            assert self.fired[gate] <= 1, "its chord fired twice"

    def recover(self) -> None:
        for _ in range(ROUNDS):
            self.heartbeat()
            self.run(self.store.reconcile())
            self.run(self.dispatcher.dispatch())
            self._arrive()
            while self.messages:
                started = self._begin(self.messages.pop(0))
                if started is not None:
                    self._end(*started, counted=True)
            if self.root in self.final:
                break
            self.pass_time(ROUND_MS)
        assert self.final == {*self.members, *self.gathers}
        self.a_body_is_due_when_its_last_member_has_ended()

    async def close(self) -> None:
        if self.members:
            await self.publisher.aclose()
        await super().close()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.broker.close()

    def _arrive(self) -> None:
        """What was published; a body that comes with the references of its members was sent by its chord."""
        while isinstance(raw := self.broker.rpop(TIER), bytes):
            message = Message.read(raw)
            self.messages.append(message)
            id_ = message.headers["id"]
            assert not set(self.gathers.get(id_, [])) - self.final, "sent before its members have ended"
            if len(message.args) == 2:
                self.fired[id_] += 1
                assert [one["id"] for one in message.args[0]] == self.gathers[id_]

    def _begin(self, message: Message) -> tuple[Claim, Message] | None:
        id_ = message.args[-1]
        claim = self.run(self.store.claim(id_, TIER))
        if isinstance(claim, Claim):
            assert id_ not in self.final
            self.working.append((claim, message))
            return claim, message
        if claim.why == "final":
            self._count(message)  # Delivered again: it is done, but its part may be missing.
        return None

    def _end(self, claim: Claim, message: Message, *, counted: bool) -> None:
        self.working.remove((claim, message))
        if self.run(self.store.finish(claim, "ok", "")):
            assert claim.id not in self.final
            self.final.add(claim.id)
            if counted:
                self._count(message)

    def _count(self, message: Message) -> None:
        """What Celery does when a task has returned its reference."""
        id_, group, index = (message.headers[name] for name in ("id", "group", "group_index"))
        request = Context(id=id_, group=group, group_index=index, chord=message.chord)
        count = functools.partial(
            self.app.backend.on_chord_part_return, request, "SUCCESS", {"id": id_, "status": "ok"}
        )
        if int(index or 0) % 2:  # as everywhere but in our pool, an earlier version of ours among it
            count()
        else:
            self.run(Crossing(count).drive())
        self._arrive()


@pytest.fixture
def app(in_memory: Valkey) -> Iterator[Celery]:
    """A Celery app on the machine's server, for messages and chord counts."""
    settings = QueueSettings(broker_url=in_memory.url + "/0", store_url=in_memory.url + "/0", namespace="gates")
    celery = build_app(settings, [Tier(name=TIER, queue=TIER)])
    yield celery
    celery.backend.client.connection_pool.disconnect()
    celery.close()


def test_gates_fire_when_all_is_gathered_and_once(app: Celery, in_memory: Valkey) -> None:
    check(functools.partial(GateTree, app), in_memory, "safety")


def test_every_gate_fires(app: Celery, in_memory: Valkey) -> None:
    check(functools.partial(GateTree, app), in_memory, "liveness")
