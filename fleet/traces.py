"""One trace for each job, whatever process a part of it runs in: what happened, when, and within what.

Ids are derived from the job's, so that nothing has to travel: its trace and its root span (the request or command by which it
was accepted) are known to whoever knows the job, also after a message was lost, doubled or delivered again. What is done under a
claim is one span right below the root, and all within it goes out together with it: of a worker that dies nothing is left whose
parent nobody knows. A span is recorded when it has ended; where nobody records, which is the rule, none is made.

It owns the tree and knows no OpenTelemetry: `fleet.otlp` sends it. Names and attributes are ids, names out of the configuration,
numbers and kinds of errors; content only where `content()` says so.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from fleet.subject import job_of

Kind = Literal["internal", "server", "client"]
Value = str | int | float | bool | tuple[str, ...]
#: A trace's id (128 bits) and a span's (64 bits).
Ids = tuple[int, int]
#: Children of one span; a review that reduces a million outputs makes more calls than anybody looks at.
MOST_CHILDREN = 1_000


@dataclass(slots=True)
class Span:
    """Something that took its time. Times are nanoseconds since 1970."""

    name: str
    kind: Kind
    trace: int
    id: int
    #: The span that this one is within, in the same trace.
    parent: int | None
    began_ns: int
    ended_ns: int = 0
    attributes: dict[str, Value] = field(default_factory=dict)
    #: OpenTelemetry's `error.type`: a kind or the name of a class, never a text.
    error: str | None = None
    #: A span of somebody else's trace.
    link: Ids | None = None
    children: list[Span] = field(default_factory=list)

    def note(self, **attributes: Value) -> None:
        """Add attributes; `_` in a name stands for a dot, `tierfleet.` before all of them."""
        self.attributes |= {f"tierfleet.{name.replace('_', '.')}": value for name, value in attributes.items()}

    def end_as(self, status: str) -> None:
        """What the work came to: `failed` makes it an error."""
        self.note(status=status)
        if status == "failed":
            self.error = status

    def be_root_of(self, job: str) -> None:
        """This is by what the job was accepted; a caller's trace, of which it was a part, is linked to."""
        if self.parent is not None:
            self.link = self.trace, self.parent
        (self.trace, self.id), self.parent = root_of(job), None
        self.note(job=job)

    def belong_to(self, job: str) -> None:
        """This did something to the job."""
        self.trace, self.parent = root_of(job)
        self.note(job=job)


class _Nothing:
    """The block of whoever nobody records, and what it gets: it has to cost next to nothing."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, **attributes: Value) -> None:
        pass

    def end_as(self, status: str) -> None:
        pass


Block = AbstractContextManager[Span | _Nothing]
#: Takes a span that has ended, with all that is in it. It must not wait, nor raise.
Recorder = Callable[[Span], None]
_NOTHING = _Nothing()
_current: ContextVar[Span | None] = ContextVar("span", default=None)
_recorder: Recorder | None = None
_content = False


def record_with(recorder: Recorder | None, *, content: bool = False) -> None:
    """Have this process record, or not; `content`: with prompts and outputs."""
    global _recorder, _content  # one for each process, as with its logs
    _recorder, _content = recorder, content


def recording() -> bool:
    """Whether spans are recorded."""
    return _recorder is not None


def content() -> bool:
    """Whether prompts and outputs may be in them."""
    return _content


def root_of(job: str) -> Ids:
    """The trace of a job, and the root span in it."""
    digest = blake2b(job.encode(), digest_size=24, person=b"tierfleet").digest()
    return int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:], "big") or 1


def under(job: str, name: str, *passing: type[BaseException], kind: Kind = "internal") -> Block:
    """A span right below the root of a job; an error out of the block is noted, unless it is one of `passing`."""
    if _recorder is None:
        return _NOTHING
    trace, root = root_of(job)
    span = Span(name, kind, trace, _new_id(), root, time.time_ns())
    span.note(job=job)
    return _within(span, passing)


def claimed(name: str, id_: str, tier: str, *passing: type[BaseException]) -> Block:
    """The span of what is done under a claim on a subtask or duty."""
    if _recorder is None:
        return _NOTHING
    job = job_of(id_)
    trace, root = root_of(job)
    span = Span(name, "internal", trace, _new_id(), root, time.time_ns())
    span.note(job=job, subtask=id_, tier=tier)
    return _within(span, passing)


def inside(name: str, *, kind: Kind = "internal") -> Block:
    """A span within the one that runs; none where none runs."""
    if _recorder is None or (around := _current.get()) is None:
        return _NOTHING
    span = Span(name, kind, around.trace, _new_id(), around.id, time.time_ns())
    if len(around.children) < MOST_CHILDREN:
        around.children.append(span)
    return _within(span, (), record=False)


def request(name: str, caller: Ids | None) -> Block:
    """The span of a request from outside, a part of its caller's trace, until `accepted` says what it began."""
    if _recorder is None:
        return _NOTHING
    trace, parent = caller or (secrets.randbits(128) or 1, None)
    return _within(Span(name, "server", trace, _new_id(), parent, time.time_ns()), ())


def accepted(job: str, began_ns: int) -> None:
    """A new job was accepted: by the request that runs, or else by something that began then."""
    if _recorder is None:
        return
    around = _current.get()
    if around is not None and around.kind == "server":
        around.be_root_of(job)
    elif around is None:
        span = Span("submit", "internal", 0, 0, None, began_ns, time.time_ns())
        span.be_root_of(job)
        _recorder(span)


def flat(span: Span) -> Iterator[Span]:
    """A span and all within it, outermost first, each with the trace and parent that turned out at last."""
    yield span
    for child in span.children:
        if not child.ended_ns:
            continue  # it was left behind by what ended around it
        child.trace, child.parent = span.trace, span.id
        yield from flat(child)


@contextlib.contextmanager
def _within(span: Span, passing: tuple[type[BaseException], ...], *, record: bool = True) -> Iterator[Span | _Nothing]:
    token = _current.set(span)
    try:
        yield span
    except passing:
        span.note(status="handed on")
        raise
    except BaseException as error:
        span.error = span.error or str(getattr(error, "kind", type(error).__name__))
        raise
    finally:
        _current.reset(token)
        span.ended_ns = time.time_ns()
        if record and _recorder is not None:
            _recorder(span)


def _new_id() -> int:
    return secrets.randbits(64) or 1
