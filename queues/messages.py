"""Publishing wake-up messages: Celery's protocol 2, as `Celery.send_task` would write it, without what it does per message.

`send_task` looks up options, routes, declares the queue and makes a result object each time, writes out the body of the chord
for each member, and waits for the broker; here all of that is known, and on Redis nobody waits: the messages of a queue go out
as one command while the loop goes on. It owns the form of the message, not who gets one.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.canvas import Signature

from queues.link import Link
from queues.subtasks import Released

CONTENT_TYPE, CONTENT_ENCODING = "application/json", "utf-8"


@dataclass(frozen=True, slots=True)
class _Message:
    body: str
    headers: dict[str, Any]
    properties: dict[str, Any]


class Publisher:
    """Sends messages of `app` to its broker."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._policy: dict[str, Any] = app.conf.task_publish_retry_policy
        self._delivery_mode: int = app.conf.task_default_delivery_mode
        url: str = app.conf.broker_url
        self._link = Link.from_url(url) if url.startswith(("redis://", "rediss://")) else None

    async def publish(self, queue: str, subtasks: Sequence[Released], bodies: Mapping[str, Signature]) -> None:
        """Wake workers of `queue` for subtasks; each with a gate as the member of the chord that sends its body.

        Raises:
            LinkError, kombu's OperationalError: the broker does not answer; some may have been sent, and sending them again
                does no harm.
        """
        messages = self._messages(subtasks, bodies)
        if self._link is None:
            self._publish_with_kombu(queue, messages)
        else:
            payloads = [json.dumps(self._payload(queue, message)) for message in messages]
            await self._link.execute("LPUSH", queue, *payloads)

    async def aclose(self) -> None:
        if self._link is not None:
            await self._link.aclose()

    def _messages(self, subtasks: Sequence[Released], bodies: Mapping[str, Signature]) -> list[_Message]:
        forms: dict[tuple[str, str | None], tuple[dict[str, Any], str]] = {}
        messages = []
        for subtask in subtasks:
            kind = subtask.task, subtask.gate
            if kind not in forms:
                forms[kind] = self._form(subtask, bodies[subtask.gate] if subtask.gate else None)
            headers, embedded = forms[kind]
            own = {"id": subtask.id, "root_id": subtask.id, "argsrepr": repr((subtask.id,))}
            messages.append(
                _Message(
                    f"[[{json.dumps(subtask.id)}], {{}}, {embedded}]",
                    headers | own | {"group_index": subtask.gate_index},
                    {"correlation_id": subtask.id, "reply_to": ""},
                )
            )
        return messages

    def _form(self, subtask: Released, body: Signature | None) -> tuple[dict[str, Any], str]:
        """What messages for the members of one gate have in common: headers, and the third part of their body as JSON."""
        message = self._app.amqp.as_task_v2(
            subtask.id,
            subtask.task,
            args=(subtask.id,),
            group_id=subtask.gate,
            chord=body,
            kwargsrepr="{}",
            ignore_result=True,
        )
        return message.headers, json.dumps(message.body[2])

    def _payload(self, queue: str, message: _Message) -> dict[str, Any]:
        """As kombu's virtual transports write a message into a list."""
        return {
            "body": base64.b64encode(message.body.encode()).decode(),
            "content-encoding": CONTENT_ENCODING,
            "content-type": CONTENT_TYPE,
            "headers": message.headers,
            "properties": {
                **message.properties,
                "delivery_mode": self._delivery_mode,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }

    def _publish_with_kombu(self, queue: str, messages: Sequence[_Message]) -> None:
        with self._app.producer_or_acquire() as producer:
            producer.maybe_declare(self._app.amqp.queues[queue], retry=True, **self._policy)

            def send() -> None:
                for message in messages:
                    producer.publish(
                        message.body,
                        exchange="",
                        routing_key=queue,
                        content_type=CONTENT_TYPE,
                        content_encoding=CONTENT_ENCODING,
                        delivery_mode=self._delivery_mode,
                        headers=message.headers,
                        retry=False,
                        **message.properties,
                    )

            producer.connection.ensure(producer, send, **self._policy)()
