"""The lines of a batch: what is wrong with a file of requests, and how answers are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from fleet import batch_lines
from fleet.batch_lines import Requests, answer_line, check_requests, error_line, request_id
from fleet.chat_answers import completion
from fleet.jobs import Outcome
from fleet.prices import Usage
from fleet.uploads import Upload
from tests.support.api import requests

ENDPOINT = "/v1/chat/completions"
MODELS = ("nano", "mini", "auto")
BODY = {"model": "nano", "messages": [{"role": "user", "content": "hi"}]}
GOOD = {"custom_id": "a", "method": "POST", "url": ENDPOINT, "body": BODY}


def checked(folder: Path, data: bytes) -> Requests:
    (folder / "file").write_bytes(data)
    return check_requests(Upload(folder / "file", "a.jsonl"), ENDPOINT, MODELS)


def problems(folder: Path, *lines: Any) -> list[tuple[int | None, str, str | None]]:
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    return [(one.line, one.code, one.param) for one in checked(folder, data).problems]


def test_a_good_file(tmp_path: Path) -> None:
    assert checked(tmp_path, b"\xef\xbb\xbf" + requests(3, model="mini") + b"\n\n") == Requests(3, "mini", ())


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"\xff", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        (b'{"custom_id": "a", "body": {"temperature": 1e999}}', "invalid_json_line", None),
        (b"x" * 10_000_001, "line_too_long", None),
        (GOOD | {"custom_id": ""}, "invalid_custom_id", "custom_id"),
        (GOOD | {"custom_id": "x" * 513}, "invalid_custom_id", "custom_id"),
        (GOOD | {"custom_id": 1}, "invalid_custom_id", "custom_id"),
        (GOOD | {"method": "GET"}, "invalid_method", "method"),
        (GOOD | {"url": "/v1/embeddings"}, "invalid_url", "url"),
        (GOOD | {"url": "https://example.com/v1/chat/completions"}, "invalid_url", "url"),
        (GOOD | {"body": None}, "missing_required_parameter", "body"),
        (GOOD | {"body": BODY | {"model": "gpt-4"}}, "model_not_found", "body.model"),
        (GOOD | {"body": BODY | {"model": ["nano"]}}, "model_not_found", "body.model"),
    ],
)
def test_a_line_that_cannot_be_a_request_is_named(tmp_path: Path, line: Any, code: str, param: str | None) -> None:
    assert problems(tmp_path, GOOD | {"custom_id": "before"}, b"", line) == [(3, code, param)]


def test_lines_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD, GOOD, GOOD | {"custom_id": "b", "body": BODY | {"model": "mini"}}) == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "mismatched_model", "body.model"),
    ]


def test_files_with_no_request_or_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(tmp_path, b"", b"  ") == [(None, "empty_file", None)]
    monkeypatch.setattr(batch_lines, "MAX_REQUESTS", 3)
    assert checked(tmp_path, requests(3)).problems == ()
    assert [one.code for one in checked(tmp_path, requests(4)).problems] == ["too_many_requests"]


def test_of_a_file_that_is_wrong_throughout_only_some_lines_are_named(tmp_path: Path) -> None:
    found = checked(tmp_path, b"{\n" * 1_000)
    assert (len(found.problems), found.count) == (batch_lines.MOST_TOLD, batch_lines.MOST_TOLD)


def test_an_answer_is_a_chat_completion_as_the_client_reads_one() -> None:
    usage = Usage(input_tokens=10, cached_tokens=4, output_tokens=7, reasoning_tokens=2)
    answer = {"message": {"role": "assistant", "content": "hé"}, "finish_reason": "stop"}
    outcome = Outcome(step="answer", status="ok", output=answer, model="gpt", usage=usage)
    id_ = request_id("acme.j1", 7)
    line = json.loads(answer_line(id_, "a", completion(id_, 1, "gpt", outcome)))
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("a", None, 200)
    read = ChatCompletion.model_validate(line["response"]["body"], strict=True)
    assert (read.choices[0].message.content, read.choices[0].finish_reason) == ("hé", "stop")
    assert read.usage is not None
    assert (read.usage.prompt_tokens, read.usage.completion_tokens, read.usage.total_tokens) == (10, 7, 17)


def test_a_request_that_failed_says_why() -> None:
    line = json.loads(error_line("1", "a", "batch_expired", "Too late."))
    assert line == {
        "id": "batch_req_1",
        "custom_id": "a",
        "response": None,
        "error": {"code": "batch_expired", "message": "Too late."},
    }


def test_ids_follow_from_job_and_item() -> None:
    assert len({request_id("j1", 1), request_id("j1", 1), request_id("j1", 2), request_id("j2", 1)}) == 3
