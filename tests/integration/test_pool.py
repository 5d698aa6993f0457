"""The pool's contract in real worker processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from queues.app import QueueSettings, build_app
from tests.support import worker_app
from tests.support.valkey import Valkey
from tests.support.worker import Worker, until

UNACKED = "test.unacked.test.work"

Start = Callable[..., Worker]


@pytest.fixture
def start(valkey: Valkey, tmp_path: Path) -> Iterator[Start]:
    """Starts worker processes, and kills what is left of them."""
    workers: list[Worker] = []

    def _start(*options: str, **settings: Any) -> Worker:
        workers.append(Worker(valkey, tmp_path, *options, **settings))
        return workers[-1]

    yield _start
    for worker in workers:
        worker.kill()


@pytest.fixture
def app(valkey: Valkey) -> Iterator[Celery]:
    """A producer's app on the test's Valkey."""
    settings = QueueSettings(broker_url=valkey.url + "/0", store_url=valkey.url + "/1", namespace="test")
    app = build_app(settings, [worker_app.WORK])
    yield app
    app.close()
    app.backend.client.close()


def send(app: Celery, name: str, *args: Any, **options: Any) -> Any:
    return app.send_task(f"test.{name}", args, queue="test.work", **options)


def numbers(valkey: Valkey, key: str) -> list[int]:
    with valkey.client(2) as client:
        return [int(value) for value in client.lrange(key, 0, -1)]


def words(valkey: Valkey, key: str) -> list[str]:
    with valkey.client(2) as client:
        return [value.decode() for value in client.lrange(key, 0, -1)]


def unacked(valkey: Valkey) -> int:
    with valkey.client() as client:
        return int(client.hlen(UNACKED))


def queued(valkey: Valkey) -> int:
    with valkey.client() as client:
        return int(client.llen("test.work"))


def _started(valkey: Valkey, goal: int) -> bool:
    return len(set(numbers(valkey, "started"))) >= goal


def test_sigterm_waits_for_the_running_tasks_and_acknowledges_them_all(
    valkey: Valkey, app: Celery, start: Start
) -> None:
    worker = start().ready()
    until(lambda: words(valkey, "background") == ["started"], "the background coroutine", worker)
    for number in range(30):
        send(app, "wait", number, 1.0)
    until(lambda: len(numbers(valkey, "started")) == 20, "20 tasks to start", worker)
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert sorted(numbers(valkey, "ended")) == sorted(numbers(valkey, "started"))
    assert len(numbers(valkey, "ended")) == 20
    assert (queued(valkey), unacked(valkey)) == (10, 0)
    assert words(valkey, "background") == ["started", "ended"]


def test_sigquit_leaves_what_is_not_done_to_others(valkey: Valkey, app: Celery, start: Start) -> None:
    worker = start().ready()
    for number in range(5):
        send(app, "wait", number, 30.0)
    until(lambda: len(numbers(valkey, "started")) == 5, "the tasks to start", worker)
    worker.signal(signal.SIGQUIT)
    worker.ended()
    assert numbers(valkey, "ended") == []
    assert queued(valkey) + unacked(valkey) == 5


def test_context_variables_are_a_tasks_own(valkey: Valkey, app: Celery, start: Start) -> None:
    worker = start().ready()
    for number in range(50):
        send(app, "context", number)
    until(lambda: len(words(valkey, "context")) == 50, "the tasks", worker)
    assert set(words(valkey, "context")) == {"unset:True"}


def test_a_soft_limit_is_raised_in_the_await_and_a_hard_one_fails_the_task(
    valkey: Valkey, app: Celery, start: Start
) -> None:
    worker = start().ready()
    send(app, "soft")
    hard = send(app, "hard", ignore_result=False)
    until(lambda: words(valkey, "soft") == ["cleaned up"], "the soft limit", worker)
    until(lambda: words(valkey, "hard") == ["ended"], "the hard limit", worker)
    until(lambda: unacked(valkey) == 0, "the acks", worker)
    assert app.backend.get_task_meta(hard.id)["status"] == "FAILURE"
    assert "TimeLimitExceeded" in repr(app.backend.get_task_meta(hard.id)["result"])


def test_a_stall_uses_up_no_time_limit(valkey: Valkey, app: Celery, start: Start) -> None:
    worker = start(TEST_VISIBILITY="60").ready()
    send(app, "wait", 1, 1.5, soft_time_limit=2.0)
    until(lambda: numbers(valkey, "started") == [1], "the task to start", worker)
    send(app, "block", 3.0)
    until(lambda: numbers(valkey, "ended") == [1], "the task to end", worker)
    assert not worker.said("Soft time limit")


def test_terminating_a_task_cancels_it_and_revokes_it(valkey: Valkey, app: Celery, start: Start) -> None:
    worker = start().ready()
    result = send(app, "wait", 1, 30.0)
    until(lambda: numbers(valkey, "started") == [1], "the task to start", worker)
    app.control.revoke(result.id, terminate=True)
    until(lambda: unacked(valkey) == 0, "the ack", worker)
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert numbers(valkey, "ended") == []


def test_the_pool_grows_and_shrinks(valkey: Valkey, app: Celery, start: Start) -> None:
    worker = start(concurrency=2).ready()
    for number in range(8):
        send(app, "wait", number, 30.0)
    until(lambda: len(numbers(valkey, "started")) == 2, "two tasks to start", worker)
    assert app.control.pool_grow(3, reply=True, timeout=5, limit=1)
    until(lambda: len(numbers(valkey, "started")) == 5, "five tasks to run", worker)
    assert app.control.pool_shrink(4, reply=True, timeout=5, limit=1)
    stats = app.control.inspect(timeout=5, limit=1).stats()
    assert [(one["pool"]["max-concurrency"], one["prefetch_count"]) for one in stats.values()] == [(1, 1)]
    assert len(numbers(valkey, "started")) == 5


def test_a_failing_task_is_failed_and_acknowledged(valkey: Valkey, app: Celery, start: Start) -> None:
    worker = start().ready()
    result = send(app, "fail", ignore_result=False)
    until(lambda: app.backend.get_task_meta(result.id)["status"] == "FAILURE", "the failure", worker)
    until(lambda: unacked(valkey) == 0, "the ack", worker)


@pytest.mark.parametrize("seed", range(3))
def test_sigkill_loses_nothing(valkey: Valkey, app: Celery, start: Start, seed: int) -> None:
    """Workers are killed in mid-flight, three times each, while messages are being pushed."""
    sent, soon = 0, {"TEST_VISIBILITY": "1"}  # what a dead one held is put back
    for round_ in range(3):
        worker = start(**soon).ready()
        for _ in range(60):
            send(app, "wait", sent, 0.02 * (seed + 1))
            sent += 1
        goal = 20 * (round_ + 1) + seed
        until(partial(_started, valkey, goal), "some to start", worker)
        worker.signal(signal.SIGKILL)
        for _ in range(20):
            send(app, "wait", sent, 0.02)
            sent += 1
        worker.ended()
    worker = start(**soon).ready()
    until(lambda: set(numbers(valkey, "ended")) == set(range(sent)), "every message to be executed", worker, timeout=60)
    until(lambda: queued(valkey) + unacked(valkey) == 0, "the acks", worker)


def test_a_long_task_is_not_delivered_again_while_its_worker_lives(valkey: Valkey, app: Celery, start: Start) -> None:
    workers = [start(TEST_VISIBILITY="1").ready(), start("-n", "second", TEST_VISIBILITY="1").ready()]
    send(app, "wait", 1, 5.0)
    until(lambda: numbers(valkey, "ended") == [1], "the task to end", workers[0])
    assert numbers(valkey, "started") == [1]


def test_a_cut_connection_repeats_no_running_task(valkey: Valkey, app: Celery, start: Start) -> None:
    worker = start().ready()
    for number in range(10):
        send(app, "wait", number, 3.0)
    until(lambda: len(numbers(valkey, "started")) == 10, "the tasks to start", worker)
    with valkey.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    send(app, "wait", 10, 0.1)
    until(lambda: len(numbers(valkey, "ended")) == 11, "all tasks to end", worker)
    until(lambda: queued(valkey) + unacked(valkey) == 0, "the acks", worker)
    assert sorted(numbers(valkey, "started")) == list(range(11))
    assert worker.said("Connection to broker lost")


def test_tasks_go_on_while_the_broker_is_away(tmp_path: Path) -> None:
    broker = Valkey(tmp_path, "--appendonly", "yes")
    worker = Worker(broker, tmp_path)
    settings = QueueSettings(broker_url=broker.url + "/0", store_url=broker.url + "/1", namespace="test")
    producer = build_app(settings, [worker_app.WORK])
    try:
        worker.ready()
        send(producer, "wait", 1, 0.1)
        until(lambda: numbers(broker, "ended") == [1], "the first task", worker)
        for _ in range(5):
            send(producer, "block", 0.0)
        send(producer, "sleep", 1.0)
        until(lambda: worker.said("sleep is asleep"), "the task to start", worker)
        broker.kill()
        until(lambda: worker.said("looking again"), "the worker to look for its broker", worker)
        until(lambda: worker.said("sleep is awake"), "the task to end without a broker", worker)
        broker.start()
        send(producer, "wait", 2, 0.1)
        until(lambda: 2 in numbers(broker, "ended"), "the second task", worker)
    finally:
        producer.close()
        worker.kill()
        broker.stop()


def test_a_chord_whose_parts_come_late_fires_once(valkey: Valkey, app: Celery, start: Start) -> None:
    worker = start().ready()
    size = 40
    app.backend.set_chord_size("group-1", size)
    body = app.signature("test.body", queue="test.work", task_id="body-1")
    for number in range(size):
        options = {"task_id": f"part-{number}", "group_id": "group-1", "group_index": number, "chord": body}
        send(app, "header", number, **options)
    until(lambda: len(words(valkey, "body")) == 1, "the body", worker)
    for number in range(5):
        options = {"task_id": f"part-{number}", "group_id": "group-1", "group_index": number, "chord": body}
        send(app, "header", number, **options)
    until(lambda: queued(valkey) + unacked(valkey) == 0, "the acks", worker)
    assert words(valkey, "body") == [str(list(range(size)))]


def test_a_warm_shutdown_can_still_be_turned_into_a_cold_one(valkey: Valkey, app: Celery, start: Start) -> None:
    worker = start().ready()
    send(app, "wait", 1, 60.0)
    until(lambda: numbers(valkey, "started") == [1], "the task to start", worker)
    worker.signal(signal.SIGTERM)
    until(lambda: worker.said("Warm shutdown"), "the warm shutdown", worker)
    os.kill(worker.process.pid, signal.SIGQUIT)
    worker.ended()
    assert queued(valkey) + unacked(valkey) == 1
