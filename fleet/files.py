"""Uploaded files: the bytes in the blob store, a record of each in the store, and their end.

It owns the ids, the names that are shown, and the order in which bytes and record come and go: there is no record without
bytes. Bytes are written to a folder of their own each time, so who writes the same file twice is in nobody's way. It knows no
HTTP, and nothing of what is in a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass

from fleet.blobs import BlobError, Blobs
from fleet.display import clean
from fleet.errors import BadInputError, NotAcceptedError
from fleet.shelf import Record, Shelf
from fleet.uploads import Upload
from queues.admission import Admission, NotDurableError

MAX_FILE_BYTES = 512_000_000
MAX_FILENAME_CHARS = 200
#: Bytes that are read at once to be sent.
CHUNK_BYTES = 1_000_000
#: Files whose time is over that are removed when another comes.
MOST_SWEPT = 100
#: Records that are looked at together for those of one purpose.
LOOKED_AT = 1_000
_ID = re.compile(r"file-[0-9a-f]{27}")


class FileNotThereError(BadInputError):
    """The tenant has no file of that id, or not any more."""


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes in the blob store that no record names yet."""

    folder: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of a file; times in whole seconds since 1970."""

    id: str
    tenant: str
    filename: str
    purpose: str
    content: Written
    created_at: int
    expires_at: int | None

    @property
    def bytes(self) -> int:
        return self.content.size


class Files:
    """The files of one fleet. Errors: `queues.link.LinkError` when the store does not answer."""

    def __init__(self, shelf: Shelf, blobs: Blobs, admission: Admission) -> None:
        self._shelf = shelf
        self._blobs = blobs
        self._admission = admission

    async def write(self, tenant: str, id_: str, chunks: AsyncIterable[bytes]) -> Written:
        """Write the bytes of a file that has no record yet, as they come.

        Nothing of it is left where they break off. Raises OSError when the blob folder cannot be written to.
        """
        folder = f"files/{tenant}/{id_}.{secrets.token_hex(4)}"
        try:
            with contextlib.ExitStack() as stack:
                writer = await asyncio.to_thread(stack.enter_context, self._blobs.append_writer(_blob(folder)))
                async for chunk in chunks:
                    await asyncio.to_thread(writer.write, chunk)
                written = Written(folder, writer.offset)
                await asyncio.to_thread(stack.pop_all().close)
        except BaseException:
            self._blobs.remove_folder(folder)
            raise
        return written

    def discard(self, written: Written) -> None:
        """Remove bytes that no record names."""
        self._blobs.remove_folder(written.folder)

    async def keep(self, file: StoredFile, *, on_disk: bool = True) -> None:
        """Record a file whose bytes are written. With `on_disk` the record is on the store's disk once this returns.

        Where there is one of that id, it stays, and these bytes go.

        Raises:
            NotAcceptedError: the store keeps nothing on its disk; there is no record.
        """
        await self.sweep()
        fields: dict[str, str | int] = {
            "filename": file.filename,
            "purpose": file.purpose,
            "folder": file.content.folder,
            "bytes": file.content.size,
            "created_at": file.created_at,
        }
        if file.expires_at is not None:
            fields["expires_at"] = file.expires_at
        try:
            if on_disk:
                await self._admission.keeps_on_disk()
            kept = await self._shelf.keep(file.tenant, file.id, fields, file.expires_at)
            if not kept and await self._names_another(file):
                self.discard(file.content)
            if on_disk:
                await self._admission.on_disk()
        except NotDurableError as error:
            await self._shelf.drop(file.tenant, file.id)
            raise NotAcceptedError(str(error)) from error

    async def get(self, tenant: str, id_: str) -> StoredFile:
        """A file of a tenant's.

        Raises:
            FileNotThereError: they have none of this id, or its time is over.
        """
        record = await self._shelf.load(tenant, id_) if _ID.fullmatch(id_) else None
        file = None if record is None else _file(tenant, id_, record)
        # Bytes that are gone without their record: the store was away just then.
        if file is None or _over(file) or not self._blobs.exists(_blob(file.content.folder)):
            raise FileNotThereError(f'There is no file "{clean(id_, 60)}".')
        return file

    async def page(
        self, tenant: str, most: int, *, after: str | None, newest_first: bool, purpose: str | None
    ) -> list[StoredFile]:
        """Files of a tenant behind the one with the id `after`, by when they came."""
        found: list[StoredFile] = []
        while len(found) < most:
            records = await self._shelf.page(tenant, LOOKED_AT, after=after, newest_first=newest_first)
            files = [_file(tenant, id_, record) for id_, record in records if record is not None]
            found += [file for file in files if purpose in (None, file.purpose) and not _over(file)]
            if len(records) < LOOKED_AT:
                break
            after = records[-1][0]
        return found[:most]

    async def content(self, file: StoredFile) -> AsyncIterator[bytes]:
        """The bytes of a file. Raises FileNotThereError when it is deleted meanwhile."""
        for offset in range(0, file.bytes, CHUNK_BYTES):
            length = min(CHUNK_BYTES, file.bytes - offset)
            try:
                yield await asyncio.to_thread(self._blobs.read, _blob(file.content.folder), offset, length)
            except BlobError as error:
                raise FileNotThereError(f'The file "{file.id}" was deleted just now.') from error

    def upload(self, file: StoredFile) -> Upload:
        """A file as a source of items."""
        # The requests of a batch are lines, whatever their file is called.
        name = "requests.jsonl" if file.purpose == "batch" else file.filename
        return Upload(self._blobs.path_of(_blob(file.content.folder)), name)

    async def remove(self, tenant: str, id_: str) -> bool:
        """Remove a file, its record first: bytes without one are nobody's. Whether there was a record."""
        record = await self._shelf.load(tenant, id_) if _ID.fullmatch(id_) else None
        await self._shelf.drop(tenant, id_)
        if record is not None:
            await asyncio.to_thread(self.discard, _file(tenant, id_, record).content)
        return record is not None

    async def sweep(self) -> None:
        """Remove some files whose time is over."""
        for tenant, id_ in await self._shelf.ended(time.time(), MOST_SWEPT):
            await self.remove(tenant, id_)

    async def _names_another(self, file: StoredFile) -> bool:
        """Whether the record of this id is of other bytes: the store may have been told twice of these."""
        record = await self._shelf.load(file.tenant, file.id)
        return record is None or record["folder"] != file.content.folder


def new_file_id() -> str:
    """An id that sorts by time, and is no secret."""
    return f"file-{_moment(time.time())}{secrets.token_hex(8)}"


def derived_file_id(at: float, *names: str) -> str:
    """The same id for the same moment and names, whoever makes it."""
    return f"file-{_moment(at)}{hashlib.sha256('/'.join(names).encode()).hexdigest()[:16]}"


def shown_name(given: str) -> str:
    """A name that somebody gave a file as it is kept: the last part of a path, without what cannot be seen."""
    name = clean(given.replace("\\", "/").rstrip("/").rpartition("/")[2], MAX_FILENAME_CHARS)
    return name if name.strip(". ") else "upload"


def _moment(at: float) -> str:
    return f"{int(at * 1000):011x}"


def _blob(folder: str) -> str:
    return f"{folder}/content"


def _over(file: StoredFile) -> bool:
    return file.expires_at is not None and file.expires_at <= time.time()


def _file(tenant: str, id_: str, record: Record) -> StoredFile:
    return StoredFile(
        id=id_,
        tenant=tenant,
        filename=record["filename"],
        purpose=record["purpose"],
        content=Written(record["folder"], int(record["bytes"])),
        created_at=int(record["created_at"]),
        expires_at=int(record["expires_at"]) if "expires_at" in record else None,
    )
