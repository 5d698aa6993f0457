"""Owns running a pool's asyncio loop inside kombu's event loop: one thread, two loops that take turns.

Kombu's Hub asks its poller for ready sockets; this poller answers by running the asyncio loop until one of them is
ready, until somebody asks for the Hub, or until the Hub's next timer. It knows nothing of tasks or pools.
"""

from __future__ import annotations

import asyncio
from typing import Any

#: The Hub gets at most one turn in this many seconds while the worker is busy: acks, events and fetches of a turn go
#: out together, and the asyncio loop is not stopped and started for each of them.
TURN_SECONDS = 0.01


class LoopPoller:
    """A kombu poller around `inner` (kombu's own, whose epoll or kqueue descriptor is itself watched by the loop)."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop, ready: Any) -> None:
        """`ready()` says whether the Hub has callbacks waiting."""
        self._inner = inner
        selector = getattr(inner, "_epoll", None) or inner._kqueue
        self._descriptor: int = selector.fileno()
        self._loop = loop
        self._ready = ready
        self._stop: asyncio.Handle | None = None
        self._turn_at = 0.0
        self._polling = False
        self.busy = False

    def register(self, fd: Any, events: int) -> Any:
        """As kombu's."""
        return self._inner.register(fd, events)

    def unregister(self, fd: Any) -> None:
        """As kombu's."""
        self._inner.unregister(fd)

    def close(self) -> None:
        """As kombu's."""
        self._inner.close()

    def poll(self, timeout: float | None) -> Any:
        """Run the asyncio loop for up to `timeout` seconds; returns kombu's list of (fd, event)."""
        loop = self._loop
        self._turn_at = loop.time()
        timer = loop.call_later(0 if self._ready() else 1.0 if timeout is None else timeout, self.wake)
        loop.add_reader(self._descriptor, self._on_event)
        self._polling = True
        try:
            loop.run_forever()
        finally:
            self._polling = False
            loop.remove_reader(self._descriptor)
            timer.cancel()
            if self._stop is not None:
                self._stop.cancel()
                self._stop = None
        return self._inner.poll(0)

    def wake(self) -> None:
        """Give the Hub its turn: at once when the worker is idle, else once per TURN_SECONDS.

        Outside `poll` there is nothing to do: whoever else runs the loop must not be stopped.
        """
        if self._stop is None and self._polling:
            wait = self._turn_at + TURN_SECONDS - self._loop.time() if self.busy else 0.0
            self._stop = (
                self._loop.call_later(wait, self._loop.stop) if wait > 0 else self._loop.call_soon(self._loop.stop)
            )

    def _on_event(self) -> None:
        # Level-triggered: it would be called in every tick until the Hub has had its turn.
        self._loop.remove_reader(self._descriptor)
        self.wake()
