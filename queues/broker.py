"""What a broker shows whoever looks after it: whether it lets us in, takes messages, and has our queues as we declare them.

It changes nothing there. It knows queues by their names, and nothing of what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amqp import Message
from amqp.exceptions import AccessRefused, AMQPError, NotFound, PreconditionFailed
from celery import Celery
from kombu.exceptions import OperationalError

#: A queue that nobody has: what is sent there is dropped, once it was taken.
NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that was looked at. Where it is not `ok`, the text says what to do."""

    ok: bool
    text: str


def look(app: Celery, queues: Sequence[str], timeout_s: float) -> list[Seen]:
    """What is to be said of the broker of `app` and of those queues of it; blocks, for some times `timeout_s` at most."""
    connection = app.connection_for_write(connect_timeout=timeout_s)
    try:
        connection.ensure_connection(max_retries=0)
        if connection.transport.driver_type != "amqp":
            return [Seen(True, "answers")]
        waiting = [_queue(app, connection, name) for name in queues]
        version = connection.connection.server_properties.get("version", "of an unknown version")
        taken = _takes(app, connection, timeout_s)
    except AccessRefused:
        return [Seen(False, "RabbitMQ refuses the user or the password; check both in its URL")]
    except AMQPError as error:
        return [
            Seen(
                False, f"RabbitMQ does not let us in: {error}; check the virtual host in its URL, and the user's rights"
            )
        ]
    except (OSError, OperationalError) as error:
        return [Seen(False, f"does not answer ({type(error).__name__}); check its URL and that it runs")]
    finally:
        connection.collect()
    if taken is not None:
        return [taken]
    there = "; ".join(seen.text for seen in waiting if seen.ok)
    return [Seen(True, f"RabbitMQ {version}: {there}"), *(seen for seen in waiting if not seen.ok)]


def _queue(app: Celery, connection: Any, name: str) -> Seen:
    """How a queue stands. Declaring one that is there changes nothing, but tells whether it is as it should be."""
    try:
        queue = app.amqp.queues[name](connection.channel())
        standing = queue.queue_declare(passive=True)
        queue.queue_declare()
    except NotFound:
        return Seen(True, f"{name} is not there yet, its first worker makes it")
    except PreconditionFailed as error:
        return Seen(
            False,
            f"the queue {name} is there, but not as a fleet declares it ({error.reply_text}); use a virtual host of its "
            "own for the fleet, or stop it and delete the queue: what it would lose is sent again",
        )
    except AccessRefused as error:
        return Seen(False, f"the user may not use the queue {name}: {error.reply_text}")
    return Seen(True, f"{name} has {standing.message_count} waiting, {standing.consumer_count} consumers")


def _takes(app: Celery, connection: Any, timeout_s: float) -> Seen | None:
    """What keeps the broker from taking messages, if anything does."""
    try:
        channel = connection.channel()
        for _ in range(2):  # It stops reading a connection once it has read a message there.
            channel.basic_publish(
                Message(b""), exchange="", routing_key=f"{app.main}.{NOWHERE}", confirm_timeout=timeout_s
            )
    except TimeoutError:
        return Seen(
            False, "RabbitMQ takes no messages; its memory or its disk is full: `rabbitmq-diagnostics alarms` tells"
        )
    except AccessRefused as error:
        return Seen(False, f"the user may not send messages: {error.reply_text}")
    return None
