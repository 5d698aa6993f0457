"""Batches at an OpenAI-compatible vendor: files of calls sent, begun, looked at, read, cancelled; see `base.BatchProvider`.

The vendor's side; batches that callers send to the fleet's own API are `fleet.batches`. Source of routes, files and states: the
vendor's API reference, "Batch" and "Files". It never retries and keeps nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
from pydantic_core import to_json

from fleet.errors import ProviderError
from fleet.providers import failures
from fleet.providers.base import BatchStanding, Completion, ModelRequest
from fleet.providers.exchange import Answer, Body
from fleet.providers.wires import FailedAnswerError, Wire

#: A question, and what sends or reads a whole file.
ASK_S, FILE_S = 30.0, 600.0
#: The name that our mark has in a batch's metadata.
MARK = "tierfleet_batch"
WINDOW = "24h"
ENDED = frozenset(("completed", "expired", "cancelled", "failed"))
#: The code of a batch that would have more tokens wait than the account may have.
TOO_MANY = "token_limit_exceeded"
#: Batches of a page, and pages that are looked through for a mark.
PAGE, MOST_PAGES = 100, 50
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:=~-]{0,255}")
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)

#: A request sent to a path below the base URL: method, path, whose it is, timeout, body.
Send = Callable[[str, str, ModelRequest, float, "Body | None"], Awaitable[Answer]]
#: The completion that a body says, read by a wire.
Read = Callable[[Wire, Mapping[str, Any], ModelRequest, "str | None", Mapping[str, str]], Completion]


class VendorBatches:
    """The batches of one account.

    Args:
        name: what messages call the provider.
        wires: those that its requests may go by.
        asked: the wire that a request goes by, and its body there.
        send: raises ProviderError.
        read: raises what is no answer of the wire.
    """

    def __init__(
        self,
        name: str,
        wires: Iterable[Wire],
        asked: Callable[[ModelRequest], tuple[Wire, dict[str, Any]]],
        send: Send,
        read: Read,
    ) -> None:
        self._name = name
        self._wires = {_route(wire): wire for wire in wires}
        self._asked = asked
        self._send = send
        self._read = read

    def line(self, request: ModelRequest) -> tuple[str, bytes]:
        wire, body = self._asked(request)
        route = _route(wire)
        return route, to_json({"custom_id": request.call_id, "method": "POST", "url": route, "body": body})

    async def upload(self, lines: bytes) -> str:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", lines, filename="lines.jsonl", content_type="application/jsonl")
        said = await self._json("POST", "/files", FILE_S, form)
        return self._id(said)

    async def begin(self, file: str, route: str, mark: str) -> BatchStanding:
        asked = {"input_file_id": file, "endpoint": route, "completion_window": WINDOW, "metadata": {MARK: mark}}
        return self._standing(await self._json("POST", "/batches", ASK_S, asked))

    async def find(self, mark: str, since: float) -> BatchStanding | None:
        found: BatchStanding | None = None
        after = ""
        for _ in range(MOST_PAGES):
            said = await self._json("GET", f"/batches?limit={PAGE}{after}", ASK_S)
            try:
                page = [one for one in said["data"] if one["created_at"] >= since]
                for one in page:
                    if one["status"] != "failed" and (one.get("metadata") or {}).get(MARK) == mark:
                        found = self._standing(one)
                if len(page) < len(said["data"]) or not said.get("has_more") or not page:
                    break
                after = f"&after={quote(self._id(page[-1]), safe='')}"
            except _UNREADABLE:
                raise failures.malformed(self._name, None) from None
        return found

    async def look(self, handle: str) -> BatchStanding:
        return self._standing(await self._json("GET", f"/batches/{quote(handle, safe='')}", ASK_S))

    async def cancel(self, handle: str) -> None:
        await self._json("POST", f"/batches/{quote(handle, safe='')}/cancel", ASK_S)

    async def answers(self, standing: BatchStanding, route: str) -> dict[str, Completion | ProviderError]:
        found: dict[str, Completion | ProviderError] = {}
        for file in standing.answers:
            path = f"/files/{quote(file, safe='')}/content"
            answer = await self._send("GET", path, _nobody(), FILE_S, None)
            for said in self._lines(answer.content):
                call_id = said.get("custom_id")
                if isinstance(call_id, str) and call_id not in found:
                    found[call_id] = self._answer(said, call_id, route)
        # What is missing in a file that was cut short would be taken for what was not run, and not billed.
        if sum(not isinstance(one, ProviderError) or one.maybe_billed for one in found.values()) < standing.answered:
            raise failures.malformed(self._name, None)
        return found

    async def forget(self, standing: BatchStanding) -> None:
        for file in standing.files:
            try:
                await self._send("DELETE", f"/files/{quote(file, safe='')}", _nobody(), ASK_S, None)
            except ProviderError:
                return  # it goes by itself some day

    def _answer(self, said: Mapping[str, Any], call_id: str, route: str) -> Completion | ProviderError:
        """What a line of an answers' file says of its call."""
        # What is in the body was asked for as JSON: where no usage is reported, it is estimated from what there is.
        request = ModelRequest(call_id=call_id, model="", prompt="")
        request_id = None
        try:
            if said.get("error") is not None:
                return failures.failed_line(self._name, str(said["error"].get("code")), None)
            response = said["response"]
            request_id = response.get("request_id")
            if response["status_code"] != 200:
                return failures.failed_line(self._name, str(response["status_code"]), request_id)
            return self._read(self._wires[route], response["body"], request, request_id, {})
        except FailedAnswerError as error:
            return failures.failed_answer(self._name, str(error), request_id, billed=error.billed)
        except _UNREADABLE:
            return failures.malformed(self._name, request_id)

    def _lines(self, content: bytes) -> Iterator[dict[str, Any]]:
        """The lines of a file. Raises ProviderError: one of them cannot be read."""
        for line in content.split(b"\n"):
            if line.strip():
                try:
                    said = json.loads(line)
                except ValueError:
                    said = None
                if not isinstance(said, dict):
                    raise failures.malformed(self._name, None)
                yield said

    def _standing(self, said: Mapping[str, Any]) -> BatchStanding:
        """Raises ProviderError: it is no batch."""
        try:
            files = [said.get(name) for name in ("input_file_id", "output_file_id", "error_file_id")]
            known = [file if isinstance(file, str) and _ID.fullmatch(file) else None for file in files]
            return BatchStanding(
                self._id(said),
                said["status"] in ENDED,
                full=said["status"] == "failed" and _codes(said) == {TOO_MANY},
                cancelled=said["status"] == "cancelled",
                files=tuple(filter(None, known)),
                answers=tuple(filter(None, known[1:])),
                answered=int((said.get("request_counts") or {}).get("completed") or 0),
            )
        except _UNREADABLE:
            raise failures.malformed(self._name, None) from None

    async def _json(self, method: str, path: str, timeout_s: float, body: Body | None = None) -> dict[str, Any]:
        answer = await self._send(method, path, _nobody(), timeout_s, body)
        try:
            said = json.loads(answer.content)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise failures.malformed(self._name, answer.headers.get("x-request-id"))
        return said

    def _id(self, said: Mapping[str, Any]) -> str:
        """An id becomes part of a path, and is written down: nothing odd is taken for one."""
        found = said.get("id")
        if not isinstance(found, str) or not _ID.fullmatch(found):
            raise failures.malformed(self._name, None)
        return found


def _codes(said: Mapping[str, Any]) -> set[str]:
    """What the vendor found wrong with a batch."""
    return {str(error.get("code")) for error in (said.get("errors") or {}).get("data") or ()}


def _route(wire: Wire) -> str:
    """What a batch calls the path of a wire, whatever the base URL is."""
    return f"/v1{wire.path}"


def _nobody() -> ModelRequest:
    """Whose requests are that are about many calls."""
    return ModelRequest(call_id="batch", model="any model", prompt="")
