"""When a call in the background is looked at, and what is believed of what is seen; time is the tests' own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fleet.errors import ProviderError, ProviderErrorKind
from fleet.providers.background import (
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    LOOK_TIMEOUT_S,
    LOOKS_TO_BELIEVE,
    EndedError,
    Follower,
    Unfinished,
)

Sight = Unfinished | str | Exception


class Scene:
    """Shows a call's sights one after the other (the last for ever) and keeps the time; a look takes no time."""

    def __init__(self, *sights: Sight, look_s: float = 0.0) -> None:
        self._sights = list(sights)
        self._look_s = look_s
        self.now = 0.0
        self.looks: list[float] = []
        self.waits: list[float] = []
        self.bounds: list[float] = []

    def follow(self, timeout_s: float) -> str:
        follower = Follower("acme", "resp_1", self._look, timeout_s, clock=lambda: self.now, sleep=self._sleep)
        return asyncio.run(follower.follow())

    def failed(self, timeout_s: float) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            self.follow(timeout_s)
        return caught.value

    async def _look(self, within_s: float) -> Unfinished | str:
        self.looks.append(self.now)
        self.bounds.append(within_s)
        self.now += min(self._look_s, within_s)
        sight = self._sights.pop(0) if len(self._sights) > 1 else self._sights[0]
        if isinstance(sight, Exception):
            raise sight
        return sight

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def error(kind: ProviderErrorKind, *, retryable: bool = True, retry_after: float | None = None) -> ProviderError:
    return ProviderError("It went wrong.", kind=kind, retryable=retryable, retry_after=retry_after)


RUNNING = Unfinished()


def test_the_waits_grow_and_are_bounded() -> None:
    scene = Scene(*[RUNNING] * 12, "done")

    assert scene.follow(600) == "done"
    assert scene.waits[:3] == [FIRST_WAIT_S, FIRST_WAIT_S * 1.5, FIRST_WAIT_S * 2.25]
    assert scene.waits[-1] == LONGEST_WAIT_S
    assert max(scene.bounds) == LOOK_TIMEOUT_S


@pytest.mark.parametrize("kind", ["server", "overloaded", "rate_limit", "timeout", "connection", "malformed"])
def test_errors_that_may_pass_are_looked_past(kind: ProviderErrorKind) -> None:
    assert Scene(RUNNING, error(kind), RUNNING, error(kind), error(kind), "done").follow(600) == "done"


def test_a_storm_of_errors_ends_with_the_time_and_is_one_call() -> None:
    scene = Scene(error("server"))

    failure = scene.failed(60)

    assert (failure.kind, failure.retryable, failure.maybe_billed) == ("unreachable", True, True)
    assert failure.request_id == "resp_1"
    assert scene.now == pytest.approx(60, abs=0.01)
    assert len(scene.looks) < 40


@pytest.mark.parametrize(
    ("sights", "kind"),
    [
        ([RUNNING, error("server"), RUNNING], "timeout"),
        ([RUNNING, RUNNING, error("connection")], "unreachable"),
    ],
)
def test_a_call_that_was_last_seen_running_is_told_from_one_that_cannot_be_asked_for(
    sights: Sequence[Sight], kind: str
) -> None:
    assert Scene(*sights).failed(60).kind == kind


def test_one_look_that_stalls_leaves_time_for_others() -> None:
    scene = Scene(error("timeout"), "done", look_s=1000)

    assert scene.follow(6) == "done"


def test_the_wait_the_vendor_asks_for_is_kept() -> None:
    assert Scene(error("rate_limit", retry_after=30), Unfinished(retry_after=20), "done").follow(600) == "done"
    scene = Scene(error("rate_limit", retry_after=30), Unfinished(retry_after=20), "done")
    scene.follow(600)
    assert scene.waits == [30, 20]


@pytest.mark.parametrize("wait", [45.0, 3600.0])
def test_there_is_a_look_shortly_before_the_deadline_whatever_the_vendor_asks_for(wait: float) -> None:
    scene = Scene(Unfinished(retry_after=wait))

    scene.failed(60)

    assert 57 <= max(scene.looks) < 60
    assert len(scene.looks) < 10


@pytest.mark.parametrize("sights", [[RUNNING], [error("connection")]])
def test_a_look_that_stalls_does_not_outlast_the_deadline(sights: Sequence[Sight]) -> None:
    scene = Scene(*sights, look_s=1000)

    scene.failed(40)

    assert scene.now == pytest.approx(40, abs=0.01)


def test_a_handle_is_unknown_only_when_it_is_said_again_and_again() -> None:
    missing = error("not_found", retryable=False)
    flicker = [missing] * (LOOKS_TO_BELIEVE - 1)
    assert Scene(*flicker, RUNNING, *flicker, error("server"), *flicker, "done").follow(600) == "done"

    failure = Scene(missing).failed(600)

    assert (failure.kind, failure.retryable, failure.maybe_billed) == ("not_found", False, True)
    assert failure.request_id == "resp_1"


def test_an_answer_that_stays_unreadable_is_malformed_before_the_deadline() -> None:
    scene = Scene(error("malformed"))

    failure = scene.failed(600)

    assert (failure.kind, failure.maybe_billed, len(scene.looks)) == ("malformed", True, LOOKS_TO_BELIEVE)


def test_a_refusal_to_be_asked_ends_it_at_once_as_a_call_that_was_sent() -> None:
    scene = Scene(RUNNING, error("auth", retryable=False))

    failure = scene.failed(600)

    assert (failure.kind, failure.retryable, failure.maybe_billed) == ("auth", False, True)
    assert len(scene.looks) == 2


def test_a_call_that_ended_badly_is_told_as_it_ended() -> None:
    ended = error("server")

    failure = Scene(RUNNING, EndedError(ended)).failed(600)

    assert failure is ended
    assert failure.__cause__ is None


def test_no_time_left_is_a_timeout_without_a_look() -> None:
    scene = Scene("done")

    assert scene.failed(-1).kind == "timeout"
    assert not scene.looks
