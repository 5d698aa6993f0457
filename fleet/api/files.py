"""The routes of uploaded files: OpenAI's `/v1/files`, whose files are also what a job's items can be read from.

They translate between HTTP and `fleet.files`. Source: https://platform.openai.com/docs/api-reference/files.
"""

from __future__ import annotations

import contextlib
import re
import time
from contextlib import aclosing
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from redis.exceptions import RedisError

from fleet.api.auth import Reader, Submitter
from fleet.api.forms import parts
from fleet.api.openai_errors import REFUSALS, OpenAIError, OpenAIRoute
from fleet.config import Frozen
from fleet.files import MAX_FILE_BYTES, FileNotThereError, Files, StoredFile, Written, new_file_id, shown_name

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=OpenAIRoute, responses=REFUSALS)

Purpose = Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]
MAX_PAGE = 10_000
#: Seconds after which a file may be set to end, and after which one for a batch does.
SHORTEST_S, LONGEST_S = 3_600, 2_592_000
FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"enum": [*get_args(Purpose)]},
                        "expires_after[anchor]": {"const": "created_at"},
                        "expires_after[seconds]": {"type": "integer", "minimum": SHORTEST_S, "maximum": LONGEST_S},
                    },
                }
            }
        },
    }
}

FileId = Annotated[str, Path(max_length=100)]


class FileObject(Frozen):
    """A file, as OpenAI shows one."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileList(Frozen):
    """Files; those after the last one come with `after`."""

    object: Literal["list"] = "list"
    data: tuple[FileObject, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Frozen):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


@router.post("", openapi_extra=FORM)
async def upload(request: Request, response: Response, principal: Submitter) -> FileObject:
    """Keep a file of up to 512 MB. What is refused or cut off leaves nothing behind."""
    files = _files(request)
    tenant, id_ = principal.tenant, new_file_id()
    fields: dict[str, str] = {}
    name: str | None = None
    written: Written | None = None
    try:
        async with aclosing(parts(request, MAX_FILE_BYTES)) as form:
            async for part in form:
                if part.name == "file" and part.filename is not None and name is None:
                    name = shown_name(part.filename)
                    written = await files.write(tenant, id_, part.chunks())
                elif part.name is None or part.name == "file" or part.name in fields:
                    raise OpenAIError(400, "The form has a part without a name, or two of one name.", param=part.name)
                else:
                    fields[part.name] = await part.text()
        if name is None or written is None or not written.size:
            raise OpenAIError(400, "The form has no file, or an empty one.", param="file")
        now = int(time.time())
        file = StoredFile(id_, tenant, name, _purpose(fields), written, now, _expires_at(fields, now))
        await files.keep(file)
    except BaseException:
        if written is not None:
            # It may have a record that nobody was told of: the store was away just then.
            with contextlib.suppress(RedisError):
                await files.remove(tenant, id_)
            files.discard(written)
        raise
    response.headers["Location"] = f"{router.prefix}/{id_}"
    return shown(file)


@router.get("")
async def listing(
    request: Request,
    principal: Reader,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    after: Annotated[str | None, Query(max_length=100)] = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=100)] = None,
) -> FileList:
    """The tenant's files, by when they came."""
    found = await _files(request).page(
        principal.tenant, limit + 1, after=after, newest_first=order == "desc", purpose=purpose
    )
    data = tuple(shown(file) for file in found[:limit])
    return FileList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(found) > limit,
    )


@router.get("/{file_id}")
async def look(request: Request, principal: Reader, file_id: FileId) -> FileObject:
    """What is known of a file."""
    return shown(await _own(request, principal.tenant, file_id))


@router.get("/{file_id}/content", response_class=StreamingResponse)
async def content(request: Request, principal: Reader, file_id: FileId) -> StreamingResponse:
    """The bytes of a file, as they came."""
    file = await _own(request, principal.tenant, file_id)
    headers = {
        "Content-Length": str(file.bytes),
        # Never shown by a browser as if it were ours; the name is the uploader's.
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        "X-Content-Type-Options": "nosniff",
    }
    chunks = _files(request).content(file)
    return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)


@router.delete("/{file_id}")
async def delete(request: Request, principal: Submitter, file_id: FileId) -> FileDeleted:
    """Remove a file. Jobs and batches that were made of it have their items already."""
    if not await _files(request).remove(principal.tenant, file_id):
        await _own(request, principal.tenant, file_id)
    return FileDeleted(id=file_id)


def shown(file: StoredFile) -> FileObject:
    """A file for its owner."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
    )


async def _own(request: Request, tenant: str, file_id: str) -> StoredFile:
    try:
        return await _files(request).get(tenant, file_id)
    except FileNotThereError as error:
        raise OpenAIError(404, str(error), param="id") from error


def _purpose(fields: dict[str, str]) -> str:
    purpose = fields.get("purpose", "")
    if purpose not in get_args(Purpose):
        raise OpenAIError(400, f"'purpose' has to be one of {', '.join(get_args(Purpose))}.", param="purpose")
    return purpose


def _expires_at(fields: dict[str, str], now: int) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return now + LONGEST_S if fields["purpose"] == "batch" else None
    if anchor != "created_at" or not re.fullmatch(r"[0-9]{1,9}", seconds or ""):
        raise OpenAIError(400, "'expires_after' needs the anchor created_at and seconds.", param="expires_after")
    return now + lifetime(int(seconds or 0), "expires_after.seconds")


def lifetime(seconds: int, param: str) -> int:
    """`seconds`, where a file may live so long. Raises OpenAIError."""
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise OpenAIError(400, f"'{param}' has to be between {SHORTEST_S:,} and {LONGEST_S:,}.", param=param)
    return seconds


def _files(request: Request) -> Files:
    files: Files = request.app.state.client.runtime.files
    return files
