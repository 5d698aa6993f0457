"""Owns what a tier is to the queues: a name, a queue and its limits. It is data: users make as many as they like."""

from __future__ import annotations

from dataclasses import dataclass


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

    def worker_arguments(self) -> list[str]:
        """The arguments of `celery -A app worker` that make a worker serve this tier."""
        arguments = ["-Q", self.queue, "-c", str(self.concurrency)]
        if self.soft_time_limit is not None:
            arguments += ["--soft-time-limit", str(self.soft_time_limit)]
        if self.time_limit is not None:
            arguments += ["--time-limit", str(self.time_limit)]
        return arguments
