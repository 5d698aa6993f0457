"""Forms with a file in them (multipart/form-data, RFC 7578), read as they come and never whole.

It owns how much, how many and how slowly; a part's name and its file's name are what the caller says. The parsing is
aiohttp's. It knows nothing of what a file is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from email.message import Message
from typing import TYPE_CHECKING, Any, cast

from aiohttp import BodyPartReader, MultipartReader
from aiohttp.http_exceptions import HttpProcessingError
from fastapi import Request
from starlette.requests import ClientDisconnect

from fleet.api.bodies import PATIENCE_S
from fleet.api.openai_errors import OpenAIError

if TYPE_CHECKING:
    from aiohttp import StreamReader

MAX_PARTS = 20
MAX_FIELD_BYTES = 10_000
#: Around the bytes of parts, boundaries and headers: lines, and bytes of a line.
MAX_LINES, MAX_LINE_BYTES = 500, 8_192
#: Of a form besides its file, as far as that can be told from how long it is.
MAX_FRAME_BYTES = 1_000_000
CHUNK_BYTES = 256 * 1024
#: Bytes a second that a body has to come with on average, once `PATIENCE_S` is over.
SLOWEST = 20_000
#: What the parser raises for a form that is none.
_MALFORMED = (ValueError, LookupError, RuntimeError, AssertionError, HttpProcessingError)


class Part:
    """A part of a form, to be read before the next one is asked for: a field, or a file where it has a `filename`."""

    def __init__(self, reader: _Reader, most_bytes: int) -> None:
        self.name, self.filename = _disposition(reader.given)
        self._reader = reader
        self._most = most_bytes

    async def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes. Raises OpenAIError: there are too many, they are cut off, or come too slowly."""
        size = 0
        while not self._reader.at_eof():
            try:
                chunk = await self._reader.read_chunk(CHUNK_BYTES)
            except _MALFORMED as error:
                raise _malformed() from error
            size += len(chunk)
            if size > self._most:
                raise too_large(self._most)
            if chunk:
                yield chunk

    async def text(self) -> str:
        """The value of a field. Raises OpenAIError."""
        value = b""
        async for chunk in self.chunks():
            value += chunk
            if len(value) > MAX_FIELD_BYTES:
                raise OpenAIError(400, f"A field of the form is over {MAX_FIELD_BYTES:,} bytes.", param=self.name)
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise OpenAIError(400, "A field of the form is not UTF-8.", param=self.name) from None


async def parts(request: Request, most_bytes: int) -> AsyncGenerator[Part]:
    """The parts of a form, one after the other; none of over `most_bytes`.

    Raises:
        OpenAIError: it is no such form, too large, has too many parts, is cut off, or comes too slowly.
    """
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told[:20]) > most_bytes + MAX_FRAME_BYTES:
        raise too_large(most_bytes)
    headers = {"Content-Type": request.headers.get("content-type", "")}
    if not headers["Content-Type"].lower().startswith("multipart/form-data"):
        raise OpenAIError(400, "The body has to be a form: send it as multipart/form-data.")
    async with aclosing(request.stream()) as stream:
        try:
            reader = _Form(headers, cast("StreamReader", _Body(stream)))
            for _ in range(MAX_PARTS):
                part = await reader.next()
                if part is None:
                    return
                if not isinstance(part, _Reader):
                    raise _malformed()
                yield Part(part, most_bytes)
        except _MALFORMED as error:
            raise _malformed() from error
    raise OpenAIError(400, f"The form has over {MAX_PARTS} parts.")


def too_large(most_bytes: int) -> OpenAIError:
    """The refusal of a file that is over the cap."""
    return OpenAIError(413, f"The file is over {most_bytes:,} bytes; split it.", param="file", code="file_too_large")


class _Body:
    """A request's body as the parser reads it, which asks it for nothing else."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._ended = False
        self._received = self._lines = 0
        self._started = asyncio.get_running_loop().time()

    async def read(self, size: int) -> bytes:
        """`size` bytes; fewer at the end only."""
        while len(self._buffer) < size and await self._more():
            pass
        return self._taken(size)

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        # Lines are what is around the parts; of a body of line breaks there would be no end.
        self._lines += 1
        if self._lines > MAX_LINES:
            raise ValueError("too many lines")
        most = min(max_line_length or MAX_LINE_BYTES, MAX_LINE_BYTES)
        while (end := self._buffer.find(b"\n")) < 0 and len(self._buffer) <= most and await self._more():
            pass
        if end >= most or (end < 0 and len(self._buffer) > most):
            raise ValueError("a line is too long")
        return self._taken(len(self._buffer) if end < 0 else end + 1)

    def unread_data(self, data: bytes) -> None:
        self._buffer[:0] = data

    def at_eof(self) -> bool:
        return self._ended and not self._buffer

    def _taken(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _more(self) -> bool:
        if self._ended:
            return False
        try:
            async with asyncio.timeout_at(self._started + PATIENCE_S + self._received / SLOWEST):
                chunk = await anext(self._stream, b"")
        except TimeoutError:
            raise OpenAIError(408, "The body came too slowly.") from None
        except ClientDisconnect:
            raise OpenAIError(400, "The body was cut off.") from None
        self._ended = not chunk
        self._received += len(chunk)
        self._buffer += chunk
        return True


class _Reader(BodyPartReader):
    """A part by its bytes alone: the parser would follow lengths and encodings that parts of forms do not have (4.7, 4.8)."""

    def __init__(self, boundary: bytes, headers: Mapping[str, str], content: Any, **options: Any) -> None:
        nothing: Any = {}
        super().__init__(boundary, nothing, content, **options)
        self.given = headers


class _Form(MultipartReader):
    part_reader_cls = _Reader


def _disposition(headers: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The name of a part, and that of its file."""
    message = Message()
    message["Content-Disposition"] = headers.get("Content-Disposition", "")
    name = message.get_param("name", header="content-disposition")
    return name if isinstance(name, str) else None, message.get_filename()


def _malformed() -> OpenAIError:
    return OpenAIError(
        400, "The body is no form as multipart/form-data has it: a boundary, header or end is missing or wrong."
    )
