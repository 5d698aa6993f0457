"""The gate as a real Celery chord: what lies in the broker, who fires the review, trees, and a chord that was lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet.jobs import JobStatus
from queues.dispatcher import Dispatcher
from tests.support.bench import Bench, bench, books, config
from tests.support.messages import Message
from tests.support.processes import FleetProcess
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

WIDTH = 3
CONFIG = config(gate_width=WIDTH)
NOTE = {"id": "note", "each": "items", "tier": "nano", "prompt": "Note on {{ item }}", "max_output_tokens": 200}
REVIEW = {"prompt": "Brief.", "max_output_tokens": 1_000}


def in_queue(valkey: Valkey, queue: str) -> list[Message]:
    """The messages of a queue, the oldest first."""
    with valkey.client() as client:
        return [Message.read(raw) for raw in reversed(client.lrange(queue, 0, -1))]


def chord_keys(valkey: Valkey, gate: str) -> list[bytes]:
    with valkey.client() as client:
        return sorted(client.keys(f"celery-taskset-meta-{gate}*"))


def test_dispatched_messages_carry_their_place_in_the_chord_and_its_body(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(valkey, tmp_path, CONFIG, sim="http://127.0.0.1:1/v1") as fleet:
            runtime = fleet.runtime
            job_id = await fleet.submit(items=["a", "b"], steps=[NOTE], review=REVIEW)
            await fleet.run_until(job_id, "fleet.plan_job.v1")
            await fleet.duties.plan(f"{job_id}/plan.1", "coordinator")
            assert (
                await Dispatcher(runtime.publisher, runtime.store, runtime.gates, [runtime.tiers["nano"]]).dispatch()
                == 2
            )
            shard = f"{job_id}/shard.1.0.0"
            messages = in_queue(valkey, "nano")
            assert [message.args for message in messages] == [[f"{job_id}/note/0"], [f"{job_id}/note/1"]]
            for index, message in enumerate(messages):
                assert message.headers["id"] == f"{job_id}/note/{index}"
                assert message.headers["task"] == "fleet.run_subtask.v1"
                assert (message.headers["group"], message.headers["group_index"]) == (shard, index)
                assert message.chord is not None
                assert message.chord["task"] == "fleet.close_shard.v1"
                assert message.chord["args"] == [shard]
                options = message.chord["options"]
                assert (options["task_id"], options["queue"]) == (shard, "coordinator")
                assert (options["group_id"], options["group_index"]) == (f"{job_id}/review.1", 0)
                assert options["chord"]["task"] == "fleet.review_job.v1"
            with valkey.client() as client:
                size = client.get(f"celery-taskset-meta-{shard}.s")
                assert size == b"2"
                # A body that was claimed is not sent again, so opening the gate again must not take the claim away.
                client.set(f"celery-taskset-meta-{shard}.c", "claimed")
                await runtime.rounds.open_phase(await runtime.jobs.load(job_id), 0)
                assert client.get(f"celery-taskset-meta-{shard}.c") == b"claimed"
                assert client.get(f"celery-taskset-meta-{shard}.s") == b"2"

    asyncio.run(scenario())


def test_a_message_without_a_gate_has_no_chord(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(valkey, tmp_path, CONFIG, sim="http://127.0.0.1:1/v1") as fleet:
            runtime = fleet.runtime
            job_id = await fleet.submit(steps=[{"id": "one", "prompt": "One."}])
            assert (
                await Dispatcher(
                    runtime.publisher, runtime.store, runtime.gates, [runtime.tiers["coordinator"]]
                ).dispatch()
                == 1
            )
            (message,) = in_queue(valkey, "coordinator")
            assert message.args == [f"{job_id}/plan.1"]
            assert (message.headers["group"], message.chord) == (None, None)

    asyncio.run(scenario())


@dataclass(frozen=True)
class Running:
    """A fleet of real processes without a flagship worker: what is sent to the flagship stays in its queue."""

    valkey: Valkey
    folder: Path
    sim: RunningSim

    def start(self, tier: str, *command: str) -> FleetProcess:
        process = FleetProcess(self.valkey, self.folder, CONFIG, self.sim.url, *command)
        return process.ready(self.valkey, tier)

    def with_bench(self, scenario: Callable[[Bench], Awaitable[None]]) -> None:
        """Run a scenario on a bench beside the processes. Its workers do not count: only the flagship's window does."""

        async def run() -> None:
            async with bench(self.valkey, self.folder, CONFIG, sim=self.sim.url) as fleet:
                for tier in fleet.runtime.tiers:
                    if tier != "flagship":
                        await fleet.runtime.store.register(tier, "bench", 1_000, 0)
                await scenario(fleet)

        asyncio.run(run())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, sim: RunningSim) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gate")
    valkey = Valkey(folder)
    started: list[FleetProcess] = []
    try:
        fleet = Running(valkey, folder, sim)
        started = [
            FleetProcess(valkey, folder, CONFIG, sim.url, "worker", "--tier", "nano"),
            FleetProcess(valkey, folder, CONFIG, sim.url, "coordinator"),
        ]
        started[0].ready(valkey, "nano")
        started[1].ready(valkey, "coordinator")
        yield fleet
    finally:
        for process in started:
            process.stop()
        valkey.stop()


@pytest.mark.parametrize("items", [3, 7, 30])
def test_the_chord_sends_the_review_once_with_the_references_of_its_members(running: Running, items: int) -> None:
    """Three members are one shard, seven are three; the shards of thirty are gathered by a tree of chords."""

    async def scenario(fleet: Bench) -> None:
        names = [f"item {i}" for i in range(items)]
        job_id = await fleet.submit(items=names, steps=[NOTE], review=REVIEW)
        review = f"{job_id}/review.1"
        await _message_for(running.valkey, review)
        assert await fleet.runtime.store.fields(review, "state", "needs") == ["queued", "0"]
        (message,) = [one for one in in_queue(running.valkey, "flagship") if one.headers["id"] == review]
        references, own = message.args
        assert own == review
        shards = [f"{job_id}/shard.1.0.{i}" for i in range(-(-items // WIDTH))]
        expected = shards if len(shards) <= WIDTH else [f"{review}/1.0", f"{review}/1.1"]
        assert references == [{"id": id_, "status": "ok"} for id_ in expected]
        await _review_twice(fleet, running, job_id)

    running.with_bench(scenario)


def test_a_chord_that_was_lost_is_fired_by_the_reconciler_under_the_same_id(running: Running) -> None:
    async def scenario(fleet: Bench) -> None:
        store = fleet.runtime.store
        steps = [NOTE, {**NOTE, "id": "last", "tier": "mini", "needs": ["note"]}]
        job_id = await fleet.submit(items=["a"], steps=steps, review=REVIEW)
        shard, review = f"{job_id}/shard.1.0.0", f"{job_id}/review.1"

        async def left(members: str) -> bool:
            return await store.fields(shard, "needs") == [members]

        async def part_counted() -> bool:
            with running.valkey.client() as client:
                return int(client.zcard(f"celery-taskset-meta-{shard}.j")) == 1

        await eventually(lambda: left("1"), "the note")
        await eventually(part_counted, "the chord to count it")
        with running.valkey.client() as client:
            client.delete(*chord_keys(running.valkey, shard))
        mini = running.start("mini", "worker", "--tier", "mini")
        try:
            await eventually(lambda: left("0"), "the last member")
            message = await _message_for(running.valkey, review)
            assert message.args == [[{"id": shard, "status": "ok"}], review]
            log = (running.folder / "coordinator.log").read_text()
            assert f"put back into the backlog: subtask={shard} found=queued" in log, "its chord did not send it"
            await _review_twice(fleet, running, job_id)
        finally:
            mini.stop()
        # By now the grace of the gates before this one is over too.
        sent = Counter(message.headers["id"] for message in in_queue(running.valkey, "flagship"))
        assert sent[review] == 1
        assert set(sent.values()) == {1}

    running.with_bench(scenario)


async def _message_for(valkey: Valkey, id_: str) -> Message:
    """The message in the flagship's queue under a task id, once it is there."""

    async def look() -> list[Message]:
        return [message for message in in_queue(valkey, "flagship") if message.headers["id"] == id_]

    return (await eventually(look, f"a message for {id_}"))[0]


async def _review_twice(fleet: Bench, running: Running, job_id: str) -> None:
    """Run the body as two workers would that got it at the same time, and again: it runs once."""
    review = f"{job_id}/review.1"
    before = len(fleet.provider.asked)
    ends = await asyncio.gather(*(fleet.duties.review(review, "flagship") for _ in range(2)), return_exceptions=True)
    assert {"id": review, "status": "ok"} in ends
    assert await fleet.duties.review(review, "flagship") == {"id": review, "status": "ok"}
    assert len(fleet.provider.asked) == before + 1
    job = await fleet.runtime.jobs.load(job_id)
    assert job.status is JobStatus.COMPLETED, job.error
    ledger = await fleet.ledger(job_id)
    assert [entry.role for entry in ledger].count("review") == 1
    books(ledger, running.sim.charges(), job_id)
