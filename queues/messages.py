"""Publishing wake-up messages: Celery's protocol 2, as `Celery.send_task` would write it, without what it does per message.

`send_task` looks up options, routes, declares the queue and makes a result object each time; here all of that is known. It
owns the form of the message, not who gets one.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.canvas import Signature
from kombu import Producer

from queues.subtasks import Released


def declare(app: Celery, producer: Producer, queue: str) -> None:
    """Make sure that `queue` is there: once for all the messages that follow."""
    policy: dict[str, Any] = app.conf.task_publish_retry_policy
    producer.maybe_declare(app.amqp.queues[queue], retry=True, **policy)


def publish(app: Celery, producer: Producer, queue: str, subtask: Released, body: Signature | None) -> None:
    """Wake a worker of `queue` for `subtask`; with a `body`, as the member of the chord that sends it."""
    args = (subtask.id,)
    message = app.amqp.as_task_v2(
        subtask.id,
        subtask.task,
        args=args,
        group_id=subtask.gate,
        group_index=subtask.gate_index,
        chord=body,
        argsrepr=repr(args),
        kwargsrepr="{}",
        ignore_result=True,
    )
    app.amqp.send_task_message(producer, subtask.task, message, queue=queue, declare=[])
