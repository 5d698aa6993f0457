"""Verdicts of people on accepted outputs of a job: which are shown, and how what they say is kept.

A verdict is written down for the job, once for an output however often it is given; an output that is another by now, after a
retry or a rework, may get its own. It calls no model and costs nothing, so the ledger has nothing of it: what an audit by the
flagship and one by a person have in common is what `fleet.quality` makes of them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from pydantic import ValidationError

from fleet import judging
from fleet.client import FleetClient
from fleet.config import Frozen
from fleet.documents import nearest
from fleet.errors import BadInputError
from fleet.items import ItemReader
from fleet.jobs import Outcome
from fleet.quality import Counts, Learned, Quality, learned
from fleet.shards import Place
from fleet.store import Job
from fleet.stored import read_json

#: Names of what is written down for a job begin so.
_MEMO = "audit:"
#: Verdicts of one file.
MOST_VERDICTS = 100_000


class Given(Frozen):
    """A line of a file of verdicts: a subtask as `fleet audit` shows it (`step/item`), and whether its output is right."""

    subtask: str
    right: bool


class Kept(Frozen):
    """A verdict as it is kept with its job."""

    subtask: str
    kind: str
    tier: str
    right: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """An accepted output that somebody may judge."""

    subtask: str
    kind: str
    tier: str
    item: Any
    output: Any

    @property
    def memo(self) -> str:
        """What its verdict is kept under."""
        digest = blake2b(json.dumps(self.output, sort_keys=True).encode("utf-8", "replace"), digest_size=8)
        return f"{_MEMO}{self.subtask}:{digest.hexdigest()}"


class HumanAudit:
    """The verdicts of people on one job. Errors: LinkError when the store does not answer."""

    def __init__(self, client: FleetClient, job: Job) -> None:
        self._runtime = client.runtime
        self._client = client
        self._job = job

    async def sample(self, share: float) -> list[Shown]:
        """Accepted outputs that nobody has judged yet: of so large a share of them, the same each time it is asked for."""
        seen = set(await self._memos())
        return [
            shown
            async for shown in self._accepted()
            if judging.chosen(f"{self._job.id}/{shown.subtask}", share, "human") and shown.memo not in seen
        ]

    async def keep(self, verdicts: Iterable[Given]) -> int:
        """Keep verdicts; how many of them are new.

        Raises:
            BadInputError: one is about no accepted output of the job, or two contradict each other; none was kept.
        """
        given: dict[str, bool] = {}
        for one in verdicts:
            if given.setdefault(one.subtask, one.right) is not one.right:
                raise BadInputError(f"{one.subtask} is said to be right and to be wrong; nothing was kept.")
        found = {shown.subtask: shown async for shown in self._accepted() if shown.subtask in given}
        if missing := given.keys() - found.keys():
            name = min(missing)
            raise BadInputError(
                f"{name[:200]} is no accepted output of {self._job.id}{nearest(name, list(found)[:100])}; nothing was kept."
            )
        seen = set(await self._memos())
        new = 0
        for subtask, right in given.items():
            shown = found[subtask]
            if shown.memo not in seen:
                kept = Kept(subtask=subtask, kind=shown.kind, tier=shown.tier, right=right)
                await self._runtime.store.set_memo(self._job.id, shown.memo, kept.model_dump_json())
                new += 1
        return new

    async def quality(self) -> list[Quality]:
        """What is known of the job's outputs, by kind and tier, from its ledger and from people."""
        counts = Counts()
        async for entry in self._client.ledger(self._job):
            if (one := learned(entry)) is not None:
                counts.add(one)
        for body in (await self._memos()).values():
            kept = read_json(Kept, body)
            counts.add(
                Learned(kind=kept.kind, tier=kept.tier, came_from=None, verdict="right" if kept.right else "wrong")
            )
        return counts.rows()

    async def _memos(self) -> dict[str, str]:
        return await self._runtime.store.memos(self._job.id, _MEMO)

    async def _accepted(self) -> AsyncIterator[Shown]:
        reader = ItemReader(self._runtime.blobs)
        async for place, outcome in self._runtime.archive.outcomes(self._job):
            if outcome.status == "ok" and outcome.tier is not None:
                yield self._shown(reader, place, outcome)

    def _shown(self, reader: ItemReader, place: Place, outcome: Outcome) -> Shown:
        item = None if place.item is None else reader.read(self._job.items, place.item)
        name = place.id_in("").removeprefix("/")
        return Shown(name, self._job.step(place.step).label, outcome.tier or "", item, outcome.output)


def read_verdicts(lines: Iterable[str], source: str) -> list[Given]:
    """The verdicts of a file, a JSON object `{"subtask", "right"}` a line.

    Raises:
        BadInputError: the line that is none.
    """
    found: list[Given] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(found) == MOST_VERDICTS:
            raise BadInputError(f"{source} has over {MOST_VERDICTS:,} verdicts; give it in parts.")
        try:
            found.append(Given.model_validate_json(line, strict=True))
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, problem["loc"])) or "the line"
            raise BadInputError(
                f'{source}, line {number}: {where}: {problem["msg"]}; a line is {{"subtask": "step/0", "right": true}}.'
            ) from None
    return found
