"""What a page shows of a job besides its numbers: the result, the receipt, what failed; each cut to what can be read.

It owns how much of each is shown, and keeps what took long to find. The whole of everything is in the files beside the page.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from markupsafe import Markup

from fleet.api.sheet import Sheet
from fleet.blobs import BlobError
from fleet.client import FleetClient
from fleet.hypertext import MAX_CHARS, as_html
from fleet.items import ItemReader
from fleet.packing import label_of, terminal_steps
from fleet.receipt import Receipt
from fleet.steps import Failure
from fleet.store import Job

#: Results, receipts and outputs that are kept.
MOST_KEPT = 64
#: Outputs that are shown of a job without a review, how much of each, and how many subtasks are looked at for them.
MOST_OUTPUTS, MAX_OUTPUT_CHARS, MOST_LOOKED_AT = 20, 2_000, 2_000
MAX_LINE_CHARS = 100
MOST_GAPS = 50
#: Subtasks up to which a receipt is added up for a page; for more it is a file that somebody asks for.
MOST_ADDED_UP = 50_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Text:
    """The text that a review ended with. `html` is safe to show; `chars` of `total` characters are in it."""

    html: Markup
    chars: int
    total: int
    gaps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """An accepted output, as text; `cut`: there is more of it."""

    item: str
    step: str
    text: str
    cut: bool


@dataclass(frozen=True, slots=True)
class Outputs:
    """Some outputs; `more`: there are others."""

    shown: tuple[Output, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class NamedFailure:
    """A failure with the name of its item."""

    item: str
    failure: Failure


class Extracts:
    """The extracts of the jobs of one fleet."""

    def __init__(self, client: FleetClient) -> None:
        self._client = client
        self._kept: OrderedDict[tuple[Any, ...], asyncio.Future[Any]] = OrderedDict()

    async def text(self, job: Job) -> Text | None:
        """What the review wrote; None where there was none, or not yet."""
        if job.result is None:
            return None
        return await self._once(("text", job.id, job.finished_at), lambda: asyncio.to_thread(_text, job))

    async def outputs(self, job: Job) -> Outputs | None:
        """Outputs of a job that has ended without a review, of the steps that no other needs."""
        if job.result is not None or not job.status.final or not job.steps:
            return None
        return await self._once(("outputs", job.id, job.finished_at), lambda: self._outputs(job))

    async def receipt(self, sheet: Sheet) -> Receipt | None:
        """The receipt of a job that has ended; None until then, and where it would take long to add up."""
        job = sheet.job
        if not job.status.final or sheet.progress.total > MOST_ADDED_UP:
            return None
        # A late answer may still be added to what a job cost.
        key = ("receipt", job.id, job.finished_at, sheet.progress.cost_nano_usd, sheet.progress.tokens)
        return await self._once(key, lambda: self._client.receipt(job))

    async def failures(self, sheet: Sheet) -> list[NamedFailure]:
        """What failed, each with the name of its item."""
        return await asyncio.to_thread(self._named, sheet)

    def _named(self, sheet: Sheet) -> list[NamedFailure]:
        reader = ItemReader(self._client.runtime.blobs)
        return [
            NamedFailure(_label(reader, sheet.job, failure.place.item), failure) for failure in sheet.steps.failures
        ]

    async def _outputs(self, job: Job) -> Outputs:
        last = terminal_steps([(step.id, step.needs) for step in job.steps])
        reader = ItemReader(self._client.runtime.blobs)
        found: list[Output] = []
        seen = 0
        async for place, outcome in self._client.runtime.archive.outcomes(job):
            seen += 1
            if len(found) == MOST_OUTPUTS or seen > MOST_LOOKED_AT:
                return Outputs(tuple(found), True)
            if outcome.status == "ok" and place.step in last:
                text = outcome.output if isinstance(outcome.output, str) else _json(outcome.output)
                cut = len(text) > MAX_OUTPUT_CHARS
                found.append(Output(_label(reader, job, place.item), place.step, text[:MAX_OUTPUT_CHARS], cut))
        return Outputs(tuple(found), False)

    async def _once(self, key: tuple[Any, ...], find: Callable[[], Awaitable[T]]) -> T:
        """What `find` finds, found once however many ask at a time, and kept for a while; what fails is not kept."""
        future: asyncio.Future[T] | None = self._kept.get(key)
        if future is None:
            future = self._kept[key] = asyncio.ensure_future(find())
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        try:
            # Whoever asked first may leave; others wait for it, too.
            return await asyncio.shield(future)
        except Exception:
            self._kept.pop(key, None)
            raise


def _text(job: Job) -> Text:
    result = job.result or {}
    text = str(result.get("text", ""))
    gaps = tuple(str(gap)[:1_000] for gap in result.get("gaps", ())[:MOST_GAPS])
    return Text(Markup(as_html(text)), min(len(text), MAX_CHARS), len(text), gaps)  # noqa: S704  `as_html` escapes all


def _label(reader: ItemReader, job: Job, item: int | None) -> str:
    if item is None:
        return ""
    try:
        return label_of(reader.read(job.items, item), item)
    except BlobError:  # its items are gone, what became of them is not
        return f"#{item}"


def _json(value: Any) -> str:
    """In one line where it fits there."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_LINE_CHARS else json.dumps(value, ensure_ascii=False, indent=2)
