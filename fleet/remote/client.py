"""Jobs of a fleet over HTTP: submit, follow, read, control. Every body of the client is here; see the package for the faces.

It owns what the routes are called and how a broken stream is taken up again. It knows no library for HTTP but the errors that
a stream breaks with.
"""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import AsyncGenerator, Iterable
from decimal import Decimal
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote, urlencode

import httpx2
from pydantic import BaseModel

from fleet.errors import ApiUnreachableError, BadInputError, NotEndedError
from fleet.jobs import JobStatus, Outcome
from fleet.receipt import Receipt
from fleet.remote.address import address
from fleet.remote.events import Event, events_in
from fleet.remote.mapping import map_job, models
from fleet.remote.pools import Asked, BlockingPool, LoopPool
from fleet.remote.specs import Spec, body, body_of
from fleet.remote.wire import Wire
from fleet.stored import read, read_json
from fleet.views import JobView

M = TypeVar("M", bound=BaseModel)
B = TypeVar("B", bound=BaseModel)

JOBS = "/v1/jobs"
PAGE = 100
#: The API says every 15 s that a stream lives.
SILENCE_S = 45.0
FINAL = frozenset(str(status) for status in JobStatus if status.final)
#: Where nothing moves any more before somebody acts.
STILL = FINAL | {str(JobStatus.PAUSED)}
#: What an idempotency key may consist of.
_ONCE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
_EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")


class AsyncClient:
    """A fleet's API, for code on an event loop. `Client` has the same methods for code without one.

    Requests that do no harm twice are tried six times in about ten seconds, and longer where the API asks for patience.
    Errors are of `fleet.errors`, each a sentence; none of them, and no repr, has the key in it.
    """

    _pool: ClassVar[type[LoopPool | BlockingPool]] = LoopPool

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        """`url`, `key`: FLEET_API_URL and FLEET_API_KEY where left out; without a URL, the fleet that runs in this folder.

        Raises:
            BadInputError: there is no such fleet, or URL or key cannot be one.
        """
        url, headers = address(url, key)
        self._wire = Wire(self._pool(url, headers), url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._wire.url!r})"

    async def submit(self, spec: Spec, *, idempotency_key: str | None = None) -> AsyncJob:
        """Submit a job; once this returns it is on the disk of the fleet's store.

        `spec`: a mapping, or the path of a YAML file; a source of items is read here, and its items are sent. The same
        `idempotency_key` and the same job give the same job for a week; left out, one is made, so that a try whose answer was
        lost makes no second job.

        Raises:
            BadInputError: the job cannot be one, or is over 10 MB; nothing was submitted.
            KeyReusedError: the key stands for another job.
        """
        key = str(uuid.uuid4()) if idempotency_key is None else idempotency_key
        if not _ONCE.fullmatch(key):
            raise BadInputError("An idempotency key has 1 to 255 printable ASCII characters, and no blank at an end.")
        sent = await self._wire.pool.aside(lambda: body_of(spec))
        asked = Asked(method="POST", path=JOBS, body=sent, headers={"Idempotency-Key": key})
        answer = await self._wire.ask(asked, repeatable=True)
        return AsyncJob(self._wire, str(answer.json()["id"]))

    def job(self, job_id: str) -> AsyncJob:
        """A job by its id. Nothing is asked yet."""
        return AsyncJob(self._wire, job_id)

    async def jobs(self) -> AsyncGenerator[JobView]:
        """The tenant's jobs, newest first, page by page."""
        query: dict[str, str | int] = {"limit": PAGE}
        while True:
            answer = await self._wire.ask(Asked(path=f"{JOBS}?{urlencode(query)}"), repeatable=True)
            page = answer.json()
            for one in page["jobs"]:
                yield read(JobView, one)
            if not page["next"]:
                return
            query["cursor"] = page["next"]

    async def map(
        self,
        items: Iterable[Any],
        prompt: str,
        *,
        schema: type[M],
        tier: str = "auto",
        kind: str | None = None,
        budget_usd: Decimal | float | None = None,
        max_output_tokens: int = 2_000,
    ) -> list[M]:
        """Ask `prompt`, a template over `item`, of every item, and return the answers as models, in the order of the items.

        It is one job with one step. `tier`: where an item starts, `auto` for the cheapest that is likely to do; `kind`: what
        routing and quality figures are kept by, the model's name when left out; `budget_usd`: a hard cap.

        Raises:
            MapError: some items have no result; it has the others, and says which and why.
            BadInputError: the prompt does not use `item`, or the items cannot be sent.
        """
        given = list(items)
        asked = map_job(
            given, prompt, schema, tier=tier, kind=kind, budget_usd=budget_usd, max_output_tokens=max_output_tokens
        )
        if not given:
            return []
        job = await self.submit(asked)
        view = await job.wait()
        return models(job.id, view, given, [outcome async for outcome in job.results()], schema)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.pool.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class AsyncJob:
    """A job of a fleet. Each method asks the API; JobNotFoundError when the key's tenant has no such job."""

    def __init__(self, wire: Wire, id_: str) -> None:
        """Use `AsyncClient.job` or `submit`."""
        self._wire = wire
        self._path = f"{JOBS}/{quote(id_, safe='')}"
        self.id = id_

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    async def status(self) -> JobView:
        """The job now: its status, counts, cost, and what its subtasks wait for."""
        return await self._get("", JobView)

    async def events(self, after: str | None = None) -> AsyncGenerator[Event]:
        """What happens to the job, as it happens, until it has ended: from its beginning, or after the event with this id.

        A stream that breaks is taken up where it broke; ApiUnreachableError after six in a row that brought nothing.
        """
        async with contextlib.aclosing(self._feed(after, None)) as feed:
            async for event in feed:
                yield event

    async def wait(self, timeout_s: float | None = None) -> JobView:
        """The job once it has ended, or stands still because it is paused.

        Raises:
            NotEndedError (a TimeoutError): it goes on after `timeout_s` seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        last: str | None = None
        while (view := await self.status()).status not in STILL:
            async with contextlib.aclosing(self._feed(last, deadline)) as feed:
                async for event in feed:
                    last = event.id
                    if event.status in STILL:
                        break
        return view

    async def results(self) -> AsyncGenerator[Outcome]:
        """What became of each subtask, item by item, as far as they have ended.

        A stream that breaks is taken up where it broke if the job has ended; of one that has not, ApiUnreachableError.
        """
        ended = (await self.status()).status in FINAL
        given = broken = 0
        while True:
            try:
                place = 0
                asked = Asked(path=f"{self._path}/results", media="application/jsonl")
                async with self._wire.stream(asked) as answer, contextlib.aclosing(self._wire.lines(answer)) as lines:
                    async for line in lines:
                        place += 1
                        if place > given:
                            yield read_json(Outcome, line.decode())
                            given, broken = place, 0
            except httpx2.TransportError as error:
                failure = self._wire.broken(error)
            else:
                return
            if not ended:
                raise failure
            await self._wire.pause(broken, failure)
            broken += 1

    async def receipt(self) -> Receipt:
        """The receipt as it stands."""
        return await self._get("/cost", Receipt)

    async def cancel(self) -> JobView:
        """End the job; what was done is kept."""
        return read(JobView, await self._act("cancel"))

    async def pause(self) -> JobView:
        """Start no further call; running ones end."""
        return read(JobView, await self._act("pause"))

    async def resume(self, *, budget_usd: Decimal | float | None = None) -> JobView:
        """Let the paused job go on, with a new cap where one is given."""
        return read(JobView, await self._act("resume", budget_usd))

    async def retry(self, *, budget_usd: Decimal | float | None = None) -> int:
        """Run again what failed in the job, which has ended; how many subtasks, 0 for only its plan or its review."""
        return int((await self._act("retry", budget_usd))["subtasks"])

    async def _feed(self, after: str | None, deadline: float | None) -> AsyncGenerator[Event]:
        """As `events`; NotEndedError at `deadline` (monotonic), if the stream has not ended then."""
        if after is not None and not _EVENT_ID.fullmatch(after):
            raise BadInputError("`after` is the id of no event; give the id of the last one that was seen.")
        status: str | None = None
        silent = 0
        while True:
            asked = Asked(
                path=f"{self._path}/events",
                headers={} if after is None else {"Last-Event-ID": after},
                media="text/event-stream",
                silence_s=SILENCE_S,
                until=deadline,
            )
            try:
                self._check(asked)
                async with self._wire.stream(asked) as answer:
                    if answer.status_code == 204:
                        return
                    async with (
                        contextlib.aclosing(self._wire.lines(answer)) as lines,
                        contextlib.aclosing(events_in(lines)) as found,
                    ):
                        async for event in found:
                            silent = 0
                            if event is not None:
                                after, status = event.id, event.status or status
                                yield event
                            self._check(asked)
            except ApiUnreachableError:
                self._check(asked)
                raise
            except httpx2.TransportError as error:
                failure = self._wire.broken(error)
            else:
                if status in FINAL:
                    return
                failure = self._wire.broken(httpx2.RemoteProtocolError("the stream ended before the job"))
            await self._wire.pause(silent, failure)
            silent += 1

    def _check(self, asked: Asked) -> None:
        if asked.late:
            raise NotEndedError(f"The job {self.id} did not end in the time that was given for it; it goes on.")

    async def _get(self, what: str, model: type[B]) -> B:
        return read(model, (await self._wire.ask(Asked(path=self._path + what), repeatable=True)).json())

    async def _act(self, what: str, budget_usd: Decimal | float | None = None) -> Any:
        sent = None if budget_usd is None else body({"budget_usd": str(budget_usd)})
        # Not repeatable: what a lost answer said of the first try, a second one would take for a refusal.
        answer = await self._wire.ask(Asked(method="POST", path=f"{self._path}/{what}", body=sent), repeatable=False)
        return answer.json()
