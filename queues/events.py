"""Owns what becomes of a worker's events when the broker does not take them: they wait their turn, and the worker does not.

Celery publishes events from the worker's loop, and a heartbeat until it is sent: a broker that hangs would stop the whole
process. It knows events as Celery's dispatcher does, and nothing of who reads them.
"""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic
from typing import Any

from celery.events.dispatcher import EventDispatcher

logger = logging.getLogger(__name__)

#: Seconds for which nothing is sent after the broker did not take an event: waiting for it stops the loop for a second or two.
REST_SECONDS = 10.0
#: Messages that are kept for a broker that is away, each with the events of a tenth of a second; the oldest go first.
MOST_KEPT = 100


class Dispatcher(EventDispatcher):
    """Celery's, which tries once, keeps what was not taken, and leaves the broker alone for a while."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffer_while_offline = False  # in Celery's buffer, which grows for ever
        self._outbound_buffer: deque[tuple[Any, str]] = deque(maxlen=MOST_KEPT)
        self._rest_until = 0.0

    def _publish(self, event: Any, producer: Any, routing_key: str, *_: Any, **__: Any) -> None:
        """What is said of retries is not heard, but for the one that a broken connection to RabbitMQ takes."""
        if monotonic() >= self._rest_until:
            on_rabbit = self.connection.transport.driver_type == "amqp"
            policy = self.app.conf.task_publish_retry_policy
            try:
                super()._publish(event, producer, routing_key, retry=on_rabbit, retry_policy=policy)
            except Exception as error:
                logger.warning("The broker takes no events (%s); none for %.0f s.", type(error).__name__, REST_SECONDS)
                self._rest_until = monotonic() + REST_SECONDS
            else:
                return
        if routing_key != "worker.heartbeat":  # that one is told again in two seconds
            self._outbound_buffer.append((event, routing_key))
