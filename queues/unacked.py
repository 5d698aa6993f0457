"""Owns what a channel has taken from its queues and not acknowledged: acks to send, and how a message goes back.

It knows kombu's record of an unacknowledged message; `transport` owns the connections.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

#: Messages taken by one script call: bounds how long the server is kept from others (about 25 µs each).
MAX_FETCH = 100
#: Messages that one sweep puts back.
MAX_RESTORE = 100


class QoS(kombu_redis.QoS):
    """What one channel has taken and not acknowledged. Acks collect here until the channel's next turn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: tag -> the queue it was taken from.
        self.home: dict[str, str] = {}
        #: queue -> tags to acknowledge in the next turn.
        self.acks: dict[str, list[str]] = {}

    def append(self, message: Any, delivery_tag: str) -> None:
        """The fetch has recorded it already."""
        self.home[delivery_tag] = self.channel.arriving
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge at the channel's next turn."""
        queue = self.home.pop(delivery_tag, None)
        if queue is not None:
            self.acks.setdefault(queue, []).append(delivery_tag)
        self._quick_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put it back as the queue's last message, or drop it."""
        if requeue:
            self.restore_by_tag(delivery_tag, leftmost=True)
            self.home.pop(delivery_tag, None)
            self._quick_ack(delivery_tag)
        else:
            self.ack(delivery_tag)

    def give_back(self, delivery_tag: str) -> None:
        """Put it back as the queue's next message."""
        self.restore_by_tag(delivery_tag)
        self.home.pop(delivery_tag, None)
        self._quick_ack(delivery_tag)

    def room(self) -> int:
        """How many more messages may be taken now."""
        if not self.can_consume():
            return 0
        most = self.can_consume_max_estimate()
        return MAX_FETCH if most is None else min(most, MAX_FETCH)

    def take_over(self, old: QoS, running: Iterable[Any]) -> None:
        """After a reconnect: `running` messages of the `old` channel go on here, and so do its unanswered acks."""
        for message in running:
            tag = message.delivery_tag
            if tag in old.home:
                self.channel.arriving = old.home.pop(tag)
                message.channel = self.channel
                self.append(message, tag)
        for queue, tags in old.acks.items():
            self.acks.setdefault(queue, []).extend(tags)
        old.acks.clear()

    def let_go(self, messages: Iterable[Any]) -> None:
        """The connection is lost but `messages` are still being worked on: closing must not put them back."""
        self._flush()
        for message in messages:
            self._delivered.pop(message.delivery_tag, None)

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:
        """Put back what other workers took and have not renewed for `visibility_timeout` seconds."""
        self._vrestore_count += 1
        if (self._vrestore_count - 1) % (interval or 1):
            return
        for queue in self.channel.active_queues:
            keys = self.channel.unacked_keys(queue)
            limit, *found = self.channel.run_script("overdue", keys, [self.visibility_timeout, num or MAX_RESTORE])
            for tag, recorded in zip(found[::2], found[1::2], strict=True):
                self._put_back(queue, bytes_to_str(tag), recorded, limit, "RPUSH")

    def restore_unacked(self, client: Any = None) -> list[Any]:
        """Put back everything this channel has taken."""
        for tag in list(self._delivered):
            self.restore_by_tag(tag)
        self._delivered.clear()
        return []

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put back one message: as the queue's next one, or (`leftmost`) as its last."""
        queue = self.home.get(tag)
        if queue is not None:
            with self.channel.conn_or_acquire(client) as connection:
                recorded = connection.hget(self.channel.unacked_keys(queue, prefix="")[0], tag)
            if recorded:
                self._put_back(queue, tag, recorded, "+inf", "LPUSH" if leftmost else "RPUSH")

    def _put_back(self, queue: str, tag: str, recorded: bytes, limit: str | bytes, end: str) -> None:
        channel = self.channel
        payload, exchange, routing_key = loads(bytes_to_str(recorded))
        payload.setdefault("headers", {})["redelivered"] = True
        payload["properties"].setdefault("delivery_info", {})["redelivered"] = True
        priority = channel._get_message_priority(payload, reverse=False)
        targets = [channel._q_for_pri(name, priority) for name in channel._lookup(exchange, routing_key, default=queue)]
        keys = [*channel.unacked_keys(queue), *(channel.global_keyprefix + target for target in targets)]
        channel.run_script("restore", keys, [tag, limit, dumps(payload), end])
