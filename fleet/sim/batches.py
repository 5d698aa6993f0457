"""Batches of the simulated vendor: validated, worked off line by line at half the price, expired, cancelled.

A line is billed before its answer can be read. Source of states, limits, files and error codes: the vendor's guide and API
reference, "Batch API". It speaks no HTTP, and what an answer says is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.sim.asked import ApiError, Asked
from fleet.sim.files import Files
from fleet.sim.vendor import Call, Vendor

MAX_LINES = 50_000
MAX_ERRORS = 100
MAX_BATCHES = 10_000
WINDOW_S = 86_400.0
#: In the model's time.
VALIDATING_S, CANCELLING_S = 1.0, 1.0
EXPIRED = ("batch_expired", "This request could not be executed before the completion window expired.")
CANCELLED = ("batch_cancelled", "This request was not executed because the batch was cancelled.")
ENDED = frozenset(("failed", "completed", "expired", "cancelled"))

#: Reads the body of a line, and writes the answer to it.
Read = Callable[[Mapping[str, Any]], Asked]
Write = Callable[[Call], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a line asks: one of the vendor's routes."""

    read: Read
    #: Bills the call and writes its answer.
    answer: Write


@dataclass(frozen=True, slots=True)
class Line:
    """A valid line of an input file."""

    custom_id: str
    asked: Asked
    content: bytes


class InvalidLineError(Exception):
    """A line that keeps its whole batch from being run.

    Args:
        code, message: what the vendor says of it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(eq=False)
class _Batch:
    object: dict[str, Any]
    began: float
    outputs: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def ended(self) -> bool:
        return self.object["status"] in ENDED


class Batches:
    """The batches of one vendor, by id."""

    def __init__(self, vendor: Vendor, files: Files, endpoints: Mapping[str, Endpoint]) -> None:
        self._vendor = vendor
        self._files = files
        self._endpoints = endpoints
        self._batches: dict[str, _Batch] = {}

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Begins a batch; the batch object, `validating`. Raises ApiError: 400 for what the vendor refuses at once."""
        for name in ("input_file_id", "endpoint", "completion_window"):
            if not isinstance(body.get(name), str):
                raise ApiError(400, f"Missing required parameter: '{name}'.", param=name)
        if body["endpoint"] not in self._endpoints:
            known = ", ".join(f"'{name}'" for name in self._endpoints)
            raise ApiError(
                400, f"Invalid value: '{body['endpoint']}'. Supported values are: {known}.", param="endpoint"
            )
        if body["completion_window"] != "24h":
            raise ApiError(400, "Invalid value for 'completion_window': it must be '24h'.", param="completion_window")
        metadata = body.get("metadata") or {}
        if not isinstance(metadata, dict) or len(metadata) > 16:
            raise ApiError(400, "Invalid 'metadata': at most 16 pairs of strings.", param="metadata")
        if self._files.get(body["input_file_id"]).purpose != "batch":
            raise ApiError(400, "The input file has another purpose than 'batch'.", param="input_file_id")
        if len(self._batches) >= MAX_BATCHES:
            raise ApiError(429, "Too many batches.", code="rate_limit_exceeded")
        now = time.time()
        made = {
            "id": f"batch_{uuid.uuid4().hex}",
            "object": "batch",
            "endpoint": body["endpoint"],
            "errors": None,
            "input_file_id": body["input_file_id"],
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(now),
            "expires_at": int(now + WINDOW_S / self._vendor.settings.speed),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": metadata or None,
        } | dict.fromkeys(f"{state}_at" for state in ("in_progress", "finalizing", *sorted(ENDED), "cancelling"))
        batch = _Batch(made, asyncio.get_running_loop().time())
        self._batches[made["id"]] = batch
        batch.task = asyncio.create_task(self._work(batch))
        return dict(made)

    def get(self, ident: str) -> dict[str, Any]:
        """The batch object as it stands. Raises ApiError: 404, there is none."""
        return dict(self._found(ident).object)

    def listed(self, limit: int, after: str | None) -> dict[str, Any]:
        """A page of batches, the newest first."""
        objects = [batch.object for batch in reversed(self._batches.values())]
        start = next((at + 1 for at, one in enumerate(objects) if one["id"] == after), 0)
        page = objects[start : start + limit]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": start + limit < len(objects),
        }

    def cancel(self, ident: str) -> dict[str, Any]:
        """Starts no further line of a batch; one that has ended cannot be cancelled. Raises ApiError: 404, 400."""
        batch = self._found(ident)
        if batch.ended:
            raise ApiError(400, f"Cannot cancel a batch with status '{batch.object['status']}'.")
        if batch.object["status"] != "cancelling":
            _move(batch, "cancelling")
            if batch.task is not None:
                batch.task.cancel()
            batch.task = asyncio.create_task(self._wind_up(batch))
        return dict(batch.object)

    def _found(self, ident: str) -> _Batch:
        batch = self._batches.get(ident)
        if batch is None:
            raise ApiError(404, f"No batch found with id '{ident}'.")
        return batch

    async def _work(self, batch: _Batch) -> None:
        await self._vendor.pause(VALIDATING_S)
        lines, errors = self._validated(batch)
        waiting = [one.object["request_counts"] for one in self._batches.values() if not one.ended]
        if sum(one["total"] - one["completed"] for one in waiting) + len(lines) > self._vendor.settings.batch_lines:
            said = "Enqueued token limit reached. Please try again once some in_progress batches have been completed."
            errors.append({"code": "token_limit_exceeded", "message": said, "line": None, "param": None})
        if errors:
            batch.object["errors"] = {"object": "list", "data": errors}
            _move(batch, "failed")
            return
        batch.object["request_counts"]["total"] = len(lines)
        _move(batch, "in_progress")
        try:
            # Time is the clock's for both, so that a batch that would take longer than its window expires in its midst.
            async with asyncio.timeout_at(batch.began + WINDOW_S / self._vendor.settings.speed):
                for line in lines:
                    await self._vendor.pause(self._vendor.settings.batch_s / len(lines))
                    self._run(batch, line)
        except TimeoutError:
            self._leave(batch, lines[len(batch.outputs) + len(batch.errors) :], EXPIRED)
            self._end(batch, "expired")
        else:
            _move(batch, "finalizing")
            self._end(batch, "completed")

    async def _wind_up(self, batch: _Batch) -> None:
        await self._vendor.pause(CANCELLING_S)
        # One that was cancelled before it was validated has no lines.
        lines = self._validated(batch)[0] if batch.object["request_counts"]["total"] else []
        self._leave(batch, lines[len(batch.outputs) + len(batch.errors) :], CANCELLED)
        self._end(batch, "cancelled")

    def _run(self, batch: _Batch, line: Line) -> None:
        counts = batch.object["request_counts"]
        endpoint = self._endpoints[batch.object["endpoint"]]
        try:
            call = self._vendor.admit_line(line.asked, line.content, line.custom_id)
        except ApiError as error:
            batch.errors.append(_written(line, error.status, error.headers.get("x-request-id"), error.body))
            counts["failed"] += 1
            return
        batch.outputs.append(_written(line, 200, call.request_id, endpoint.answer(call)))
        counts["completed"] += 1

    def _leave(self, batch: _Batch, lines: list[Line], why: tuple[str, str]) -> None:
        """Says of lines that they were not run."""
        for line in lines:
            error = {"code": why[0], "message": why[1]}
            said = {"id": _request_id(), "custom_id": line.custom_id, "response": None, "error": error}
            batch.errors.append(json.dumps(said).encode())
        batch.object["request_counts"]["failed"] += len(lines)

    def _end(self, batch: _Batch, status: str) -> None:
        for name, lines in (("output", batch.outputs), ("error", batch.errors)):
            if lines:
                data = b"\n".join(lines) + b"\n"
                file = self._files.add(f"{batch.object['id']}_{name}.jsonl", "batch_output", data)
                batch.object[f"{name}_file_id"] = file.id
        batch.outputs, batch.errors = [], []
        _move(batch, status)

    def _validated(self, batch: _Batch) -> tuple[list[Line], list[dict[str, Any]]]:
        """The lines of the input file, and what is wrong with them."""
        file = self._files.find(batch.object["input_file_id"])
        raw = [] if file is None else file.data.splitlines()
        lines: list[Line] = []
        errors: list[dict[str, Any]] = []
        models: set[str] = set()
        known: set[str] = set()
        for number, content in enumerate(raw[:MAX_LINES], 1):
            try:
                line = self._line(content, batch.object["endpoint"])
                if line.custom_id in known:
                    raise InvalidLineError("duplicate_custom_id", "The custom_id for this request is a duplicate.")
                known.add(line.custom_id)
                if models and line.asked.model not in models:
                    raise InvalidLineError("mismatched_model", "A batch is for one model.")
                models.add(line.asked.model)
                lines.append(line)
            except InvalidLineError as error:
                errors.append({"code": error.code, "message": str(error), "line": number, "param": None})
                if len(errors) == MAX_ERRORS:
                    break
        if not raw:
            errors.append({"code": "empty_file", "message": "The input file is empty.", "line": None, "param": None})
        if len(raw) > MAX_LINES:
            said = f"A batch has {MAX_LINES} requests at most."
            errors.append({"code": "too_many_tasks", "message": said, "line": None, "param": None})
        return lines, errors

    def _line(self, content: bytes, endpoint: str) -> Line:
        try:
            said = json.loads(content)
            custom_id, body = said["custom_id"], said["body"]
            if not isinstance(custom_id, str) or not isinstance(body, dict):
                raise TypeError
        except (ValueError, LookupError, TypeError):
            raise InvalidLineError("invalid_json_line", "This line is not parseable as valid JSON.") from None
        if said.get("method") != "POST" or said.get("url") != endpoint:
            raise InvalidLineError("invalid_url", f"The URL of this request is not POST {endpoint}.")
        if body.get("stream") or body.get("background"):
            raise InvalidLineError(
                "invalid_request", "A request of a batch can neither stream nor run in the background."
            )
        try:
            asked = self._endpoints[endpoint].read(body)
            model = self._vendor.model(asked.model)
        except (ApiError, AttributeError, TypeError, KeyError) as error:
            code = error.body["error"]["code"] if isinstance(error, ApiError) else None
            raise InvalidLineError(code or "invalid_request", str(error)) from None
        if not model.batch:
            raise InvalidLineError("model_not_supported", f"{asked.model} is not available in the Batch API.")
        return Line(custom_id, asked, content)


def _move(batch: _Batch, status: str) -> None:
    batch.object["status"] = status
    batch.object[f"{status}_at"] = int(time.time())


def _written(line: Line, status: int, request_id: str | None, body: Mapping[str, Any]) -> bytes:
    response = {"status_code": status, "request_id": request_id, "body": body}
    said = {"id": _request_id(), "custom_id": line.custom_id, "response": response, "error": None}
    return json.dumps(said).encode()


def _request_id() -> str:
    return f"batch_req_{uuid.uuid4().hex}"
