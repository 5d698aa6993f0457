"""Owns the crossing between synchronous task bodies and coroutines, and the coroutines that run beside the tasks.

A task body is an ordinary function that Celery's tracer calls inside a greenlet; `await_` hands an awaitable to the
coroutine that drives the greenlet and comes back with its value. It knows greenlets and asyncio, not Celery.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import greenlet

logger = logging.getLogger(__name__)

T = TypeVar("T")
Factory = Callable[[], Coroutine[Any, Any, None]]

#: Seconds before a failed background coroutine is started again: doubled each time, from the first to the last.
RESTART_DELAYS = (0.5, 30.0)


class OutsidePoolError(RuntimeError):
    """`await_` was called where no event loop can carry the awaitable."""


def await_(awaitable: Awaitable[T]) -> T:
    """Wait for `awaitable` from a synchronous task body; other tasks run meanwhile.

    Raises what the awaitable raises, SoftTimeLimitExceeded when the task's soft time limit passes, CancelledError when
    the task is ended from outside, and OutsidePoolError when not called inside a task of the asyncio pool.
    """
    current = greenlet.getcurrent()
    if not isinstance(current, Crossing):
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise OutsidePoolError(
            "await_() works only inside a task that runs in queues.pool.AsyncioPool; elsewhere use await."
        )
    value: T = current.parent.switch(awaitable)
    return value


def in_crossing() -> bool:
    """Whether the caller may use `await_`."""
    return isinstance(greenlet.getcurrent(), Crossing)


class Crossing(greenlet.greenlet):
    """One synchronous call that may use `await_`. It shares the contextvars of the asyncio task that drives it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._interrupt: BaseException | None = None

    async def drive(self, *args: Any) -> Any:
        """Call the function with `args`; returns or raises what it does."""
        self.gr_context = greenlet.getcurrent().gr_context
        awaitable = self.switch(*args)
        while not self.dead:
            try:
                value = await awaitable
            except BaseException as error:
                awaitable = self.throw(self._take_interrupt() or error)
            else:
                interrupt = self._take_interrupt()
                awaitable = self.switch(value) if interrupt is None else self.throw(interrupt)
        return awaitable

    def interrupt(self, error: BaseException, driver: asyncio.Task[Any]) -> None:
        """Make the await that the function is in raise `error`; `driver` is the task that runs `drive`."""
        self._interrupt = error
        driver.cancel()

    def _take_interrupt(self) -> BaseException | None:
        error, self._interrupt = self._interrupt, None
        if error is not None:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
        return error


class Background:
    """The coroutines that live as long as a worker: claim renewal, dispatcher, reconciler."""

    def __init__(self) -> None:
        self._factories: list[Factory] = []
        self._tasks: dict[Factory, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, factory: Factory) -> None:
        """Run `factory()` from when the pool's loop runs until it stops; one that fails is logged and started again."""
        self._factories.append(factory)
        if self._loop is not None:
            self._start(factory, self._loop)

    def remove(self, factory: Factory) -> None:
        """Cancel what `add` started, and forget it."""
        self._factories.remove(factory)
        task = self._tasks.pop(factory, None)
        if task is not None:
            task.cancel()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called by the pool: start everything that was added."""
        self._loop = loop
        for factory in self._factories:
            self._start(factory, loop)

    async def stop(self, patience: float) -> None:
        """Called by the pool: cancel everything and wait for its cleanup, at most `patience` seconds."""
        self._loop = None
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience)
            for task in late:
                logger.warning("The background coroutine %s did not end within %s s.", task.get_name(), patience)

    def _start(self, factory: Factory, loop: asyncio.AbstractEventLoop) -> None:
        self._tasks[factory] = loop.create_task(
            _supervise(factory), name=getattr(factory, "__qualname__", repr(factory))
        )


async def _supervise(factory: Factory) -> None:
    """Run `factory()`; start it again, ever later, when it raises. Ends when the coroutine returns or is cancelled."""
    delay, longest = RESTART_DELAYS
    while True:
        try:
            return await factory()
        except Exception:
            logger.exception("A background coroutine failed; it starts again in %s s.", delay)
        await asyncio.sleep(delay)
        delay = min(delay * 2, longest)


#: The process's background coroutines: `background.add(factory)` at import, or at any time on the worker's thread.
background = Background()
