"""The vendor's limits: a strict sliding minute, on a clock the test holds."""

from __future__ import annotations

from fleet.config import Limits
from fleet.sim.window import BUSY_RETRY_S, Refused, SlidingMinute


def test_requests_come_back_a_minute_after_each_was_let_in() -> None:
    window = SlidingMinute(Limits(requests_per_minute=2))
    assert window.enter(1, 0.0) is None
    assert window.enter(1, 10.0) is None
    assert window.enter(1, 30.0) == Refused("requests", 30.0)
    assert window.enter(1, 59.9) == Refused("requests", 60.0 - 59.9)
    assert window.enter(1, 60.0) is None
    assert window.enter(1, 60.0) == Refused("requests", 10.0)


def test_tokens_wait_until_enough_have_left() -> None:
    window = SlidingMinute(Limits(tokens_per_minute=100))
    assert window.enter(40, 0.0) is None
    assert window.enter(40, 10.0) is None
    assert window.enter(30, 20.0) == Refused("tokens", 40.0)
    assert window.enter(70, 20.0) == Refused("tokens", 50.0)
    assert window.enter(101, 20.0) == Refused("tokens", 60.0)
    assert window.enter(20, 20.0) is None


def test_places_in_flight_are_given_back() -> None:
    window = SlidingMinute(Limits(in_flight=1))
    assert window.enter(1, 0.0) is None
    assert window.enter(1, 0.0) == Refused("in_flight", BUSY_RETRY_S)
    window.leave()
    assert window.enter(1, 0.0) is None


def test_headers_say_what_is_left() -> None:
    window = SlidingMinute(Limits(requests_per_minute=5, tokens_per_minute=1000))
    window.enter(300, 0.0)
    assert window.headers(1.5) == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "4",
        "x-ratelimit-reset-requests": "58.5s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "700",
        "x-ratelimit-reset-tokens": "58.5s",
    }
    assert window.headers(60.0)["x-ratelimit-remaining-tokens"] == "1000"
    assert window.headers(60.0)["x-ratelimit-reset-tokens"] == "0ms"
    assert SlidingMinute(Limits()).headers(0.0) == {}
