"""Owns what a tier is to the queues: a name, a queue, its limits and its pace. It is data: users make as many as they like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an account allows as far as it is configured; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    in_flight: int | None = None
    #: Begin slowly and find out.
    find_out: bool = False

    def arguments(self) -> tuple[int, int, int, int]:
        """As scripts take them, 0 for no limit: requests/min, tokens/min, in flight, and whether to find out."""
        return (self.requests_per_minute or 0, self.tokens_per_minute or 0, self.in_flight or 0, int(self.find_out))


@dataclass(frozen=True, slots=True)
class Pace:
    """The account that a tier's work waits for: nothing leaves the backlog that could not start soon."""

    account: str
    allowance: Allowance
    #: All tiers whose work starts on this account.
    tiers: tuple[str, ...]
    #: Whether the work goes elsewhere while the account's vendor has an outage.
    elsewhere: bool = False

    def arguments(self) -> tuple[tuple[str | int, ...], tuple[str | int, ...]]:
        """As queues/lua/release.lua takes them: the account with its limits, and the rest."""
        return (self.account, *self.allowance.arguments()), (int(self.elsewhere), *self.tiers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A named lane of work."""

    #: In logs, metrics and configuration.
    name: str
    #: The broker queue that its workers consume.
    queue: str
    #: Tasks that one worker process has in flight.
    concurrency: int = 100
    #: Seconds after which a task gets SoftTimeLimitExceeded and may clean up; None: never.
    soft_time_limit: float | None = None
    #: Seconds after which a task is ended and failed; None: never.
    time_limit: float | None = None
    #: What its work waits for before it leaves the backlog; None: for a worker only.
    pace: Pace | None = None

    def worker_arguments(self) -> list[str]:
        """The arguments of `celery -A app worker` that make a worker serve this tier."""
        arguments = ["-Q", self.queue, "-c", str(self.concurrency)]
        if self.soft_time_limit is not None:
            arguments += ["--soft-time-limit", str(self.soft_time_limit)]
        if self.time_limit is not None:
            arguments += ["--time-limit", str(self.time_limit)]
        return arguments
