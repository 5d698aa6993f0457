"""Owns what a worker does when its broker goes away and comes back: tasks go on, and on Redis their messages stay theirs.

Celery's consumer blocks while it reconnects, and hands every unacknowledged message back at once although the tasks
still run. This one (`worker_consumer="queues.consumer:Consumer"`) runs the pool's loop and keeps those messages. RabbitMQ has
put them back by then, and delivers them again: whoever gets one finds the claim of the task that still runs. It also sends the
events of many tasks as one message.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from celery.exceptions import WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.exceptions import OperationalError

from queues.pool import AsyncioPool
from queues.unacked import QoS

logger = logging.getLogger(__name__)

#: Seconds between looks at a broker that is away.
LOOK_SECONDS = 1.0
#: What a Redis answers also whom it does not know.
PING = b"PING\r\n"
#: Task events go out together, this often or when there are so many. Celery sends them once per turn of its loop or 24 of
#: them, which costs a busy worker a tenth of its time.
EVENTS_SECONDS, EVENTS_MOST = 0.1, 300


class Consumer(CeleryConsumer):
    """Celery's consumer for AsyncioPool, and queues.transport or queues.rabbit; with other pools it is Celery's own."""

    class Blueprint(CeleryConsumer.Blueprint):
        """Celery's, without the 28 queues in which RabbitMQ would keep what has a countdown: nothing of ours has one."""

        default_steps = tuple(step for step in CeleryConsumer.Blueprint.default_steps if "delayed_delivery" not in step)

    _kept: tuple[QoS, list[Any]] | None = None

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """Celery sends its events over it, and the loop does not wait for the broker's word that it has them."""
        connection = self.app.connection_for_write(
            url=url, heartbeat=heartbeat, transport_options={"confirm_publish": False}
        )
        return self.ensure_connected(connection)

    def ensure_connected(self, conn: Any) -> Any:
        """Wait for the broker with the tasks going on, then connect as Celery does."""
        if isinstance(self.pool, AsyncioPool) and conn.hostname and "://" not in conn.hostname and not conn.alt:
            port = conn.port or conn.transport.default_connection_params["port"]
            for _ in range(self.app.conf.broker_connection_max_retries):
                on_redis = conn.transport.driver_type == "redis" and not conn.ssl
                if self.pool.run(_answers(conn.hostname, port, PING if on_redis else b""), LOOK_SECONDS) and _connected(
                    conn
                ):
                    break
                logger.warning("The broker at %s:%s cannot be reached; looking again.", conn.hostname, port)
                self.pool.run(asyncio.sleep(LOOK_SECONDS), LOOK_SECONDS)
                state.maybe_shutdown()
            else:
                logger.critical("The broker at %s:%s stays away; shutting down.", conn.hostname, port)
                raise WorkerShutdown(EX_FAILURE)
        return super().ensure_connected(conn)

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Before Celery closes the channel, take out the messages that are being worked on."""
        if isinstance(self.pool, AsyncioPool) and self.task_consumer is not None:
            self._keep_running()
        super().on_connection_error_after_connected(exc)

    def _keep_running(self) -> None:
        running = [
            request for request in tuple(state.active_requests) if request.task.acks_late and not request.acknowledged
        ]
        qos = getattr(self.task_consumer.channel, "qos", None)
        if isinstance(qos, QoS):
            messages = [request._message for request in running]
            qos.let_go(messages)
            self._kept = qos, messages
        else:
            for request in running:
                request.acknowledged = True  # It is RabbitMQ's again; on the next channel its tag is another's.

    def register_with_event_loop(self, hub: Any) -> None:
        """Called once the new channel consumes: it takes over the messages that were kept."""
        super().register_with_event_loop(hub)
        self.event_dispatcher.buffer_limit = EVENTS_MOST
        hub.call_repeatedly(EVENTS_SECONDS, self._flush_events)
        kept, self._kept = self._kept, None
        if kept is not None:
            self.task_consumer.channel.qos.take_over(*kept)

    def on_send_event_buffered(self) -> None:
        """A task event waits for the next flush; while the worker stops there may be none."""
        if state.should_stop is not None:
            super().on_send_event_buffered()

    def stop(self) -> None:
        """Send the events that wait, then stop as Celery does."""
        self._flush_events()
        super().stop()


def _connected(conn: Any) -> bool:
    """Connect, without the pauses in which Celery would stop the loop; what cannot pass is raised."""
    try:
        conn.ensure_connection(max_retries=0)
    except OperationalError as error:
        # kombu's error has the words of the one that it stands for, and the logs know whose words may be told by its type.
        logger.warning("The broker does not let us in yet: %s", error.__cause__ or error)
        return False
    return True


async def _answers(host: str, port: int, question: bytes) -> bool:
    """Whether somebody is there, and says anything to that question: a server that hangs is connected to all the same."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    try:
        writer.write(question)
        return not question or bool(await reader.read(1))
    except OSError:
        return False
    finally:
        writer.close()
