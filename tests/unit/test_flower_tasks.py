"""What Flower lets in of events, whoever sent them, and how it shows a task."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.flower_tasks import HIDDEN, MOST_NAMES, Names, checked, format_task

TIERS = ("nano", "mini", "flagship", "coordinator")
HOSTILE = "<script>alert(1)</script>"


def event(type_: str = "task-started", **fields: Any) -> dict[str, Any]:
    own = {
        "type": type_,
        "hostname": "nano.17@host",
        "timestamp": 1.0,
        "local_received": 1.0,
        "clock": 3,
        "uuid": "j01/a/7",
    }
    return own | fields


def names() -> Names:
    return Names(TIERS)


def test_as_many_names_as_there_is_room_for_and_their_tier_after_that() -> None:
    known = names()
    for number in range(MOST_NAMES):
        assert known.known(f"nano.kind-{number}") == f"nano.kind-{number}"
    assert known.known("mini.one-more") == "mini.other"
    assert known.known("made-up.one-more") == "other"
    assert known.known("nano.kind-3") == "nano.kind-3", "what is known stays known"


def test_a_hostile_name_takes_no_room() -> None:
    known = names()
    for number in range(3 * MOST_NAMES):
        assert known.known(f"{HOSTILE}{number}") == "other"
    assert known.known("nano.topic") == "nano.topic"


def test_what_a_worker_tells_of_a_subtask_is_let_in_whole() -> None:
    told = event(name="nano.topic", uuid="j01/a/7~2")
    assert checked(told, names()) == told | {"received": 1.0, "args": "j01/a/7"}
    result = '{"tier": "nano", "status": "ok", "tokens": 4, "cost_usd": 0.1}'
    told = event("task-succeeded", name="nano.topic", runtime=0.2, result=result)
    kept = checked(told, names())
    assert kept is not None
    assert json.loads(kept.pop("result")) == json.loads(told.pop("result"))
    assert kept == told | {"args": "j01/a/7"}


def test_content_is_not_let_in() -> None:
    told = event(
        "task-failed", name=HOSTILE, args=HOSTILE, kwargs=HOSTILE, result=HOSTILE, exception=HOSTILE, traceback=HOSTILE
    )
    kept = checked(told | {"prompt": HOSTILE}, names())
    assert kept is not None
    assert HOSTILE not in str(kept)
    assert (kept["name"], kept["args"], kept["result"], kept["exception"]) == ("other", "j01/a/7", HIDDEN, HIDDEN)


@pytest.mark.parametrize(
    "odd", [{"tier": HOSTILE}, {"status": HOSTILE}, {"tokens": HOSTILE}, {"cost_usd": "NaN"}, {"output": HOSTILE}]
)
def test_an_envelope_has_no_room_for_content(odd: dict[str, Any]) -> None:
    result = json.dumps({"tier": "nano", "status": "ok", "tokens": 4, "cost_usd": 0.1} | odd)
    kept = checked(event("task-succeeded", result=result), names())
    assert kept is not None
    assert kept["result"] == HIDDEN


def test_what_cannot_be_told_apart_is_dropped() -> None:
    for odd in (
        event("task-made-up"),
        event(uuid=HOSTILE),
        event(uuid=7),
        event(hostname=HOSTILE),
        event(timestamp="now"),
        event("worker-heartbeat", hostname="h\n"),
        {"type": "task-started"},
        {"type": [], "hostname": "h"},
    ):
        assert checked(odd, names()) is None


def test_a_workers_heartbeat_is_let_in() -> None:
    beat = event(
        "worker-heartbeat",
        active=3,
        processed=9,
        freq=2.0,
        loadavg=[0.1, 0.2, 0.3],
        sw_ident="py-celery",
        sw_ver="5.7.0",
    )
    kept = checked(beat, names())
    assert kept is not None
    assert (kept["active"], kept["loadavg"], kept["sw_ident"]) == (3, [0.1, 0.2, 0.3], "py-celery")
    assert "uuid" not in kept


json_values = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5)


@given(
    st.dictionaries(
        st.sampled_from(["type", "hostname", "uuid", "name", "args", "result", "clock", "timestamp"]), json_values
    )
)
def test_no_event_is_too_odd(odd: dict[str, Any]) -> None:
    checked(odd, names())
    checked(event() | odd, names())


def test_a_task_is_shown_with_a_sentence_of_what_came_of_it() -> None:
    result = '{"tier": "nano", "status": "ok", "tokens": 1412, "cost_usd": 0.000123}'
    shown = format_task(SimpleNamespace(args="j01/a/7", kwargs=None, result=result))
    assert shown.result == "ok on nano, 1,412 tokens, $0.000123"
    assert format_task(SimpleNamespace(args="", kwargs=None, result=None)).result is None
