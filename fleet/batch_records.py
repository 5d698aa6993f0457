"""A batch as data: as it is asked for, as it is shown, and as it is written down.

It owns OpenAI's form of a batch (https://platform.openai.com/docs/api-reference/batch/object), and which statuses are ours; what
moves a batch from one to another is for `fleet.batches` to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from fleet.batch_lines import LineProblem
from fleet.config import Frozen
from fleet.shelf import Record
from fleet.stored import read_json

FINAL = frozenset(("completed", "failed", "expired", "cancelled"))
#: Statuses of ours that OpenAI has no word for.
SHOWN = {"expiring": "finalizing"}

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]


class Counts(Frozen):
    total: int = 0
    completed: int = 0
    failed: int = 0


class Problems(Frozen):
    object: Literal["list"] = "list"
    data: tuple[LineProblem, ...]


class NewBatch(Frozen):
    """What is asked for."""

    input_file_id: str = Field(max_length=100)
    endpoint: str = Field(max_length=100)
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None
    #: Seconds for which the files of answers are kept; None: for good.
    keep_s: int | None = None


class Batch(Frozen):
    """A batch as it is shown; times in whole seconds since 1970."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = None
    errors: Problems | None = None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = Counts()
    metadata: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A batch as it is written down: `status` is ours, and decides."""

    tenant: str
    id: str
    status: str
    batch: Batch
    job_id: str
    keep_s: int | None

    def shown(self, **changes: Any) -> Batch:
        return self.batch.model_copy(update={"status": SHOWN.get(self.status, self.status)} | changes)

    @property
    def fields(self) -> dict[str, str | int]:
        """What is written down."""
        ends = {} if self.keep_s is None else {"keep_s": self.keep_s}
        return {"status": self.status, "batch": self.batch.model_dump_json(), "job": self.job_id} | ends

    @classmethod
    def read(cls, tenant: str, id_: str, record: Record) -> Kept:
        """What was."""
        batch = read_json(Batch, record["batch"])
        keep_s = int(record["keep_s"]) if "keep_s" in record else None
        return cls(tenant, id_, record["status"], batch, record["job"], keep_s)
