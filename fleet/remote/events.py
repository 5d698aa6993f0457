"""Events of a job as they come over the wire (server-sent events: WHATWG HTML, 9.2). It knows no connection."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fleet.config import Frozen


class Event(Frozen):
    """Something that happened to a job.

    `id` orders the events of a job, and is what to give as `after` to get those that follow. `kind`: `accepted`, `planned`,
    `status` (then `data["status"]` says which), `resumed`, `filed`, or one that a later version knows.
    """

    id: str
    kind: str
    data: dict[str, Any]

    @property
    def status(self) -> str | None:
        """The status that the job has from here on; None where the event is about something else."""
        status = self.data.get("status")
        return status if isinstance(status, str) else None


async def events_in(lines: AsyncIterator[bytes]) -> AsyncGenerator[Event | None]:
    """The events in lines of a stream, and None for every line that ends none: it shows that the stream lives."""
    fields: dict[str, str] = {}
    async for line in lines:
        name, _, value = line.decode("utf-8", "replace").partition(":")
        if name:
            value = value.removeprefix(" ")
            fields[name] = f"{fields['data']}\n{value}" if name == "data" and "data" in fields else value
        if line or "data" not in fields:
            yield None
            continue
        yield Event(id=fields.get("id", ""), kind=fields.get("event", "message"), data=json.loads(fields["data"]))
        fields = {}
