"""Owns what is RabbitMQ's own: what its queues are declared with, how long it is waited for, and how a worker reads from it.

A kombu transport (`broker_transport="queues.rabbit:Transport"`): kombu's own, but a channel that the broker closes is a lost
connection, which Celery makes anew; by itself Celery ends the worker over it, and all that runs there. It knows messages and
queues, not tasks.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import ChannelError, RecoverableConnectionError
from kombu.transport import pyamqp

#: Replicated, on disk, and the same for whoever declares them: RabbitMQ refuses a queue that is there with other arguments.
QUEUE_ARGUMENTS = {
    "x-queue-type": "quorum",
    # RabbitMQ 4 drops a message at its 20th delivery. Who is given up, and after how many deaths, the store decides; and a job
    # that comes as a message has nobody who would send it again.
    "x-delivery-limit": 1_000_000_000,
    # A message is acknowledged when its task ends: a call is tried for an hour, a review may take several. RabbitMQ would close
    # the channel after 30 minutes. (In milliseconds; before 3.12 only its own configuration can say so.)
    "x-consumer-timeout": 24 * 3600 * 1000,
}
#: Longest wait for an answer of RabbitMQ, and for room to write: it reads nothing from publishers while its memory or disk is
#: full. Twice this and the connecting is less than what a claim lives for, as Celery sends the body of a gate from the
#: worker's loop.
PATIENCE_S = 8
#: Seconds between heartbeats; a peer that is silent for two of them is gone.
HEARTBEAT_S = 20
#: Messages taken from a socket before others have their turn.
MOST = 100


def transport_options() -> dict[str, Any]:
    """As py-amqp takes them: every wait ends, and what was published counts when it is on the disks of most nodes."""
    return {"confirm_publish": True, "read_timeout": PATIENCE_S, "write_timeout": PATIENCE_S}


class LostError(RecoverableConnectionError):
    """RabbitMQ is lost to a worker. Its text may be logged, which that of amqp's own error may not."""


class Transport(pyamqp.Transport):
    """kombu's transport for RabbitMQ, for a worker that has to outlive its channels."""

    def on_readable(self, connection: Any, loop: Any) -> None:
        """Deliver what has arrived.

        Raises:
            LostError: the connection is broken, or the broker has closed a channel. It does so when a message is not acknowledged
                in time, for one; it then delivers all of the channel's messages again.
        """
        if not connection.connected:
            raise LostError("The connection to RabbitMQ was closed.")
        try:
            for _ in range(MOST):
                connection.drain_events(timeout=0)
        except TimeoutError:
            return
        except ChannelError as error:
            raise LostError(f"RabbitMQ closed the channel: {error}") from error
        # TLS may hold what it has read already: the socket would not tell.
        loop.call_soon(self.on_readable, connection, loop)
