"""The routes of batches: OpenAI's `/v1/batches`.

They translate between HTTP and `fleet.batches`. Source: https://platform.openai.com/docs/api-reference/batch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import Field

from fleet.api.auth import Reader, Submitter
from fleet.api.files import LONGEST_S, SHORTEST_S
from fleet.api.openai_errors import REFUSALS, OpenAIError, OpenAIRoute, takes
from fleet.api.parameters import body_of, read
from fleet.api.problems import linked
from fleet.batch_records import Batch, NewBatch
from fleet.batches import Batches, BatchNotFoundError
from fleet.config import Frozen
from fleet.conversation import Metadata
from fleet.files import FileNotThereError

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=OpenAIRoute, responses=REFUSALS)

MAX_PAGE = 100
EXAMPLE = {"input_file_id": "file-...", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
BatchId = Annotated[str, Path(max_length=100)]


class ExpiresAfter(Frozen):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(strict=True, ge=SHORTEST_S, le=LONGEST_S)]


class CreateBatch(Frozen):
    """A file of requests that is to be answered within a day, for an endpoint that is served in batches."""

    input_file_id: Annotated[str, Field(max_length=100)]
    endpoint: Annotated[str, Field(max_length=100)]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchList(Frozen):
    """Batches, newest first; those before the last one come with `after`."""

    object: Literal["list"] = "list"
    data: tuple[Batch, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("", responses={200: linked("batch_id", "look", "cancel")}, openapi_extra=takes(CreateBatch, EXAMPLE))
async def create(
    request: Request,
    response: Response,
    principal: Submitter,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Batch:
    """Have the requests of a file answered. A file that is wrong makes a batch that has failed, and says why."""
    asked = read(CreateBatch, await body_of(request), others=frozenset())
    expires = asked.output_expires_after
    new = NewBatch(
        input_file_id=asked.input_file_id,
        endpoint=asked.endpoint,
        completion_window=asked.completion_window,
        metadata=asked.metadata,
        keep_s=None if expires is None else expires.seconds,
    )
    try:
        batch = await _batches(request).create(principal.tenant, new, once=idempotency_key)
    except FileNotThereError as error:
        raise OpenAIError(400, str(error), param="input_file_id") from error
    response.headers["Location"] = f"{router.prefix}/{batch.id}"
    return batch


@router.get("")
async def listing(
    request: Request,
    principal: Reader,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    after: Annotated[str | None, Query(max_length=100)] = None,
) -> BatchList:
    """The tenant's batches, newest first."""
    found = await _batches(request).page(principal.tenant, limit + 1, after=after)
    data = tuple(found[:limit])
    return BatchList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(found) > limit,
    )


@router.get("/{batch_id}")
async def look(request: Request, principal: Reader, batch_id: BatchId) -> Batch:
    """A batch now; once it has ended, with its files."""
    try:
        return await _batches(request).look(principal.tenant, batch_id)
    except BatchNotFoundError as error:
        raise _unknown(error) from error


@router.post("/{batch_id}/cancel")
async def cancel(request: Request, principal: Submitter, batch_id: BatchId) -> Batch:
    """Answer no further request of a batch; what was answered comes in its file."""
    try:
        return await _batches(request).cancel(principal.tenant, batch_id)
    except BatchNotFoundError as error:
        raise _unknown(error) from error


def _unknown(error: BatchNotFoundError) -> OpenAIError:
    return OpenAIError(404, str(error), param="id")


def _batches(request: Request) -> Batches:
    batches: Batches = request.app.state.batches
    return batches
