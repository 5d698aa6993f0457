"""Owns consuming from Redis without losing or repeating work: atomic fetches of many, acks in batches, renewal.

A kombu transport (`broker_transport="queues.transport:Transport"`). What is in Redis keeps kombu's format, so plain
kombu producers and Flower interoperate; the unacknowledged messages of each queue have keys of their own
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
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from queues.codec import loads
from queues.line import WAIT_SECONDS, Line
from queues.scripts import load
from queues.unacked import QoS

logger = logging.getLogger(__name__)

#: Tags acknowledged or renewed by one script call (Lua's unpack ends at some thousands).
MAX_TAGS = 500
#: Seconds without fetches and acks after the server refused one.
REST_SECONDS = 1.0
#: Renewals of a running message per visibility timeout.
TOUCHES = 4


class Channel(kombu_redis.Channel):
    """A channel whose work goes over one line: each turn sends its acks and its fetches in one write."""

    QoS = QoS
    #: kombu's limit of 10 would not do: one line per waiting list, plus those of publishers.
    max_connections = 64
    _closing: bool = False

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

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """As kombu's; redis-py would try ten times before it says that the other end is gone, and the loop stands still."""
        return super()._connparams(asynchronous) | {"retry": Retry(NoBackoff(), 0)}  # type: ignore[no-any-return]

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
        """Called before each poll: send the acks, fetch what there is room for, wait where there was nothing."""
        if self._closing or monotonic() < self._rest_until:
            return
        line = self._work_line() if self.active_queues or self.qos.acks else None
        if line is None:
            return
        sends = self._ack_commands()
        room = self.qos.room() - sum(self._fetching.values())
        for queue in self._queue_cycle.consume(len(self.active_queues)):
            if room > 0 and queue not in self._fetching and queue not in self._empty:
                sends.append((("fetch", queue, room), self._fetch_command(queue, room)))
                self._fetching[queue] = room
                break  # The next queue's turn comes when this one has answered.
        line.send(sends)
        line.check_overdue()
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
        line = self._work if kind == "work" else self._waiters.get(kind)
        delivered = 0
        for purpose, reply in line.receive() if line is not None else ():
            delivered += self._on_reply(purpose, reply)
        if not delivered:
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
        for _ in range(2):  # Again, if the server had forgotten the script.
            line = self._work_line()
            line.send(self._ack_commands())
            for purpose, reply in line.receive(everything=True):
                self._on_reply(purpose, reply)
            if not self.qos.acks:
                return

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
        elif kind == "wait":
            if reply is not None and not detail:
                self._empty.discard(queue)
            return 0
        if isinstance(reply, Exception):
            if kind == "ack":
                self.qos.acks.setdefault(queue, []).extend(detail)
            if isinstance(reply, NoScriptError) and self._work is not None:
                self._work.send(_load_commands())
            else:
                logger.error("The broker refused to %s (%s); trying again in %s s.", kind, reply, REST_SECONDS)
                self._rest_until = monotonic() + REST_SECONDS
            return 0
        return self._deliver(queue, detail, reply) if kind == "fetch" else 0

    def _deliver(self, queue: str, most: int, reply: list[bytes]) -> int:
        """Hand on what a fetch took; the number of messages."""
        self._queue_cycle.rotate(queue)
        if len(reply) < most:
            self._empty.add(queue)
        else:
            self._empty.discard(queue)
        for raw in reply:
            self.arriving = queue
            payload = loads(raw)
            if self._closing or queue not in self.connection._callbacks:  # Its consumer was cancelled meanwhile.
                message = self.Message(payload, channel=self)
                self.qos.append(message, message.delivery_tag)
                self.qos.give_back(message.delivery_tag)
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
        return loads(found[0])

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """As kombu's."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack:
            self.qos.acks.setdefault(queue, []).append(message.delivery_tag)
            self._flush()
        return message

    def _work_line(self) -> Line:
        if self._work is not None and not self._work.open:
            self._reclaim_acks()
        if self._work is None:
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
        """Fetch once the list `key` has something: until then a command waits that moves its last element to where it is."""
        waiter = self._waiters.get(key)
        if waiter is None or not waiter.open:
            if waiter is not None:
                waiter.close()
            waiter = self._waiters[key] = Line(self, key)
        if waiter.idle:
            name = self.global_keyprefix + key
            room = max(0, self.qos.room())
            sends = [(("wait", queue, room), _pack(("BLMOVE", name, name, "RIGHT", "RIGHT", WAIT_SECONDS)))]
            if room:
                sends.append((("fetch", queue, room), self._fetch_command(queue, room)))
            waiter.send(sends)
        waiter.check_overdue()


class Poller(kombu_redis.MultiChannelPoller):
    """kombu's poller of all channels, with lines in place of BRPOP."""

    def maybe_restore_messages(self) -> None:
        """As kombu's, but what fails there is told: whoever goes on would stop the loop for a broker that hangs, every time."""
        for channel in list(self._channels):
            if channel.active_queues:
                channel.qos.restore_visible(
                    num=channel.unacked_restore_limit, interval=channel.unacked_restore_throttle
                )
                return

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


class Transport(kombu_redis.Transport):
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
