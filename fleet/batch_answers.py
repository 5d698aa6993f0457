"""The files of answers and of errors that an ended batch leaves behind.

It owns what is in them. Their ids, contents and times follow from the batch and its ended job alone, so any number of processes
may write them, at any time, and write the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from fleet.batch_lines import answer_line, error_line, request_id
from fleet.batch_records import Kept
from fleet.chat_answers import completion
from fleet.config import AUTO
from fleet.files import StoredFile, derived_file_id
from fleet.items import ItemReader
from fleet.jobs import Outcome
from fleet.outcomes import NEVER_ENDED
from fleet.runtime import Runtime
from fleet.store import Job

#: Bytes that are written together.
CHUNK_BYTES = 1_000_000
#: What is said of a request that was not answered in a batch that ended so.
UNDONE = {
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was answered."),
    "expired": ("batch_expired", "This request was not answered before the completion window was over."),
}


@dataclass(frozen=True, slots=True)
class Answers:
    """A file of so many lines; without an id there was nothing to write."""

    file_id: str | None
    lines: int


async def write_answers(runtime: Runtime, kept: Kept, job: Job, ended: str) -> tuple[Answers, Answers]:
    """Write the answers, and the errors, of a batch whose job has ended; `ended`: the status that it ends with."""
    return await _write(runtime, kept, job, ended, "output"), await _write(runtime, kept, job, ended, "errors")


async def _write(runtime: Runtime, kept: Kept, job: Job, ended: str, which: str) -> Answers:
    at, count = int(job.finished_at or 0), 0
    id_ = derived_file_id(job.finished_at or 0, kept.id, ended, which)

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal count
        waiting = bytearray()
        async for answered, line in _lines(runtime, kept, job, ended):
            if answered == (which == "output"):
                waiting += line
                count += 1
            if len(waiting) >= CHUNK_BYTES:
                yield bytes(waiting)
                waiting.clear()
        yield bytes(waiting)

    written = await runtime.files.write(kept.tenant, id_, chunks())
    if not count:
        runtime.files.discard(written)
        return Answers(None, 0)
    ends_at = None if kept.keep_s is None else at + kept.keep_s
    file = StoredFile(id_, kept.tenant, f"{kept.id}_{which}.jsonl", "batch_output", written, at, ends_at)
    # Lost with the store's last second, it is written again: the batch's end is written after it.
    await runtime.files.keep(file, on_disk=False)
    return Answers(id_, count)


async def _lines(runtime: Runtime, kept: Kept, job: Job, ended: str) -> AsyncIterator[tuple[bool, bytes]]:
    """For each request of a batch whether it was answered, and its line."""
    reader = ItemReader(runtime.blobs)
    async for item, outcome in _outcomes(runtime, job):
        id_, custom_id = request_id(job.id, item), reader.read(job.items, item)["custom_id"]
        if outcome.status == "ok":
            body = completion(id_, int(job.finished_at or 0), outcome.model or kept.batch.model or AUTO, outcome)
            yield True, answer_line(id_, custom_id, body)
            continue
        failed = ("request_failed", outcome.error or job.error or "The request failed.")
        code, message = UNDONE.get(ended, failed) if outcome.error == NEVER_ENDED.error else failed
        yield False, error_line(id_, custom_id, code, message)


async def _outcomes(runtime: Runtime, job: Job) -> AsyncIterator[tuple[int, Outcome]]:
    if not job.steps:  # it ended before it was planned
        for item in range(len(job.items)):
            yield item, NEVER_ENDED
    async for place, outcome in runtime.archive.outcomes(job):
        if place.item is not None:
            yield place.item, outcome
