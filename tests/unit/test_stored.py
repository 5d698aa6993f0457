"""Documents of the next version, with fields that this one does not know, are read as if those were not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel, ValidationError

from fleet.archive import Archive
from fleet.blobs import Blobs
from fleet.entries import Asked, Purpose, Unsettled, Worst, draft
from fleet.items import ItemIndex
from fleet.jobs import Attempt, FilesSource, Items, JobSpec, JobStatus, Outcome, Review, Step
from fleet.ledger import LedgerEntry
from fleet.outcomes import Answer, Kept, Trail, outcome_of
from fleet.prices import Usage
from fleet.rounds import Again, Rounds
from fleet.shards import Shard
from fleet.sources import Skipped
from fleet.store import Job, JobStore
from fleet.stored import read, read_json
from queues.store import Store
from queues.subtasks import Claim

SPEC = JobSpec(
    name="triage",
    items=Items(files=FilesSource(root=Path("/src"))),
    steps=(Step(id="note", each="items", prompt="{{ item.text }}"),),
    review=Review(prompt="Write."),
)
INDEX = ItemIndex(blob="b", offsets="b.idx", count=2, skipped=(Skipped(path="a", reason="empty"),), skipped_count=1)
ENTRY = LedgerEntry(
    call_id="j/note/0.1.1",
    job="j",
    subtask="j/note/0",
    role="work",
    tier="nano",
    model="small",
    provider="openai",
    usage=Usage(input_tokens=10, output_tokens=5),
    cost_nano_usd=7,
    status="ok",
    started_at=1.0,
    finished_at=2.0,
)
ANSWER = Answer("bug", "the text", "small", ENTRY, "j/1.0.0", "check", 1, "a note")
TRAIL = Trail(
    [Attempt(tier="nano", model="small", answer="?", reason="cut")],
    1,
    Kept("x", "small", "nano"),
    ANSWER,
    Asked(2, Usage(input_tokens=3), 9),
)
END = TRAIL.document(Kept("done", "small"), error=None)
OUTCOME = outcome_of("j/note/0", "nano", "ok", END)


def of_the_next_version(text: str) -> str:
    """The same JSON with an unknown field in every object of it."""

    def grown(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: grown(inner) for name, inner in value.items()} | {"later": {"than": ["this"]}}
        return [grown(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(grown(json.loads(text)))


@pytest.mark.parametrize("document", [SPEC, INDEX, ENTRY, Again(id="j/note/0", tier="mini", trail=TRAIL.dump())])
def test_models_that_are_read_back_ignore_what_they_do_not_know(document: BaseModel) -> None:
    text = of_the_next_version(document.model_dump_json())
    assert read_json(type(document), text) == document
    assert read(type(document), json.loads(text)) == document


def test_what_users_write_stays_strict() -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate_json(of_the_next_version(SPEC.model_dump_json()))


def test_a_trail_and_an_end() -> None:
    assert Trail.load(of_the_next_version(TRAIL.dump())) == TRAIL
    assert outcome_of("j/note/0", "nano", "ok", of_the_next_version(END)) == OUTCOME


def test_fields_that_are_missing_have_defaults() -> None:
    assert Trail.load("{}") == Trail()
    assert outcome_of("j/note/0", "nano", "failed", "{}") == Outcome(step="note", status="failed", tier="nano")
    note = {"entry": ENTRY.model_dump(mode="json"), "record": "j/1.0.0"}
    assert Unsettled.of(json.dumps(note)) == Unsettled(ENTRY, None, "j/1.0.0")


def test_the_note_of_an_intent() -> None:
    claim = Claim("j/note/0", "nano", 1, "", "", 0, 1)
    purpose = Purpose("j", "j/note/0", claim, "note", "note", "work", "nano", record="j/1.0.0")
    drafted = draft(purpose, "j/note/0.1.1", model="small", provider="openai", waited_ms=0, worst=Worst(Usage(), 9))
    note = drafted.intent("resp_1").note
    assert Unsettled.of(of_the_next_version(note)) == Unsettled.of(note)
    assert Unsettled.of(note).handle == "resp_1"


class StoreOfOneJob:
    """Stands in for store and link: one job's document, and nothing of its shards."""

    namespace = "fleet"

    def __init__(self, document: Mapping[str, str]) -> None:
        self.link = self
        self._flat = [part.encode() for pair in document.items() for part in pair]

    async def execute(self, command: str, key: str, *, idempotent: bool) -> list[bytes]:
        assert (command, key, idempotent) == ("HGETALL", "fleet:job:j", True)
        return self._flat

    async def stopped(self, job: str) -> tuple[None, str]:
        return None, ""

    async def records(self, record: str) -> dict[str, str]:
        return {}


async def a_job(store: StoreOfOneJob) -> Job:
    return await JobStore(cast(Store, store)).load("j")


@pytest.fixture
def store() -> StoreOfOneJob:
    plan = json.dumps([step.model_dump(mode="json") for step in SPEC.steps])
    document = {"tenant": "t", "status": "running", "round": "2", "simulated": "0", "created_at": "1.5", "width": "20"}
    texts = {"spec": SPEC.model_dump_json(), "items": INDEX.model_dump_json(), "plan": plan}
    return StoreOfOneJob(document | {name: of_the_next_version(text) for name, text in texts.items()} | {"later": "1"})


def test_a_job_document(store: StoreOfOneJob) -> None:
    job = asyncio.run(a_job(store))
    assert (job.spec, job.items, job.steps) == (SPEC, INDEX, SPEC.steps)
    assert (job.status, job.round, job.width, job.window) == (JobStatus.RUNNING, 2, 20, 1)


def test_rounds_and_segments(store: StoreOfOneJob, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    again = Again(id="j/note/1", tier="mini", trail=TRAIL.dump())
    blobs.put("j/rounds/2.json", of_the_next_version(json.dumps([[again.model_dump()]])).encode())
    lines = [
        {"id": "j/note/0", "tier": "nano", "status": "ok", "end": of_the_next_version(END)},
        {"entry": of_the_next_version(ENTRY.model_dump_json())},
        {"a kind of line": "that this version does not know"},
    ]
    segment = Shard(1, 0, 0).segment_in("j")
    blobs.put(segment, "\n".join(of_the_next_version(json.dumps(line)) for line in lines).encode())
    rounds = Rounds(None, cast(Store, store), None, blobs)  # type: ignore[arg-type]
    archive = Archive(cast(Store, store), rounds, blobs)

    async def found() -> tuple[list[list[Again]], dict[str, Outcome], list[LedgerEntry]]:
        job = await a_job(store)
        outcomes = await archive.shard(job, Shard(1, 0, 0), ["j/note/0"])
        return rounds.later(job, 2), outcomes, [entry async for entry in archive.ledger(job)]

    assert asyncio.run(found()) == ([[again]], {"j/note/0": OUTCOME}, [ENTRY])
