"""The face of the client for programs that wait: each method runs the coroutine of the same name to its end.

It owns that step and nothing else. Over a `BlockingPool` a coroutine never suspends, so one `send` runs all of it; one that
did would be a defect, and is told as such.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from fleet.receipt import Receipt
from fleet.remote.client import AsyncClient, AsyncJob
from fleet.remote.pools import BlockingPool
from fleet.remote.specs import Spec

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)


class Face(Protocol[A_co]):
    """What stands before an object whose methods are coroutines."""

    @property
    def behind(self) -> A_co: ...


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that never suspends returns."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        coroutine.close()
    raise RuntimeError("a coroutine of the blocking client waited for an event loop")


def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Face[A], P], T]:
    """The method of a face that does what `method` does, and waits for it."""

    @functools.wraps(method)
    def call(face: Face[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(method(face.behind, *args, **kwargs))

    return call


def iterating(
    method: Callable[Concatenate[A, P], AsyncGenerator[T]],
) -> Callable[Concatenate[Face[A], P], Iterator[T]]:
    """The method of a face that gives what `method` gives, one by one."""

    @functools.wraps(method)
    def call(face: Face[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        found = method(face.behind, *args, **kwargs)
        try:
            while True:
                try:
                    one = run(found.__anext__())
                except StopAsyncIteration:
                    return
                yield one
        finally:
            run(found.aclose())

    return call


class Job:
    """A job of a fleet, for programs that wait. Threads may share it."""

    def __init__(self, behind: AsyncJob) -> None:
        """Use `Client.job` or `submit`."""
        self.behind = behind

    @property
    def id(self) -> str:
        return self.behind.id

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    @property
    def receipt(self) -> Receipt:
        """The receipt as it stands; asked for each time."""
        return run(self.behind.receipt())

    status = blocking(AsyncJob.status)
    events = iterating(AsyncJob.events)
    wait = blocking(AsyncJob.wait)
    results = iterating(AsyncJob.results)
    cancel = blocking(AsyncJob.cancel)
    pause = blocking(AsyncJob.pause)
    resume = blocking(AsyncJob.resume)
    retry = blocking(AsyncJob.retry)


class Behind(AsyncClient):
    """The client whose coroutines never suspend."""

    _pool = BlockingPool


class Client:
    """A fleet's API, for programs that wait; `AsyncClient` says more. Threads may share it."""

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        """`url`, `key`: FLEET_API_URL and FLEET_API_KEY where left out; without a URL, the fleet that runs in this folder.

        Raises:
            BadInputError: there is no such fleet, or URL or key cannot be one.
        """
        self.behind: AsyncClient = Behind(url, key)

    def __repr__(self) -> str:
        return repr(self.behind).replace("Behind", "Client", 1)

    def submit(self, spec: Spec, *, idempotency_key: str | None = None) -> Job:
        """As `AsyncClient.submit`."""
        return Job(run(self.behind.submit(spec, idempotency_key=idempotency_key)))

    def job(self, job_id: str) -> Job:
        """A job by its id. Nothing is asked yet."""
        return Job(self.behind.job(job_id))

    jobs = iterating(AsyncClient.jobs)
    map = blocking(AsyncClient.map)
    close = blocking(AsyncClient.aclose)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
