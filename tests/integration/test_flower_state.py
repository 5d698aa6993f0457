"""What Flower has seen: bounded, kept over a kill in the middle of writing it, and put aside when it cannot be read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import create_signed_value

from fleet.flower_memory import Memory
from fleet.flower_server import MOST_WAITING, Feed, signed_in
from fleet.flower_tasks import MOST_NAMES, Names
from queues.app import QueueSettings, build_app

ROOT = Path(__file__).resolve().parents[2]
TASKS, MOST_TASKS = 400, 500
#: Keeps writing what it has seen, and says so each time.
WRITER = """
import sys
from pathlib import Path
from tests.integration.test_flower_state import TASKS, event, memory
kept = memory()
for number in range(TASKS):
    kept.event(event(number))
while True:
    kept.write(Path(sys.argv[1]))
    print("written", flush=True)
"""


class Loop:
    """An IOLoop that only collects what it is given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def add_callback(self, call: Any) -> None:
        self.given.append(call)


def memory() -> Memory:
    return Memory(Names(("nano",)), max_tasks=MOST_TASKS, max_workers=100)


def event(number: int, type_: str = "task-started", **fields: Any) -> dict[str, Any]:
    told = {"type": type_, "hostname": "nano.1@host", "uuid": f"j01/a/{number}", "name": f"nano.kind-{number}"}
    return told | {"args": f"j01/a/{number}", "timestamp": 5.0, "local_received": time.time(), "clock": number} | fields


def test_a_kill_in_the_middle_of_writing_costs_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    writer = [sys.executable, "-c", WRITER, str(path)]
    for count in (1, 9):
        with subprocess.Popen(
            writer, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
        ) as process:
            assert process.stdout is not None
            for _ in range(count):
                assert process.stdout.readline() == b"written\n"
            process.send_signal(signal.SIGKILL)  # somewhere in the next
        kept = memory()
        kept.read(path)
        assert len(kept.tasks) == TASKS
        assert list(tmp_path.iterdir()) == [path], "what the kill left is gone"


def test_what_is_read_is_what_was_seen(tmp_path: Path) -> None:
    seen, result = memory(), '{"tier": "nano", "status": "ok", "tokens": 4, "cost_usd": 0.1}'
    seen.event(event(1))
    seen.event(event(1, "task-succeeded", result=result, runtime=0.25))
    seen.event(event(2))
    seen.event(event(2, "task-failed", exception="budget"))
    seen.event(event(3))
    seen.write(tmp_path / "seen.json")
    kept = memory()
    kept.read(tmp_path / "seen.json")
    for uuid, task in seen.tasks.items():
        assert kept.tasks[uuid].as_dict() | {"worker": ""} == task.as_dict() | {"worker": ""}
        assert kept.tasks[uuid].worker.hostname == "nano.1@host"
    assert kept.counter == seen.counter
    assert kept.task_types() == seen.task_types()
    assert [uuid for uuid, _ in kept.tasks_by_time()] == [uuid for uuid, _ in seen.tasks_by_time()]
    kept.event(event(3, "task-succeeded", result=result))
    assert kept.tasks["j01/a/3"].state == "SUCCESS", "it goes on from there"


@pytest.mark.parametrize("broken", [b"", b"\0" * 100, b"[]", b'{"tasks": [{"no": 1}], "counter": {}}', b'{"tasks": 7}'])
def test_what_cannot_be_read_is_put_aside(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "seen.json"
    path.write_bytes(broken)
    kept = memory()
    kept.read(path)
    assert len(kept.tasks) == 0
    assert path.with_suffix(".corrupt").read_bytes() == broken
    kept.write(path)


def test_what_was_seen_is_bounded_and_names_are_few() -> None:
    seen = memory()
    for number in range(3 * MOST_TASKS):
        seen.event(event(number))
    assert len(seen.tasks) == MOST_TASKS
    assert len(seen.task_types()) == MOST_NAMES + 1
    assert "nano.other" in seen.task_types()
    assert seen.counter["nano.1@host"]["task-received"] == 3 * MOST_TASKS, "a start stands for the arrival"
    assert seen.tasks[f"j01/a/{3 * MOST_TASKS - 1}"].received == 5.0


def test_nothing_is_prefetched_where_a_start_stands_for_the_arrival() -> None:
    seen = memory()
    seen.event(event(1, hostname="nano.7@host", name="nano.topic"))
    gauge = seen.metrics.number_of_prefetched_tasks.labels("nano.7@host", "nano.topic")
    assert gauge._value.get() == 0


@pytest.mark.parametrize(
    ("let_in", "secret", "known"),
    [
        (".*@example.com", "secret", True),
        ("ops@example.com", "secret", True),
        ("", "secret", False),
        ("dev@example.com", "secret", False),
        (".*@example.com", "another", False),
    ],
)
def test_a_cookie_of_flowers_own_opens_the_door(let_in: str, secret: str, known: bool) -> None:
    cookie = create_signed_value("secret", "user", "ops@example.com").decode()
    asked = RequestStartLine("GET", "/metrics", "HTTP/1.1")
    request = HTTPServerRequest(start_line=asked, headers=HTTPHeaders({"Host": "here", "Cookie": f'user="{cookie}"'}))
    assert signed_in(request, let_in, secret) is known
    forged = HTTPServerRequest(
        start_line=asked, headers=HTTPHeaders({"Host": "here", "Cookie": "user=ops@example.com"})
    )
    assert not signed_in(forged, let_in, secret)


def test_what_nothing_can_be_made_of_is_dropped() -> None:
    seen = memory()
    seen.event(event(1, uuid="<b>"))
    seen.event(event(1, hostname="<b>"))
    assert not seen.tasks
    assert not seen.workers


def test_events_that_nobody_has_time_for_do_not_pile_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = build_app(QueueSettings(broker_url="redis://127.0.0.1:9", store_url="redis://127.0.0.1:9"), [])
    feed = Feed(app, Loop(), memory(), tmp_path / "seen.json")
    for number in range(MOST_WAITING + 7):
        feed.on_event({"type": "task-started", "number": number})
    assert len(feed.io_loop.given) == MOST_WAITING
    for call in feed.io_loop.given:
        call()
    assert any("7 events were dropped" in record.message for record in caplog.records)
    feed.on_event(event(1))
    assert len(feed.io_loop.given) == MOST_WAITING + 1, "and after that they are taken in again"
