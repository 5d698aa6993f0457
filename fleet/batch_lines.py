"""The lines of a batch: what a file of requests has to be like, and how their answers are written.

It owns OpenAI's form of both (https://platform.openai.com/docs/guides/batch, "JSONL"); it knows no store, and jobs by their
outcomes only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from fleet.config import Frozen
from fleet.sources import MAX_LINE_BYTES, lines, parsed, why
from fleet.uploads import Upload

MAX_REQUESTS = 50_000
MAX_CUSTOM_ID_CHARS = 512
#: Problems that are told; a file that is wrong throughout need not say so in every line.
MOST_TOLD = 50


class LineProblem(Frozen):
    """What is wrong with a line of a file; without a line, with the file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Requests:
    """What a file of requests is: how many, all for this model, or what is wrong with it."""

    count: int
    model: str | None
    problems: tuple[LineProblem, ...]


def check_requests(upload: Upload, endpoint: str, models: Collection[str]) -> Requests:
    """Look through a file of requests to `endpoint`, whose bodies name one and the same of `models`.

    Raises OSError: the file is gone.
    """
    reading = _Reading(endpoint, models)
    problems: list[LineProblem] = []
    with upload.path.open("rb") as file:
        for number, line in lines(file):
            if line is None or line.strip():
                problems += reading.problems(number, line)
            if len(problems) >= MOST_TOLD:
                break
            if reading.count > MAX_REQUESTS:
                problems = [LineProblem(code="too_many_requests", message=f"The most is {MAX_REQUESTS:,} requests.")]
                break
    if not problems and not reading.count:
        problems = [LineProblem(code="empty_file", message="The file holds no request.")]
    return Requests(reading.count, reading.model, tuple(problems[:MOST_TOLD]))


class _Reading:
    """What was seen of a file so far."""

    def __init__(self, endpoint: str, models: Collection[str]) -> None:
        self._endpoint = endpoint
        self._models = models
        self._custom_ids: set[str] = set()
        self.count = 0
        self.model: str | None = None

    def problems(self, number: int, line: bytes | None) -> Iterator[LineProblem]:
        """What is wrong with the next line; None is one that is too long."""
        self.count += 1
        if line is None:
            yield LineProblem(code="line_too_long", message=f"The line is over {MAX_LINE_BYTES:,} bytes.", line=number)
            return
        try:
            request = parsed(line)
            # What cannot be written again would be missing among the items.
            json.dumps(request, allow_nan=False)
        except (ValueError, RecursionError) as error:
            yield LineProblem(code="invalid_json_line", message=f"The line cannot be used: {why(error)}.", line=number)
            return
        if not isinstance(request, dict):
            yield LineProblem(code="invalid_json_line", message="The line holds no JSON object.", line=number)
            return
        for code, param, message in (*self._of_envelope(request), *self._of_body(request.get("body"))):
            yield LineProblem(code=code, message=message, line=number, param=param)

    def _of_envelope(self, request: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
        custom_id = request.get("custom_id")
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARS:
            yield (
                "invalid_custom_id",
                "custom_id",
                f"custom_id has to be text of 1 to {MAX_CUSTOM_ID_CHARS} characters.",
            )
        elif custom_id in self._custom_ids:
            yield (
                "duplicate_custom_id",
                "custom_id",
                "The custom_id stands in an earlier line, too; each has to be unique.",
            )
        else:
            self._custom_ids.add(custom_id)
        if request.get("method") != "POST":
            yield "invalid_method", "method", "method has to be POST."
        if request.get("url") != self._endpoint:
            yield "invalid_url", "url", f"url has to be the endpoint of the batch, {self._endpoint}."

    def _of_body(self, body: Any) -> Iterator[tuple[str, str, str]]:
        if not isinstance(body, dict):
            yield "missing_required_parameter", "body", "body has to be the request, a JSON object."
            return
        model = body.get("model")
        if not isinstance(model, str) or model not in self._models:
            yield "model_not_found", "body.model", f"body.model has to be one of {', '.join(self._models)}."
        elif self.model not in (None, model):
            yield "mismatched_model", "body.model", f"body.model is {self.model} above; a batch is for one model."
        else:
            self.model = model


def request_id(job_id: str, item: int) -> str:
    """The id of the request that an item of a job is, the same whenever it is asked for."""
    return hashlib.sha256(f"{job_id}/{item}".encode()).hexdigest()[:32]


def answer_line(id_: str, custom_id: str, body: dict[str, Any]) -> bytes:
    """The line of a request that was answered."""
    response = {"status_code": 200, "request_id": f"req_{id_}", "body": body}
    return _line(id_, custom_id, response, None)


def error_line(id_: str, custom_id: str, code: str, message: str) -> bytes:
    """The line of a request that was not."""
    return _line(id_, custom_id, None, {"code": code, "message": message})


def _line(id_: str, custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None) -> bytes:
    line = {"id": f"batch_req_{id_}", "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
