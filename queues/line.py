"""Owns a connection on which a channel sends without waiting and reads its replies when they arrive, in order.

It knows kombu's poller and redis-py's connections, not what is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

#: Seconds for which the server holds a waiting call before it answers that there is nothing.
WAIT_SECONDS = 10
#: Seconds after which an unanswered line is a broken one.
OVERDUE_SECONDS = 30


class Line:
    """One connection of `channel`, registered with its poller as `kind`."""

    def __init__(self, channel: Any, kind: str) -> None:
        """Connect. Raises redis.exceptions.ConnectionError."""
        self.connection = channel.async_pool.get_connection()
        self._pool = channel.async_pool
        self._expected: deque[Any] = deque()
        self._sent_at = 0.0
        # kombu's poller reads `.connection` of what it is given, and forgets it when that disconnects.
        channel.connection.cycle._register(channel, self, kind)

    @property
    def open(self) -> bool:
        """Whether the connection is still there."""
        return self.connection._sock is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is unanswered."""
        return not self._expected

    def send(self, sends: Sequence[tuple[Any, bytes]]) -> None:
        """Send commands in one write; `receive` gives each one's purpose (the first of the pair) with its reply."""
        if sends:
            if not self._expected:
                self._sent_at = monotonic()
            self._expected.extend(purpose for purpose, _ in sends)
            self.connection.send_packed_command([b"".join([packed for _, packed in sends])], check_health=False)

    def receive(self, everything: bool = False) -> Iterator[tuple[Any, Any]]:
        """The replies that have arrived (all that are due if `everything`); an error reply is given, not raised."""
        while self._expected:
            try:
                reply = self.connection.read_response(disconnect_on_error=False)
            except ResponseError as error:
                reply = error
            except (OSError, RedisConnectionError, RedisTimeoutError):
                self.connection.disconnect()
                raise
            self._sent_at = monotonic()
            yield self._expected.popleft(), reply
            if not everything and not self.connection.can_read(timeout=0):
                return

    def check_overdue(self) -> None:
        """Raise ConnectionError if an answer is overdue: the other end is gone and nobody told us."""
        if self._expected and monotonic() - self._sent_at > OVERDUE_SECONDS:
            self.connection.disconnect()
            raise RedisConnectionError(f"The broker has not answered for {OVERDUE_SECONDS} s; reconnecting.")

    def unanswered(self) -> list[Any]:
        """The purposes of what was sent and not answered."""
        return list(self._expected)

    def close(self) -> None:
        """Disconnect."""
        self.connection.disconnect()
        self._pool.release(self.connection)
