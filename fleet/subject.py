"""What the code that runs is about: ids of a job, a subtask and an attempt, so that whoever logs or traces can name them.

It owns one context variable, so each asyncio task has its own; what a task starts begins with those of its starter. It knows no
log and no job: ids are text.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

_NONE: Mapping[str, str] = {}
_ids: ContextVar[dict[str, str] | None] = ContextVar("subject", default=None)


def subject() -> Mapping[str, str]:
    """The ids by what they are of: `job`, `subtask`, `attempt`; none where nothing was said."""
    return _ids.get() or _NONE


class about:  # read as a word: `with about(job=...)`
    """The block is about these, beside what the code around it is about."""

    __slots__ = ("_ids", "_token")

    def __init__(self, **ids: str) -> None:
        self._ids = ids

    def __enter__(self) -> None:
        around = _ids.get()
        self._token = _ids.set(self._ids if around is None else {**around, **self._ids})

    def __exit__(self, *_: object) -> None:
        _ids.reset(self._token)


def also_about(**ids: str) -> None:
    """What the innermost block of `about` is about, too, as it has just turned out; without one nothing."""
    known = _ids.get()
    if known is not None:
        known.update(ids)


def job_of(subtask_id: str) -> str:
    """The job of a subtask or duty: what its id begins with."""
    return subtask_id.partition("/")[0]
