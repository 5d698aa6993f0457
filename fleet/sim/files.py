"""Files that the simulated vendor was sent, or has written: kept in memory, so many bytes of them.

Source of forms and limits: the vendor's API reference, "Files". It speaks no HTTP.
"""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

from fleet.sim.asked import ApiError

MAX_FILE_BYTES = 200_000_000
MAX_ALL_BYTES = 2_000_000_000
#: What a caller may say that a file is for, as far as it is simulated.
PURPOSES = ("batch",)
#: A part's name and its file's name, as the client writes them (RFC 7578).
_DISPOSITION = re.compile(rb'(?i)\bname="([^"]*)"(?:;\s*filename="([^"]*)")?')


@dataclass(frozen=True, slots=True)
class File:
    """One file; `purpose` is `batch` for what was sent and `batch_output` for what a batch wrote."""

    id: str
    filename: str
    purpose: str
    data: bytes
    created_at: int

    @property
    def object(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.data),
            "created_at": self.created_at,
            "expires_at": None,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Files:
    """By id."""

    def __init__(self) -> None:
        self._files: dict[str, File] = {}
        self._bytes = 0

    def upload(self, content_type: str, body: bytes) -> File:
        """Keeps the file of a form. Raises ApiError: 400 for what is no such form or purpose."""
        fields, file = _form(content_type, body)
        purpose = fields.get("purpose", "")
        if purpose not in PURPOSES:
            raise ApiError(400, f"'{purpose}' is not one of {list(PURPOSES)} - 'purpose'", param="purpose")
        if file is None:
            raise ApiError(400, "Missing required parameter: 'file'.", param="file")
        filename, data = file
        if not filename.endswith(".jsonl"):
            raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl", param="file")
        return self.add(filename, purpose, data)

    def add(self, filename: str, purpose: str, data: bytes) -> File:
        """Keeps a file. Raises ApiError: 413, there is no room for it."""
        if len(data) > MAX_FILE_BYTES or self._bytes + len(data) > MAX_ALL_BYTES:
            raise ApiError(413, f"Files may have {MAX_FILE_BYTES} bytes.", code="request_too_large")
        file = File(f"file-{uuid.uuid4().hex}", filename, purpose, data, int(time.time()))
        self._files[file.id] = file
        self._bytes += len(data)
        return file

    def find(self, ident: str) -> File | None:
        return self._files.get(ident)

    def get(self, ident: str) -> File:
        """Raises ApiError: 404, there is none."""
        file = self.find(ident)
        if file is None:
            raise ApiError(404, f"No such File object: {ident}", param="id")
        return file

    def delete(self, ident: str) -> dict[str, Any]:
        """Raises ApiError: 404, there is none."""
        self._bytes -= len(self.get(ident).data)
        del self._files[ident]
        return {"id": ident, "object": "file", "deleted": True}

    def listed(self) -> list[File]:
        """The newest first."""
        return list(reversed(self._files.values()))


def _form(content_type: str, body: bytes) -> tuple[dict[str, str], tuple[str, bytes] | None]:
    """Fields and file of a multipart form (RFC 7578) that is in memory."""
    found = re.search(r'boundary="?([^";,]+)', content_type)
    if not content_type.startswith("multipart/form-data") or found is None:
        raise ApiError(400, "Send the file as multipart/form-data.")
    fields: dict[str, str] = {}
    file: tuple[str, bytes] | None = None
    for part in (b"\r\n" + body).split(b"\r\n--" + found.group(1).encode())[1:]:
        head, blank, data = part.partition(b"\r\n\r\n")
        said = _DISPOSITION.search(head)
        if not blank or said is None:
            continue
        name, filename = said.group(1).decode(), said.group(2)
        if filename is not None:
            file = filename.decode(), data
        else:
            fields[name] = data.decode("utf-8", "replace")
    return fields, file
