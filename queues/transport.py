"""Owns consuming from Redis without losing or copying work: atomic fetches of many, acks in batches, renewed visibility.

A kombu transport (`broker_transport="queues.transport:Transport"`). What is in Redis keeps kombu's format, so plain kombu
producers and Flower interoperate; the unacknowledged messages of each queue have keys of their own
(`unacked.<queue>`, `unacked_index.<queue>`). It knows messages and queues, not tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from queue import Empty
from time import monotonic
from typing import Any

import hiredis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import NoScriptError

from queues.line import WAIT_SECONDS, Line
from queues.scripts import load

logger = logging.getLogger(__name__)

#: Messages taken by one script call: bounds how long the server is kept from others (about 25 µs each).
MAX_FETCH = 100
#: Tags acknowledged or renewed by one script call (Lua's unpack ends at some thousands).
MAX_TAGS = 500
#: Messages that one sweep puts back.
MAX_RESTORE = 100
#: Seconds without fetches and acks after the server refused one.
REST_SECONDS = 1.0
#: Renewals of a running message per visibility timeout.
TOUCHES = 4


class QoS(kombu_redis.QoS):  # type: ignore[misc]
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


class Channel(kombu_redis.Channel):  # type: ignore[misc]
    """A channel whose work goes over one line: each turn sends its acks and its fetches in one write."""

    QoS = QoS
    #: kombu's limit of 10 would not do: one line per waiting list, plus those of publishers.
    max_connections = 64

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: The queue whose messages are being delivered.
        self.arriving = ""
        self._no_ack: set[str] = set()
        #: Queues known to be empty; anything else is worth a fetch.
        self._empty: set[str] = set()
        self._fetching: dict[str, int] = {}
        self._work: Line | None = None
        #: After an error reply (the server is full, say) nothing is sent before this moment.
        self._rest_until = 0.0
        self._waiters: dict[str, Line] = {}
        super().__init__(*args, **kwargs)

    def unacked_keys(self, queue: str, prefix: str | None = None) -> tuple[str, str]:
        """The hash and the index of `queue`'s unacknowledged messages."""
        prefix = self.global_keyprefix if prefix is None else prefix
        return f"{prefix}{self.unacked_key}.{queue}", f"{prefix}{self.unacked_index_key}.{queue}"

    def run_script(self, name: str, keys: Iterable[str], args: Iterable[Any]) -> Any:
        """Run a script and wait for it: for the rare paths."""
        keys = list(keys)
        with self.conn_or_acquire() as client:
            return client.execute_command("EVAL", load(name).source, len(keys), *keys, *args)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """As kombu's."""
        if no_ack:
            self._no_ack.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def turn(self) -> None:
        """Called before each poll: send what has collected, ask for what there is room for, wait where there is none."""
        if self._closing or monotonic() < self._rest_until:
            return
        sends = self._ack_commands()
        room = self.qos.room() - sum(self._fetching.values())
        for queue in self._queue_cycle.consume(len(self.active_queues)):
            if room > 0 and queue not in self._fetching and queue not in self._empty:
                sends.append((("fetch", queue, room), self._fetch_command(queue, room)))
                self._fetching[queue] = room
                break  # The next queue's turn comes when this one has answered.
        if sends:
            self._work_line().send(sends)
        if self._work is not None:
            self._work.check_overdue()
        for queue in self.active_queues:
            if queue in self._empty:
                for priority in self.priority_steps:
                    self._wait(queue, self._q_for_pri(queue, priority))

    def touch(self) -> None:
        """Renew everything this channel has taken."""
        homes: dict[str, list[str]] = {}
        for tag, queue in self.qos.home.items():
            homes.setdefault(queue, []).append(tag)
        sends = [
            (("touch", queue, tags), _command("touch", self.unacked_keys(queue)[1:], tags))
            for queue, all_tags in homes.items()
            for tags in _slices(all_tags)
        ]
        if sends and not self._closing:
            self._work_line().send(sends)

    def on_readable(self, kind: Any) -> None:
        """A line has replies. Raises Empty if none of them was a message, as kombu expects."""
        if kind == "work":
            delivered = 0
            for purpose, reply in self._work.receive() if self._work is not None else ():
                delivered += self._on_reply(purpose, reply)
            if delivered:
                return
        else:
            waiter = self._waiters.get(kind)
            for (_, queue, _), reply in waiter.receive() if waiter is not None else ():
                if reply is not None:
                    self._empty.discard(queue)
        raise Empty

    def close(self) -> None:
        """Flush the last acks, then close as kombu does, which puts back what is not acknowledged."""
        if not self.closed and not self._closing:
            self._closing = True
            try:
                if self._work is not None:
                    self._flush()
            except self.connection_errors as error:
                logger.warning("The last acks could not be sent yet: %s", error)
                self._reclaim_acks()
            for line in [*self._waiters.values(), *([self._work] if self._work else [])]:
                line.close()
        super().close()

    def _flush(self) -> None:
        line = self._work_line()
        line.send(self._ack_commands())
        for purpose, reply in line.receive(everything=True):
            self._on_reply(purpose, reply)

    def _ack_commands(self) -> list[tuple[Any, bytes]]:
        acks, self.qos.acks = self.qos.acks, {}
        return [
            (("ack", queue, tags), _command("ack", self.unacked_keys(queue), tags))
            for queue, all_tags in acks.items()
            for tags in _slices(all_tags)
        ]

    def _fetch_command(self, queue: str, most: int) -> bytes:
        prefix = self.global_keyprefix
        lists = [prefix + self._q_for_pri(queue, priority) for priority in self.priority_steps]
        malformed = f"{prefix}{self.unacked_key}.{queue}.malformed"
        return _command("fetch", [*self.unacked_keys(queue), malformed, *lists], [most])

    def _on_reply(self, purpose: tuple[str, str, Any], reply: Any) -> int:
        kind, queue, detail = purpose
        if kind == "fetch":
            self._fetching.pop(queue, None)
        if isinstance(reply, Exception):
            if kind == "ack":
                self.qos.acks.setdefault(queue, []).extend(detail)
            if isinstance(reply, NoScriptError) and self._work is not None:
                self._work.send(_load_commands())
            else:
                logger.error("The broker refused to %s (%s); trying again in %s s.", kind, reply, REST_SECONDS)
                self._rest_until = monotonic() + REST_SECONDS
            return 0
        if kind != "fetch":
            return 0
        self._queue_cycle.rotate(queue)
        if len(reply) < detail:
            self._empty.add(queue)
        for raw in reply:
            self.arriving = queue
            payload = loads(bytes_to_str(raw))
            if self._closing:
                message = self.Message(payload, channel=self)
                self.qos.append(message, message.delivery_tag)
                continue
            if queue in self._no_ack:
                self.qos.acks.setdefault(queue, []).append(payload["properties"]["delivery_tag"])
            self.connection._deliver(payload, queue)
        return len(reply)

    def _get(self, queue: str) -> Any:
        keys = [*self.unacked_keys(queue), f"{self.global_keyprefix}{self.unacked_key}.{queue}.malformed"]
        lists = [self.global_keyprefix + self._q_for_pri(queue, priority) for priority in self.priority_steps]
        found = self.run_script("fetch", [*keys, *lists], [1])
        if not found:
            raise Empty
        self.arriving = queue
        return loads(bytes_to_str(found[0]))

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """As kombu's."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack:
            self.qos.acks.setdefault(queue, []).append(message.delivery_tag)
            self._flush()
        return message

    def _work_line(self) -> Line:
        if self._work is None or not self._work.open:
            self._reclaim_acks()
            self._work = Line(self, "work")
            self._work.send(_load_commands())
        return self._work

    def _reclaim_acks(self) -> None:
        """Take back what a broken line has not answered."""
        line, self._work = self._work, None
        for kind, queue, detail in line.unanswered() if line is not None else ():
            if kind == "ack":
                self.qos.acks.setdefault(queue, []).extend(detail)
        self._fetching.clear()
        if line is not None:
            line.close()

    def _wait(self, queue: str, key: str) -> None:
        """Be told when the list `key` has something: the server moves its last element to where it is."""
        waiter = self._waiters.get(key)
        if waiter is None or not waiter.open:
            if waiter is not None:
                waiter.close()
            waiter = self._waiters[key] = Line(self, key)
        if waiter.idle:
            name = self.global_keyprefix + key
            command = ("BLMOVE", name, name, "RIGHT", "RIGHT", WAIT_SECONDS)
            waiter.send([(("wait", queue, key), _pack(command))])
        waiter.check_overdue()


class Poller(kombu_redis.MultiChannelPoller):  # type: ignore[misc]
    """kombu's poller of all channels, with lines in place of BRPOP."""

    def on_poll_start(self) -> None:
        """Give every channel its turn."""
        for channel in list(self._channels):
            channel.turn()
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)

    def on_readable(self, fileno: int) -> Any:
        """Hand a ready socket to its channel."""
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if kind == "LISTEN":
            return super().on_readable(fileno)
        return channel.on_readable(kind) if channel is not None else None

    def handle_event(self, fileno: int, event: int) -> Any:
        """A broken socket is read too: that raises what is wrong with it."""
        return self.on_readable(fileno), self

    def touch(self) -> None:
        """Renew the messages of every channel."""
        for channel in list(self._channels):
            channel.touch()


class Transport(kombu_redis.Transport):  # type: ignore[misc]
    """kombu's Redis transport with the channel above."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """As kombu's, and renew running messages while the connection lasts."""
        super().register_with_event_loop(connection, loop)
        timeout = connection.client.transport_options.get("visibility_timeout", Channel.visibility_timeout)
        earlier = getattr(self.cycle, "touch_entry", None)
        if earlier is not None:
            earlier.cancel()
        self.cycle.touch_entry = loop.call_repeatedly(timeout / TOUCHES, self.cycle.touch)


def _command(script: str, keys: Iterable[str], args: Iterable[Any]) -> bytes:
    keys = list(keys)
    return _pack(("EVALSHA", load(script).sha, len(keys), *keys, *args))


def _pack(command: tuple[Any, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


def _load_commands() -> list[tuple[Any, bytes]]:
    names = ("fetch", "ack", "touch")
    return [(("load", name, None), _pack(("SCRIPT", "LOAD", load(name).source))) for name in names]


def _slices(tags: list[str]) -> Iterable[list[str]]:
    return (tags[start : start + MAX_TAGS] for start in range(0, len(tags), MAX_TAGS))
