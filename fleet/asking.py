"""What a subtask asks a model: the values of its templates, its request, and what is added once an answer was rejected.

It reads items, outputs of needs and pictures; it asks nobody and decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from fleet import templates
from fleet.context import Context
from fleet.conversation import Conversation
from fleet.errors import BadInputError
from fleet.items import ItemReader
from fleet.jobs import Step
from fleet.outcomes import Trail
from fleet.providers.base import Image, ModelRequest, ask
from fleet.shards import Place
from fleet.store import Job

#: Blobs that hold pictures, by the digest of their bytes.
PICTURE = re.compile(r"images/[0-9a-f]{64}")


class Asking:
    """Makes the requests of subtasks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._items = ItemReader(context.blobs)

    async def values(self, job: Job, step: Step, item: int | None) -> dict[str, Any] | str:
        """What the templates of a subtask may use; a text where a need was not met, so that it is skipped."""
        values: dict[str, Any] = {"goal": job.spec.goal, "items": _Items(self._items, job)}
        if item is not None:
            values["item"] = self._items.read(job.items, item)
        for need in step.needs:
            needed = job.step(need)
            if item is None and needed.each is not None:
                values[need] = [
                    outcome.output
                    async for place, outcome in self._context.archive.outcomes(job)
                    if place.step == need and outcome.status == "ok"
                ]
                continue
            place = Place(need, item if needed.each is not None else None)
            outcome = await self._context.archive.outcome(job, place)
            if outcome.status != "ok":
                return f"it needs {need}, which is {outcome.status}"
            values[need] = outcome.output
        return values

    def request(self, job: Job, step: Step, values: Mapping[str, Any]) -> ModelRequest:
        """What a step asks over these values. Raises BadInputError: its template fails, or its item has no conversation."""
        conversation = _conversation(step, values.get("item"))
        if conversation is not None:
            limit = min(step.max_output_tokens, conversation.most_output_tokens)
            return ask("", conversation=conversation, max_output_tokens=limit)
        return ask(
            templates.render(step.prompt, values),
            instructions=step.instructions,
            images=self._images(job, values.get("item")),
            schema=step.output,
            schema_name=step.id,
            max_output_tokens=step.max_output_tokens,
        )

    def _images(self, job: Job, item: Any) -> tuple[Image, ...]:
        """The picture of an item; an item's word is not taken for the name of any other blob."""
        name = item.get("image") if isinstance(item, Mapping) and job.items.pictures else None
        if not (isinstance(name, str) and PICTURE.fullmatch(name) and isinstance(item.get("media_type"), str)):
            return ()
        return (Image(item["media_type"], self._context.blobs.read(name)),)


class _Items:
    """All items, for templates that loop over them; each is read when it is reached."""

    def __init__(self, reader: ItemReader, job: Job) -> None:
        self._reader = reader
        self._index = job.items

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> Any:
        if not 0 <= i < len(self._index):
            raise IndexError(i)
        return self._reader.read(self._index, i)


def _conversation(step: Step, item: Any) -> Conversation | None:
    """What a step asks instead of a prompt. Raises BadInputError: its item has no conversation."""
    if step.conversation != "item":
        return step.conversation
    body = item.get("body") if isinstance(item, Mapping) else None
    if not isinstance(body, Mapping):
        raise BadInputError("The item has no conversation: it needs a body of messages.")
    try:
        return Conversation.of(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInputError(f"The item's conversation cannot be used: {where}: {first['msg']}.") from None
    except ValueError as error:
        raise BadInputError(f"The item's conversation cannot be used: {error}.") from None


def followed_by(request: ModelRequest, said: str) -> ModelRequest:
    """The same request with something more said to the model."""
    if not said:
        return request
    if request.conversation is None:
        return replace(request, prompt=request.prompt + said)
    return replace(request, conversation=request.conversation.followed_by(said.strip()))


def rejections(trail: Trail) -> str:
    """The rejected answers and their reasons, for whoever answers next."""
    return "".join(
        f"\n\nAn earlier answer was rejected.\nReason: {attempt.reason}\nThe rejected answer:\n{attempt.answer}"
        for attempt in trail.attempts
    )
