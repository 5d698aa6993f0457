"""Owns the asyncio worker pool: Celery's own tracer, unmodified, in one greenlet per task on one uvloop loop.

Tasks, Celery's event loop and everything it calls back share one thread, so there are no locks. A running task costs a
greenlet and an asyncio task, not a process. It knows Celery's pool contract and time limits, not what tasks do.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop
from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.exceptions import SoftTimeLimitExceeded, WorkerLostError
from celery.worker import state

from queues.bridge import Crossing, background
from queues.hub import LoopPoller

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that a task ended from outside has for its cleanup when the worker stops.
CANCEL_PATIENCE = 5.0
#: The loop's pulse in seconds. A pulse that comes later than twice this is a stall, and stalls count for no time limit.
PULSE = 0.25
#: Running tasks from which on the worker counts as busy and turns are rationed.
BUSY = 16
#: Objects after which the collector looks for cycles among the new ones.
GARBAGE = 100_000


class Job:
    """One task in the pool. `terminate` is what Celery calls through its weak reference."""

    def __init__(self, number: int, call: Callable[[], Any], options: dict[str, Any]) -> None:
        self.number = number
        self.crossing = Crossing(call)
        self.options = options
        self.driver: asyncio.Task[None] | None = None
        self.limits: list[asyncio.TimerHandle] = []
        self.stalled = 0.0
        self.accepted = False
        #: Ended from outside: nothing may be reported any more.
        self.abandoned = False

    def terminate(self, signal: Any = None) -> None:
        """End the task and report nothing, so that its message stays unacknowledged.

        A job that is not yet accepted is left alone: Celery terminates it again once it is.
        """
        if self.accepted and self.driver is not None and not self.abandoned:
            self.abandoned = True
            self.driver.cancel()


class AsyncioPool(BasePool):
    """A Celery pool (`worker_pool="queues.pool:AsyncioPool"`) whose `limit` is a number of tasks in flight."""

    limit: int
    #: A signal handler interrupts the loop; shutting down has to wait until it has returned.
    signal_safe = False
    body_can_be_buffer = True

    def on_start(self) -> None:
        """Make the loop and start the background coroutines (they run when Celery's event loop does)."""
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._queue: deque[Job] = deque()
        self._helpers: set[asyncio.Task[Any]] = set()
        self._hub: Any = None
        self._poller: LoopPoller | None = None
        self._stalled = 0.0
        self._idle_pair = socket.socketpair()
        self._beat_at = time.monotonic()
        self._beat()
        background.start(self.loop)

    def register_with_event_loop(self, hub: Any) -> None:
        """Called by Celery at start and after each reconnect: from here on kombu's Hub runs our loop."""
        if self._hub is None:
            # Everything that is loaded by now stays for the worker's life: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            # A thousand tasks start and end in waves of tens of thousands of objects. The collector's default of 700, and
            # ten times that, would have it look through what lives again and again, for hardly any cycles among it.
            gc.set_threshold(GARBAGE, 10, 10)
        self._hub = hub
        self._poller = hub.poller = LoopPoller(hub.poller, self.loop, lambda: hub._ready)
        # A Hub without readers sleeps instead of polling: this one is never readable and always there.
        hub.add_reader(self._idle_pair[0].fileno(), lambda: None)

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float) -> T | None:
        """Run the loop, tasks and all, from synchronous worker code until `coroutine` ends; None after `timeout` s."""
        return self.loop.run_until_complete(_within(coroutine, timeout))

    # Celery's pool contract

    def on_apply(self, target: Callable[..., Any], args: Any, kwargs: Any, **options: Any) -> Job:
        """Start the task, or queue it when `limit` tasks run (Celery's prefetch normally prevents that)."""
        if self._hub is None:
            raise RuntimeError("AsyncioPool needs a broker whose transport has an event loop: use Redis or RabbitMQ.")
        job = Job(next(self._numbers), lambda: target(*args, **kwargs), options)
        if len(self._jobs) < self.limit:
            self._start(job)
        else:
            self._queue.append(job)
        return job

    def grow(self, n: int = 1) -> None:
        """Allow `n` more tasks in flight."""
        self.limit += n
        self._fill()

    def shrink(self, n: int = 1) -> None:
        """Allow `n` fewer, at least one; running tasks go on."""
        self.limit = max(1, self.limit - n)

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """End the running task whose number Celery knows as its `pid`."""
        job = self._jobs.get(pid)
        if job is not None:
            job.terminate(signal)

    def flush(self) -> None:
        """Called when the connection is gone: tasks that have not started are forgotten, the broker has them."""
        self._queue.clear()

    def on_stop(self) -> None:
        """Wait for the running tasks (each bounded by its time limits), then for the background coroutines."""
        if self.loop.is_running() or self.loop.is_closed():
            return  # In a signal handler of a cold shutdown: `on_terminate` comes when the loop has returned.
        if self._hub is not None and not state.should_terminate:
            if not isinstance(self._hub.poller, LoopPoller):  # The broker is away, and the Hub was reset.
                self.register_with_event_loop(self._hub)
            try:
                turns = self._hub.create_loop()
                while self._pending() or self._hub._ready:
                    next(turns)
            except Exception as error:
                logger.warning("The broker went away (%s); the running tasks are finished without it.", error)
            self.loop.run_until_complete(self._drained())
        self._finish()

    def on_terminate(self) -> None:
        """End everything now; what is not finished stays unacknowledged."""
        if not self.loop.is_running() and not self.loop.is_closed():
            self._finish()

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return info | {
            "running": len(self._jobs),
            "waiting": len(self._queue),
            "stalled-seconds": round(self._stalled, 3),
        }

    # Running

    def _start(self, job: Job) -> None:
        self._jobs[job.number] = job
        job.driver = self.loop.create_task(self._drive(job))
        if self._poller is not None:
            self._poller.busy = len(self._jobs) >= BUSY

    async def _drive(self, job: Job) -> None:
        """One task from acceptance to its report."""
        options = job.options
        try:
            if job.abandoned:
                return
            job.accepted = True
            _report(options.get("accept_callback"), job.number, time.monotonic())
            if job.abandoned:
                return
            if self._hub is not None and self._hub._ready:
                self._wake()
            job.stalled = self._stalled
            self._arm(job, options.get("soft_timeout") or self.options.get("soft_timeout"), self._on_soft_limit)
            self._arm(job, options.get("timeout") or self.options.get("timeout"), self._on_hard_limit)
            try:
                result = await job.crossing.drive()
            except BaseException as error:
                self._report_lost(job, error)
            else:
                if not job.abandoned:
                    _report(options.get("callback"), result)
        finally:
            for limit in job.limits:
                limit.cancel()
            del self._jobs[job.number]
            self._fill()
            self._wake()

    def _report_lost(self, job: Job, error: BaseException) -> None:
        """The tracer turns every Exception into a result; what still gets here would have killed a worker process."""
        if not job.abandoned:
            lost = WorkerLostError(f"The task ended with {error!r}.")
            _report(job.options.get("error_callback"), ExceptionInfo((WorkerLostError, lost, error.__traceback__)))

    def _fill(self) -> None:
        while self._queue and len(self._jobs) < self.limit:
            self._start(self._queue.popleft())
        if self._poller is not None:
            self._poller.busy = len(self._jobs) >= BUSY

    def _wake(self) -> None:
        if self._poller is not None:
            self._poller.wake()

    # Time limits

    def _arm(self, job: Job, seconds: float | None, action: Callable[[Job, float], None]) -> None:
        def fire() -> None:
            self._measure()
            stalled, job.stalled = self._stalled - job.stalled, self._stalled
            if stalled > 0:
                job.limits.append(self.loop.call_later(stalled, fire))
            elif not job.abandoned:
                action(job, seconds or 0.0)

        if seconds:
            job.limits.append(self.loop.call_later(seconds, fire))

    def _on_soft_limit(self, job: Job, seconds: float) -> None:
        _report(job.options.get("timeout_callback"), True, seconds)
        if job.driver is not None:
            job.crossing.interrupt(SoftTimeLimitExceeded(seconds), job.driver)

    def _on_hard_limit(self, job: Job, seconds: float) -> None:
        job.terminate()
        # In a crossing of its own, so that storing the failure does not block the loop.
        self._helper(Crossing(lambda: _report(job.options.get("timeout_callback"), False, seconds)).drive())

    def _beat(self) -> None:
        self._measure()
        self._beat_at = time.monotonic()
        self._pulse = self.loop.call_later(PULSE, self._beat)

    def _measure(self) -> None:
        """Count the time for which the loop stood still since the last beat."""
        now = time.monotonic()
        late = now - self._beat_at - PULSE
        if late > PULSE:
            self._stalled += late
            self._beat_at = now

    # Stopping

    def _helper(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self.loop.create_task(coroutine)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    def _pending(self) -> bool:
        return bool(self._queue) or any(not job.abandoned for job in self._jobs.values()) or bool(self._helpers)

    async def _drained(self) -> None:
        while self._pending():
            drivers = [job.driver for job in self._jobs.values() if job.driver is not None and not job.abandoned]
            await asyncio.wait([*drivers, *self._helpers])

    def _finish(self) -> None:
        """End what still runs, and the loop."""
        self._queue.clear()
        self._pulse.cancel()
        for job in self._jobs.values():
            job.terminate()
            job.abandoned = True
        self.loop.run_until_complete(self._wind_down())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        for end in self._idle_pair:
            end.close()

    async def _wind_down(self) -> None:
        await background.stop(CANCEL_PATIENCE)
        for helper in self._helpers:
            helper.cancel()
        tasks = [*self._helpers, *(job.driver for job in self._jobs.values() if job.driver is not None)]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CANCEL_PATIENCE)
            for task in late:
                logger.warning("A cancelled task did not end within %s s and is left: %r", CANCEL_PATIENCE, task)


def _report(callback: Callable[..., Any] | None, *args: Any) -> None:
    """Call one of Celery's callbacks; what it raises must not end the loop."""
    if callback is not None:
        try:
            callback(*args)
        except Exception:
            logger.exception("Celery's %r failed.", callback)


async def _within(coroutine: Coroutine[Any, Any, T], timeout: float) -> T | None:  # noqa: ASYNC109
    with contextlib.suppress(TimeoutError):
        return await asyncio.wait_for(coroutine, timeout)
    return None
