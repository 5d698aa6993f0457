"""The transport against a real Valkey, with kombu on the other side."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue

from tests.support.valkey import Valkey
from tests.support.worker import until

QUEUE = Queue("q", Exchange("e", type="direct"), routing_key="q")


def connect(valkey: Valkey, transport: str | None = "queues.transport:Transport", **options: Any) -> Connection:
    settings = {"visibility_timeout": 1, "unacked_restore_throttle": 1} | options
    return Connection(valkey.url, transport=transport, transport_options=settings)


@pytest.fixture
def ours(valkey: Valkey) -> Iterator[Connection]:
    with connect(valkey) as connection:
        yield connection


def publish(valkey: Valkey, count: int, **options: Any) -> None:
    """As any program with plain kombu does."""
    with connect(valkey, transport=None) as connection:
        producer = Producer(connection.default_channel)
        for number in range(count):
            producer.publish({"n": number}, exchange=QUEUE.exchange, routing_key="q", declare=[QUEUE], **options)


def drain(connection: Connection, messages: list[Any], count: int) -> None:
    def arrived() -> bool:
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=0.1)
        return len(messages) >= count

    until(arrived, f"{count} messages")


def test_messages_of_plain_kombu_arrive_in_order_and_are_recorded_until_acknowledged(
    valkey: Valkey, ours: Connection
) -> None:
    publish(valkey, 10)
    channel = ours.channel()
    messages: list[Any] = []
    channel.basic_qos(0, 4, False)
    with Consumer(channel, [QUEUE], on_message=messages.append), valkey.client() as client:
        drain(ours, messages, 4)
        assert [message.payload["n"] for message in messages] == [0, 1, 2, 3]
        assert (client.llen("q"), client.hlen("unacked.q"), client.zcard("unacked_index.q")) == (6, 4, 4)
        record = json.loads(client.hget("unacked.q", messages[0].delivery_tag))
        assert record[1:] == ["e", "q"]
        for message in list(messages):
            message.ack()
        drain(ours, messages, 8)
        assert client.hlen("unacked.q") == 4
    for message in messages[4:]:
        message.ack()
    channel.close()
    with valkey.client() as client:
        assert (client.llen("q"), client.hlen("unacked.q"), client.zcard("unacked_index.q")) == (2, 0, 0)


def test_a_waiting_consumer_is_woken_and_waits_in_the_server(valkey: Valkey, ours: Connection) -> None:
    channel = ours.channel()
    messages: list[Any] = []
    with Consumer(channel, [QUEUE], on_message=messages.append), valkey.client() as client:
        with pytest.raises(TimeoutError):
            ours.drain_events(timeout=0.3)
        assert {one["cmd"] for one in client.client_list() if "b" in one["flags"]} == {"blmove"}
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        with pytest.raises(TimeoutError):
            ours.drain_events(timeout=0.5)
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == calls
        publish(valkey, 1)
        drain(ours, messages, 1)
    messages[0].ack()


def test_every_priority_of_a_queue_is_served(valkey: Valkey, ours: Connection) -> None:
    channel = ours.channel()
    messages: list[Any] = []
    with Consumer(channel, [QUEUE], on_message=messages.append):
        with pytest.raises(TimeoutError):
            ours.drain_events(timeout=0.1)
        for priority in (0, 3, 9):
            publish(valkey, 2, priority=priority)
        drain(ours, messages, 6)
        for message in messages:
            message.ack()


def test_what_is_no_message_is_set_aside_and_stops_nothing(valkey: Valkey, ours: Connection) -> None:
    with valkey.client() as client:
        client.lpush("q", "not json", "[1]", '{"properties": 1}')
    publish(valkey, 1)
    messages: list[Any] = []
    with Consumer(ours.channel(), [QUEUE], on_message=messages.append), valkey.client() as client:
        drain(ours, messages, 1)
        assert client.llen("unacked.q.malformed") == 3
        messages[0].ack()


def test_a_full_server_loses_nothing(valkey: Valkey, ours: Connection) -> None:
    publish(valkey, 3)
    messages: list[Any] = []
    with valkey.client() as client, Consumer(ours.channel(), [QUEUE], on_message=messages.append):
        client.config_set("maxmemory", 1)
        try:
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    ours.drain_events(timeout=0.1)
            assert client.llen("q") + client.hlen("unacked.q") >= 3
        finally:
            client.config_set("maxmemory", 0)
        drain(ours, messages, 3)
        assert [message.payload["n"] for message in messages] == [0, 1, 2]
        for message in messages:
            message.ack()


def test_scripts_that_the_server_forgot_are_loaded_again(valkey: Valkey, ours: Connection) -> None:
    publish(valkey, 1)
    messages: list[Any] = []
    with Consumer(ours.channel(), [QUEUE], on_message=messages.append), valkey.client() as client:
        drain(ours, messages, 1)
        client.script_flush()
        messages[0].ack()
        publish(valkey, 1)
        drain(ours, messages, 2)
        messages[1].ack()

        def acknowledged() -> bool:
            drain(ours, messages, 2)
            return bool(client.hlen("unacked.q") == 0)

        until(acknowledged, "the acks")


def test_an_abandoned_message_comes_back_and_a_renewed_one_does_not(valkey: Valkey, ours: Connection) -> None:
    publish(valkey, 2)
    holder: list[Any] = []
    channel = ours.channel()
    consumer = Consumer(channel, [QUEUE], on_message=holder.append)
    consumer.consume()
    drain(ours, holder, 2)
    channel.qos.home.pop(holder[1].delivery_tag)  # as if another process had taken it, and died

    with connect(valkey) as other:
        found: list[Any] = []
        with Consumer(other.channel(), [QUEUE], on_message=found.append) as second:

            def renewed_and_returned() -> bool:
                channel.touch()
                second.channel.qos.restore_visible()
                drain(other, found, 0)
                return bool(found)

            until(renewed_and_returned, "the message to come back")
            assert [message.payload["n"] for message in found] == [1]
            assert found[0].headers["redelivered"] is True
            found[0].ack()
    holder[0].ack()


def test_rejecting_and_getting(valkey: Valkey, ours: Connection) -> None:
    publish(valkey, 2)
    queue = QUEUE(ours.channel())
    first = queue.get()
    first.reject(requeue=True)
    second = queue.get()
    assert (first.payload["n"], second.payload["n"]) == (0, 1)
    second.ack()
    assert queue.get(no_ack=True).payload["n"] == 0
    assert queue.get() is None
    queue.channel.close()
    with valkey.client() as client:
        assert client.hlen("unacked.q") == 0


def test_what_arrives_after_its_consumer_was_cancelled_goes_back(valkey: Valkey, ours: Connection) -> None:
    publish(valkey, 3)
    channel = ours.channel()
    messages: list[Any] = []
    consumer = Consumer(channel, [QUEUE], on_message=messages.append)
    consumer.consume()
    channel.turn()
    consumer.cancel()
    with contextlib.suppress(TimeoutError):
        ours.drain_events(timeout=0.2)
    with valkey.client() as client:
        assert (len(messages), client.llen("q"), client.hlen("unacked.q")) == (0, 3, 0)


def test_what_a_waiting_consumer_is_sent_after_it_was_cancelled_goes_back(valkey: Valkey, ours: Connection) -> None:
    channel = ours.channel()
    messages: list[Any] = []
    consumer = Consumer(channel, [QUEUE], on_message=messages.append)
    consumer.consume()
    with pytest.raises(TimeoutError):
        ours.drain_events(timeout=0.3)
    consumer.cancel()
    publish(valkey, 1)
    with contextlib.suppress(TimeoutError):
        ours.drain_events(timeout=0.2)
    with valkey.client() as client:
        assert (len(messages), client.llen("q"), client.hlen("unacked.q")) == (0, 1, 0)
