"""What the publisher puts into a queue is what kombu puts there, and more than one broker takes it."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from celery import Celery

from queues.app import QueueSettings, build_app
from queues.messages import Publisher
from queues.subtasks import Released
from queues.tiers import Tier
from tests.support.valkey import Valkey

MEMBERS = [Released(f'j/"odd" näme/{number}', "fleet.run_subtask.v1", "j/shard.1.0.0", number) for number in range(3)]
LONE = Released("j/plan.1", "fleet.plan_job.v1", None, None)


def app_on(valkey: Valkey) -> Celery:
    return build_app(QueueSettings(broker_url=valkey.url, store_url=valkey.url), [Tier(name="nano", queue="nano")])


def taken(valkey: Valkey) -> list[dict[str, Any]]:
    """The messages of the queue, oldest first, their bodies read, without what is different in each."""
    with valkey.client() as client:
        messages = [json.loads(raw) for raw in reversed(client.lrange("nano", 0, -1))]
        client.delete("nano")
    for message in messages:
        message["body"] = json.loads(base64.b64decode(message["body"]))
        assert message["properties"].pop("delivery_tag")
    return messages


def test_a_message_is_as_celery_and_kombu_write_it(valkey: Valkey) -> None:
    app = app_on(valkey)
    gather = app.signature("fleet.close_shard.v1", args=("j/shard.1.0.0",), queue="nano", task_id="j/shard.1.0.0")
    bodies = {"j/shard.1.0.0": gather}

    async def ours(publisher: Publisher) -> None:
        await publisher.publish("nano", [*MEMBERS, LONE], bodies)
        await publisher.aclose()

    asyncio.run(ours(Publisher(app)))
    sent = taken(valkey)
    for subtask in (*MEMBERS, LONE):
        message = app.amqp.as_task_v2(
            subtask.id,
            subtask.task,
            args=(subtask.id,),
            kwargsrepr="{}",
            group_id=subtask.gate,
            group_index=subtask.gate_index,
            chord=bodies[subtask.gate] if subtask.gate else None,
            ignore_result=True,
        )
        with app.producer_or_acquire() as producer:
            app.amqp.send_task_message(producer, subtask.task, message, queue="nano")
    assert sent == taken(valkey)


def test_a_broker_that_does_not_know_the_queue_yet_delivers_it_to_a_consumer(valkey: Valkey) -> None:
    app = app_on(valkey)

    async def send() -> None:
        publisher = Publisher(app)
        await publisher.publish("nano", [LONE], {})
        await publisher.aclose()

    asyncio.run(send())
    with app.connection_for_read() as connection:
        message = app.amqp.queues["nano"](connection.default_channel).get()
        assert message is not None
        assert message.headers["id"] == LONE.id
        assert message.payload[0] == [LONE.id]
        message.ack()
