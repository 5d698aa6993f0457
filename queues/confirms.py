"""Sending to RabbitMQ so that it is known to have arrived: many messages, then one wait for the broker's word on all of them.

py-amqp waits in the thread that calls it, so there is a thread that does nothing else, with the one connection it owns; who
sends goes on meanwhile. It knows bytes and queues, not what a message is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from amqp import Message
from amqp.exceptions import AMQPError
from celery import Celery
from kombu.exceptions import OperationalError

from queues.rabbit import PATIENCE_S


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message as AMQP has it."""

    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]


class NotTakenError(OperationalError):
    """RabbitMQ has not said that it has what was sent. Its text may be logged, which that of kombu's own error may not."""


class _RefusedError(Exception):
    """The broker gave messages back."""


class Confirms:
    """Sends messages of `app` to RabbitMQ, to the queues that the app knows."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="confirms")
        self._connected: _Connected | None = None

    async def send(self, queue: str, messages: Sequence[Outgoing]) -> None:
        """Send `messages`; they are on the disks of most of the broker's nodes when it returns.

        Raises:
            NotTakenError: some may not have arrived; says why.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._send, queue, messages)

    async def aclose(self) -> None:
        """Close the connection, and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    def _send(self, queue: str, messages: Sequence[Outgoing]) -> None:
        """In the thread. What was open may have broken since it was used last: that is worth one more try."""
        was_open = self._connected is not None
        try:
            self._try(queue, messages)
        except NotTakenError:
            if not was_open:
                raise
            self._try(queue, messages)

    def _try(self, queue: str, messages: Sequence[Outgoing]) -> None:
        try:
            if self._connected is None:
                self._connected = _Connected(
                    self._app.connection_for_write(transport_options={"confirm_publish": False})
                )
            self._connected.send(self._app.amqp.queues[queue], messages)
        except (AMQPError, OSError, OperationalError, _RefusedError) as error:
            self._disconnect()
            raise NotTakenError(
                f"RabbitMQ has not taken {len(messages)} messages for the queue {queue}: {str(error) or type(error).__name__}"
            ) from error

    def _disconnect(self) -> None:
        connected, self._connected = self._connected, None
        if connected is not None:
            connected.close()


class _Connected:
    """A connection with one channel in confirm mode; connects when it is first used."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._channel: Any = None
        self._declared: set[str] = set()
        #: The broker counts what is published on a channel; these are not confirmed yet.
        self._number = 0
        self._open: set[int] = set()
        self._refused = ""

    def send(self, queue: Any, messages: Sequence[Outgoing]) -> None:
        """Raises what kombu's connection does, and _RefusedError."""
        if self._channel is None:
            self._channel = self._confirming()
        if queue.name not in self._declared:
            queue(self._channel).queue_declare()
            self._declared.add(queue.name)
        for message in messages:
            self._number += 1
            self._open.add(self._number)
            written = Message(message.body, application_headers=message.headers, **message.properties)
            # Mandatory: a queue that somebody has deleted since is told of, not passed over.
            self._channel.basic_publish(written, exchange="", routing_key=queue.name, mandatory=True)
        deadline = time.monotonic() + PATIENCE_S
        while self._open:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError(
                    f"no word of it within {PATIENCE_S} s; its alarms tell whether memory or disk is full"
                )
            with contextlib.suppress(TimeoutError):
                self._connection.drain_events(timeout=left)
        if self._refused:
            raise _RefusedError(self._refused)

    def close(self) -> None:
        """Without a farewell: a broker that reads nothing would not answer it."""
        self._connection.collect()

    def _confirming(self) -> Any:
        self._connection.ensure_connection(max_retries=0)
        channel = self._connection.channel()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        channel.confirm_select()
        return channel

    def _on_ack(self, number: int, multiple: bool) -> None:
        if multiple:
            self._open = {other for other in self._open if other > number}
        else:
            self._open.discard(number)

    def _on_nack(self, number: int, multiple: bool) -> None:
        self._refused = "it says that it could not keep them"
        self._on_ack(number, multiple)

    def _on_return(self, *_: Any) -> None:
        self._refused = "the queue is gone"
