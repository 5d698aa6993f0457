"""A vendor's limits on one model: a strict sliding minute of requests and tokens, and calls in flight.

Time is given by the caller, so that tests need no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from fleet.config import Limits

WINDOW_S = 60.0
#: What the client is told to wait when all places in flight are taken: nobody knows when one frees up.
BUSY_RETRY_S = 0.25


@dataclass(frozen=True, slots=True)
class Refused:
    """A call over a limit: which one, and the seconds until it would fit."""

    limit: Literal["requests", "tokens", "in_flight"]
    retry_after_s: float


class SlidingMinute:
    """Counts what was let in during the last 60 s; a refused call counts for nothing."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self._entries: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def enter(self, tokens: int, now: float) -> Refused | None:
        """Lets a call of so many tokens in (`None`), or says what it would break. Pair each entry with `leave`."""
        self._expire(now)
        requests, per_minute, places = (
            self.limits.requests_per_minute,
            self.limits.tokens_per_minute,
            self.limits.in_flight,
        )
        if requests is not None and len(self._entries) >= requests:
            return Refused("requests", self._entries[0][0] + WINDOW_S - now)
        if per_minute is not None and self._tokens + tokens > per_minute:
            return Refused("tokens", self._until_free(tokens - (per_minute - self._tokens), now))
        if places is not None and self.in_flight >= places:
            return Refused("in_flight", BUSY_RETRY_S)
        self._entries.append((now, tokens))
        self._tokens += tokens
        self.in_flight += 1
        return None

    def leave(self) -> None:
        self.in_flight -= 1

    def headers(self, now: float) -> dict[str, str]:
        """The `x-ratelimit-*` headers: limit, what is left, and the time until all of it is back."""
        self._expire(now)
        reset = _duration(self._entries[-1][0] + WINDOW_S - now if self._entries else 0)
        headers: dict[str, str] = {}
        for name, limit, used in (
            ("requests", self.limits.requests_per_minute, len(self._entries)),
            ("tokens", self.limits.tokens_per_minute, self._tokens),
        ):
            if limit is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, limit - used))
                headers[f"x-ratelimit-reset-{name}"] = reset
        return headers

    def _expire(self, now: float) -> None:
        while self._entries and self._entries[0][0] <= now - WINDOW_S:
            self._tokens -= self._entries.popleft()[1]

    def _until_free(self, missing: int, now: float) -> float:
        for at, tokens in self._entries:
            missing -= tokens
            if missing <= 0:
                return at + WINDOW_S - now
        # It asks for more than a whole minute has.
        return WINDOW_S


def _duration(seconds: float) -> str:
    """As the vendor writes durations: `12ms`, `1.5s`, `1m0s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{seconds // 60:.0f}m{seconds % 60:.0f}s"
