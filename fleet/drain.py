"""Waiting that ends when its process is asked to: whoever waits is told, what runs goes on.

It owns who waits; it does not know what for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class GiveBack(Exception):
    """The call was not made: the worker drains, lost its claim, or the job is paused; the subtask goes back to its backlog."""


class Drain:
    """One process's: `set` once, and nobody waits any more."""

    def __init__(self) -> None:
        self._asked = False
        self._waiting: set[asyncio.Task[Any]] = set()

    def set(self) -> None:
        """Ask the process to end; asking again changes nothing."""
        waiting = () if self._asked else tuple(self._waiting)
        self._asked = True
        for task in waiting:
            task.cancel()

    async def unless(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait, in the task of the caller: for a task of its own each wait would cost more than most of them take.

        Raises:
            GiveBack: the process was asked to end, before or meanwhile.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine always runs in one
        if self._asked:
            waiting.close()
            raise GiveBack("the worker drains")
        self._waiting.add(task)
        try:
            return await waiting
        except asyncio.CancelledError:
            # Somebody else may have cancelled it, too: then that is what counts.
            if self._asked and task.uncancel() == 0:
                raise GiveBack("the worker drains") from None
            raise
        except Exception:
            if self._asked and task.cancelling() and task.uncancel() == 0:  # it failed as it was ended
                raise GiveBack("the worker drains") from None
            raise
        finally:
            self._waiting.discard(task)
