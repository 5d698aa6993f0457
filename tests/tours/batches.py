"""The stops of the tour at files and batches."""

from __future__ import annotations

import json
from typing import Any

import openai
from openai.types import Batch

from tests.tours.target import FACTS, Target, refused, until

ENDED = ("completed", "failed", "expired", "cancelled")


def files(to: Target) -> None:
    content = b'{"a": 1}\n{"a": 2}\n'
    made = to.client.files.create(file=("tour.jsonl", content), purpose="batch")
    assert made.id.startswith("file-"), made
    assert (made.object, made.filename, made.bytes, made.purpose) == ("file", "tour.jsonl", len(content), "batch"), made
    assert to.client.files.retrieve(made.id).id == made.id
    assert made.id in [each.id for each in to.client.files.list(purpose="batch")]
    assert to.client.files.content(made.id).read() == content
    gone = to.client.files.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True), gone
    refused(openai.NotFoundError, lambda: to.client.files.retrieve(made.id))
    refused(openai.NotFoundError, lambda: to.client.files.content(made.id))


def batch(to: Target) -> None:
    numbers = range(5)
    made = submitted(to, [line(f"row-{number}", to.model) for number in numbers])
    assert made.id.startswith("batch_"), made
    assert made.endpoint == "/v1/chat/completions", made
    assert made.id in [each.id for each in to.client.batches.list(limit=5)]
    ended = until(lambda: to.client.batches.retrieve(made.id), lambda seen: seen.status in ENDED)
    assert ended.status == "completed", ended
    assert counts(ended) == (5, 5, 0), ended
    answers = lines(to, ended.output_file_id)
    assert set(answers) == {f"row-{number}" for number in numbers}, answers
    for answer in answers.values():
        assert answer["error"] is None, answer
        assert answer["response"]["status_code"] == 200, answer
        assert answer["response"]["body"]["object"] == "chat.completion", answer
        assert answer["response"]["body"]["choices"][0]["message"]["content"], answer


def batch_errors(to: Target) -> None:
    bad = line("bad", to.model)
    bad["body"]["temperature"] = 9
    made = submitted(to, [line("good", to.model), bad])
    ended = until(lambda: to.client.batches.retrieve(made.id), lambda seen: seen.status in ENDED)
    assert ended.status == "completed", ended
    assert counts(ended) == (2, 1, 1), ended
    assert set(lines(to, ended.output_file_id)) == {"good"}
    failed = lines(to, ended.error_file_id)
    assert set(failed) == {"bad"}, failed
    assert failed["bad"]["error"] or failed["bad"]["response"]["status_code"] >= 400, failed
    refused(
        openai.BadRequestError,
        lambda: to.client.batches.create(
            input_file_id="file-unknown", endpoint="/v1/chat/completions", completion_window="24h"
        ),
    )


def batch_cancel(to: Target) -> None:
    made = submitted(to, [line(f"row-{number}", to.model) for number in range(20)])
    assert to.client.batches.cancel(made.id).status in ("cancelling", "cancelled", "completed")
    ended = until(lambda: to.client.batches.retrieve(made.id), lambda seen: seen.status in ENDED)
    # It may have been quicker.
    assert ended.status in ("cancelled", "completed"), ended


def line(custom_id: str, model: str) -> dict[str, Any]:
    """A request of a batch."""
    body = {"model": model, "messages": [{"role": "user", "content": f"{FACTS} ({custom_id})"}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def submitted(to: Target, requests: list[dict[str, Any]]) -> Batch:
    content = "".join(json.dumps(request) + "\n" for request in requests).encode()
    given = to.client.files.create(file=("requests.jsonl", content), purpose="batch")
    return to.client.batches.create(
        input_file_id=given.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"tour": "1"}
    )


def lines(to: Target, file_id: str | None) -> dict[str, dict[str, Any]]:
    """The lines of a batch's file, by the request they are about."""
    assert file_id is not None
    found = [json.loads(each) for each in to.client.files.content(file_id).text.splitlines()]
    assert len({each["custom_id"] for each in found}) == len(found), found
    return {each["custom_id"]: each for each in found}


def counts(of: Batch) -> tuple[int, int, int]:
    """(all, completed, failed)."""
    assert of.request_counts is not None, of
    return of.request_counts.total, of.request_counts.completed, of.request_counts.failed


STOPS = {"files": files, "batch": batch, "batch-errors": batch_errors, "batch-cancel": batch_cancel}
