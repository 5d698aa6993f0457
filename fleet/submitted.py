"""A job as a service submits it, over HTTP or over the broker: what it may say is less than what a job may say.

It owns the bounds of what comes from outside. Jobs that are kept are read by `fleet.jobs` without them (see `fleet.stored`), and
what only a fleet's configuration can tell is `fleet.client.check`'s.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fleet.jobs import MAX_STEPS, Items, JobSpec, Review, Step
from fleet.schemas import check_short


class NewStep(Step):
    """A step as a service submits it, bounded: it is checked while others wait for their answers."""

    needs: Annotated[tuple[str, ...], Field(max_length=MAX_STEPS)] = ()
    output: Annotated[dict[str, Any], BeforeValidator(check_short)] | None = None
    max_output_tokens: Annotated[int, Field(strict=True, gt=0, le=200_000)] = 2_000


class NewReview(Review):
    """A review as a service submits it."""

    rounds: Annotated[int, Field(strict=True, ge=0, le=10)] = 1
    max_output_tokens: Annotated[int, Field(strict=True, gt=0, le=200_000)] = 16_000


class Uploaded(Items):
    """Items in a file that was uploaded (`POST /v1/files`): .jsonl, .ndjson, .json, .csv, .parquet, or a .zip of files."""

    file: Annotated[str, Field(max_length=100)]
    path: None = None
    files: None = None
    images: None = None


class NewJob(JobSpec):
    """A job as a service submits it: its items are in it, or uploaded. No file of the fleet's machines is anybody's."""

    items: Uploaded | tuple[Any, ...] = ()
    steps: Annotated[tuple[NewStep, ...], Field(max_length=MAX_STEPS)] = ()
    review: NewReview | None = None
