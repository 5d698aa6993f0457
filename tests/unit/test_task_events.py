"""What a worker tells of its work, and what a hostile kind can make of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.task_events import KIND_LENGTH, TaskEvents, name_of
from queues.subtasks import Claim

SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def claim(claims: int = 1) -> Claim:
    return Claim("j01/classify/7", "nano", 5, "payload-canary", "trail-canary", 0, claims)


class Told:
    """What was told, in order."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, type_: str, **fields: object) -> None:
        self.events.append({"type": type_} | fields)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ticket-topic", "nano.ticket-topic"),
        ("<script>alert(1)</script>", "nano.script-alert-1-script"),
        ('a"} 1\nflower_fake{b="', "nano.a-1-flower_fake-b"),
        ("\x1b[31mred\u202e", "nano.31mred"),
        ("тема", "nano.other"),
        ("", "nano.other"),
        ("a.b c", "nano.a-b-c"),
    ],
)
def test_a_name_says_tier_and_kind(kind: str, name: str) -> None:
    assert name_of("nano", kind) == name


@given(st.text())
def test_a_name_is_short_and_plain_whatever_the_kind(kind: str) -> None:
    tier, _, shown = name_of("nano", kind).partition(".")
    assert tier == "nano"
    assert 0 < len(shown) <= KIND_LENGTH
    assert set(shown) <= SAFE


def test_a_subtask_is_told_when_it_begins_and_when_it_ends() -> None:
    events, told = TaskEvents(), Told()
    events.tell = told

    async def work() -> None:
        async with events.told(claim()):
            events.begun(claim(), "topic")
            events.ended(claim(), "ok", tokens=412, cost_nano_usd=123_000)

    asyncio.run(work())
    begun, ended = told.events
    assert begun == {"type": "task-started", "uuid": "j01/classify/7", "name": "nano.topic"}
    assert (ended["type"], ended["uuid"], ended["name"]) == ("task-succeeded", "j01/classify/7", "nano.topic")
    assert json.loads(ended["result"]) == {"tier": "nano", "status": "ok", "tokens": 412, "cost_usd": 0.000123}
    assert "canary" not in json.dumps(told.events)


def test_what_failed_is_told_with_the_kind_of_its_error_alone() -> None:
    events, told = TaskEvents(), Told()
    events.tell = told

    async def work() -> None:
        async with events.told(claim()):
            events.begun(claim(), "topic")
            events.ended(claim(), "failed", error_kind="budget")

    asyncio.run(work())
    assert (told.events[1]["type"], told.events[1]["exception"]) == ("task-failed", "budget")


def test_what_was_handed_on_is_told_and_the_next_claim_is_told_apart() -> None:
    events, told = TaskEvents(), Told()
    events.tell = told

    async def work(claims: int, *, raises: bool) -> None:
        async with events.told(claim(claims)):
            events.begun(claim(claims), "topic")
            if raises:
                raise ValueError("answer-canary")
            events.ended(claim(claims), "ok")

    with pytest.raises(ValueError, match="answer-canary"):
        asyncio.run(work(1, raises=True))
    asyncio.run(work(2, raises=False))
    assert [event["type"] for event in told.events] == [
        "task-started",
        "task-retried",
        "task-started",
        "task-succeeded",
    ]
    assert [event["uuid"] for event in told.events[1:3]] == ["j01/classify/7", "j01/classify/7~2"]
    assert "canary" not in json.dumps(told.events)


def test_what_never_began_is_not_told() -> None:
    events, told = TaskEvents(), Told()
    events.tell = told

    async def work() -> None:
        async with events.told(claim()):
            events.ended(claim(), "failed")

    asyncio.run(work())
    assert told.events == []


def test_events_that_cannot_be_sent_cost_no_work(caplog: pytest.LogCaptureFixture) -> None:
    events = TaskEvents()

    def broken(type_: str, **fields: object) -> None:
        raise ConnectionError("no broker")

    events.tell = broken
    for _ in range(3):
        events.begun(claim(), "topic")
        events.ended(claim(), "ok")
    assert len([record for record in caplog.records if "Flower misses some" in record.message]) == 1
