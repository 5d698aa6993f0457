"""Verdicts of people on accepted outputs of a job: which are shown, and how what they say is kept.

A verdict is written down for the job, once for an output however often it is given, and the latest stands; an output that is
another by now, after a retry or a rework, may get its own. It calls no model and costs nothing, so the ledger has nothing of it:
what an audit by the flagship and one by a person have in common is what `fleet.quality` makes of them, and what routing learns,
in the same step in which a verdict is kept. What it takes the place of, an audit's or an earlier one, is unlearned with that.
"""

from __future__ import annotations

import json
from collections import Counter
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
from fleet.quality import JUDGED, Counts, Judged, Quality
from fleet.shards import Place
from fleet.store import Job
from fleet.stored import read_json

#: Verdicts of one file.
MOST_VERDICTS = 100_000


class Given(Frozen):
    """A line of a file of verdicts: a subtask as `fleet audit` shows it (`step/item`), and whether its output is right."""

    subtask: str
    right: bool


class Kept(Judged):
    """A verdict as it is kept with its job."""

    #: Routing has learned of it; of one that an earlier version kept it has not.
    taught: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of verdicts: so many are the first on their output, so many others than were there."""

    new: int
    corrected: int


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
        return f"{JUDGED}{self.subtask}:{digest.hexdigest()}"


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

    async def keep(self, verdicts: Iterable[Given]) -> Taken:
        """Keep verdicts, each in the place of an earlier one on the same output.

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
        memos = await self._memos()
        counts = await self._counts(read_json(Judged, body) for body in memos.values())
        taken: Counter[str] = Counter()
        for subtask, right in given.items():
            shown = found[subtask]
            taken[await self._kept(shown, right, memos.get(shown.memo), counts.standing(subtask, shown.tier))] += 1
        return Taken(taken["new"], taken["corrected"])

    async def _kept(self, shown: Shown, right: bool, stands: str | None, audited: tuple[str, bool] | None) -> str:
        """Keep a verdict: whether it is `new`, `corrected`, or was there. `audited`: the audit of the output, if it stands."""
        while True:
            earlier = None if stands is None else read_json(Kept, stands)
            instead, before = audited or (None, None)
            if earlier is not None and earlier.taught:
                instead, before = earlier.instead, earlier.right
            about = {"subtask": shown.subtask, "kind": shown.kind, "tier": shown.tier}
            body = Kept(**about, right=right, instead=instead, taught=True).model_dump_json()
            lessons = self._runtime.routes.judged(self._job.tenant, shown.kind, shown.tier, right, before)
            if await self._runtime.lessons.amend(self._job.id, shown.memo, stands, body, lessons):
                return "new" if earlier is None else "corrected" if earlier.right is not right else "there"
            # Somebody else has judged it just now.
            stands = await self._runtime.store.memo(self._job.id, shown.memo)

    async def quality(self) -> list[Quality]:
        """What is known of the job's outputs, by kind and tier, from its ledger and from people."""
        return (await self._counts(await self._client.verdicts(self._job))).rows()

    async def _counts(self, said: Iterable[Judged]) -> Counts:
        counts = Counts()
        async for entry in self._client.ledger(self._job):
            counts.add(entry)
        for one in said:
            counts.judge(one)
        return counts

    async def _memos(self) -> dict[str, str]:
        return await self._runtime.store.memos(self._job.id, JUDGED)

    async def _accepted(self) -> AsyncIterator[Shown]:
        reader = ItemReader(self._runtime.blobs)
        async for place, outcome in self._runtime.archive.outcomes(self._job):
            # What was passed on with a flaw was not accepted.
            if outcome.status == "ok" and outcome.error_kind is None and outcome.tier is not None:
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
