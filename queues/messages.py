"""Publishing wake-up messages: Celery's protocol 2, as `Celery.send_task` would write it, without what it does per message.

`send_task` looks up options, routes, declares the queue and makes a result object each time, writes out the body of the chord
for each member, and waits for the broker; here all of that is known, and the loop goes on meanwhile: the messages of a queue are
one command on Redis, and one wait of another thread on RabbitMQ. It owns the form of the message, not who gets one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.canvas import Signature

from queues.confirms import Confirms, Outgoing
from queues.link import Link
from queues.subtasks import Released

CONTENT_TYPE, CONTENT_ENCODING = "application/json", "utf-8"


@dataclass(frozen=True, slots=True)
class _Form:
    """What messages for the members of one gate have in common: headers, and the third part of their body, and as JSON."""

    headers: dict[str, Any]
    #: Without its closing brace.
    written: str
    embedded: str


@dataclass(frozen=True, slots=True)
class _Message:
    form: _Form
    body: str
    own_headers: dict[str, Any]


class Publisher:
    """Sends messages of `app` to its broker."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._delivery_mode: int = app.conf.task_default_delivery_mode
        url: str = app.conf.broker_url
        self._broker = Link.from_url(url) if url.startswith(("redis://", "rediss://")) else Confirms(app)

    async def publish(self, queue: str, subtasks: Sequence[Released], bodies: Mapping[str, Signature]) -> None:
        """Wake workers of `queue` for subtasks; each with a gate as the member of the chord that sends its body.

        Raises:
            LinkError, kombu's OperationalError: the broker does not answer; some may have been sent, and sending them again
                does no harm.
        """
        messages = self._messages(subtasks, bodies)
        if isinstance(self._broker, Confirms):
            await self._broker.send(queue, [self._outgoing(message) for message in messages])
        else:
            shared = self._properties(queue)
            await self._broker.execute("LPUSH", queue, *(_payload(message, shared) for message in messages))

    async def lengths(self, queues: Sequence[str]) -> dict[str, int]:
        """How many messages wait in each queue, where the broker is one that can be asked at no cost: Redis."""
        if isinstance(self._broker, Confirms):
            return {}
        asked = (self._broker.execute("LLEN", queue, idempotent=True) for queue in queues)
        return dict(zip(queues, await asyncio.gather(*asked), strict=True))

    async def aclose(self) -> None:
        await self._broker.aclose()

    def _messages(self, subtasks: Sequence[Released], bodies: Mapping[str, Signature]) -> list[_Message]:
        forms: dict[tuple[str, str | None], _Form] = {}
        messages = []
        for subtask in subtasks:
            kind = subtask.task, subtask.gate
            form = forms.get(kind)
            if form is None:
                form = forms[kind] = self._form(subtask, bodies[subtask.gate] if subtask.gate else None)
            own = {"id": subtask.id, "root_id": subtask.id, "argsrepr": repr((subtask.id,))}
            body = f"[[{json.dumps(subtask.id)}], {{}}, {form.embedded}]"
            messages.append(_Message(form, body, own | {"group_index": subtask.gate_index}))
        return messages

    def _form(self, subtask: Released, body: Signature | None) -> _Form:
        message = self._app.amqp.as_task_v2(
            subtask.id,
            subtask.task,
            args=(subtask.id,),
            group_id=subtask.gate,
            chord=body,
            kwargsrepr="{}",
            ignore_result=True,
        )
        own = ("id", "root_id", "argsrepr", "group_index")
        headers = {name: value for name, value in message.headers.items() if name not in own}
        return _Form(headers, json.dumps(headers).removesuffix("}"), json.dumps(message.body[2]))

    def _properties(self, queue: str) -> str:
        """Of all messages of a queue, as JSON without its closing brace."""
        properties = {
            "reply_to": "",
            "delivery_mode": self._delivery_mode,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
        }
        return json.dumps(properties).removesuffix("}")

    def _outgoing(self, message: _Message) -> Outgoing:
        """As kombu's AMQP transport sends it."""
        properties = {
            "content_type": CONTENT_TYPE,
            "content_encoding": CONTENT_ENCODING,
            "delivery_mode": self._delivery_mode,
            "correlation_id": message.own_headers["id"],
            "reply_to": "",
        }
        return Outgoing(message.body.encode(), message.form.headers | message.own_headers, properties)


def _payload(message: _Message, properties: str) -> str:
    """As kombu's virtual transports write a message into a list."""
    own = {"correlation_id": message.own_headers["id"], "delivery_tag": str(uuid.uuid4())}
    return (
        f'{{"body": "{base64.b64encode(message.body.encode()).decode()}", "content-encoding": "{CONTENT_ENCODING}", '
        f'"content-type": "{CONTENT_TYPE}", "headers": {message.form.written}, {json.dumps(message.own_headers)[1:]}, '
        f'"properties": {properties}, {json.dumps(own)[1:]}}}'
    )
