"""What a producer signs, and that a worker shows it to nobody."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.message import Message

from fleet.intake import Envelope
from fleet.submitted import NewJob
from queues.discreet import HIDDEN, Discreet

ROOT = Path(__file__).resolve().parents[2]
KEY = b"flk_an-example-that-opens-nothing-anywhere"


def example() -> dict[str, Any]:
    message: dict[str, Any] = json.loads((ROOT / "examples" / "intake_message.json").read_text())
    return message


def test_the_message_in_the_examples_is_signed_as_they_say() -> None:
    (_, given, _) = json.loads(example()["body"])
    envelope = Envelope.model_validate(given["envelope"])
    assert hmac.new(KEY, envelope.signed, hashlib.sha256).hexdigest() == envelope.signature
    assert NewJob.model_validate_json(envelope.job).name == "orders"
    assert KEY.decode() in (ROOT / "examples" / "README.md").read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"issued_at": 1.5},
        {"issued_at": True},
        {"issued_at": 2**53},
        {"issued_at": -1},
        {"issued_at": "1764150000"},
        {"nonce": "a\nb"},
        {"nonce": ""},
        {"nonce": "a\n"},
        {"tenant": "a b"},
        {"key": "k" * 256},
        {"signature": "A" * 64},
        {"job": {}},
        {"job": "x" * 10_000_001},
    ],
)
def test_no_two_envelopes_sign_the_same_lines(change: dict[str, Any]) -> None:
    (_, given, _) = json.loads(example()["body"])
    Envelope.model_validate(given["envelope"])
    with pytest.raises(ValueError, match=next(iter(change))):
        Envelope.model_validate(given["envelope"] | change)


def test_a_discreet_request_shows_its_arguments_to_nobody() -> None:
    app = Celery(set_as_current=False)

    @app.task(name="t", shared=False)
    def task(**_: Any) -> None: ...

    headers = {"id": "1", "task": "t", "argsrepr": "secret", "kwargsrepr": "secret", "shadow": "secret"}
    body = json.dumps([["secret"], {"envelope": "secret"}, {}])
    message = Message(body=body, content_type="application/json", content_encoding="utf-8", headers=headers)
    request = Discreet(message, app=app, task=app.tasks["t"], headers=headers, hostname="h")
    assert (request.argsrepr, request.kwargsrepr, request.name) == (HIDDEN, HIDDEN, "t")
    assert "secret" not in f"{request!r} {request} {request.info()} {request.info(safe=False)}"
    assert request.request_dict["kwargsrepr"] == HIDDEN, "what the tracer logs"
    assert request.kwargs == {"envelope": "secret"}, "the task gets it all the same"
    assert headers["kwargsrepr"] == "secret", "the message goes back as it came"
