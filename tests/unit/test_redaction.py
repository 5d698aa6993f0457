"""What may be told of texts, errors and values: one line, nothing for a terminal, no secret, nobody's words."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from redis.exceptions import ResponseError

from fleet.checks import Rejected
from fleet.errors import BadInputError, FleetError, PlanError, ProviderError
from fleet.redaction import HIDDEN, Redactor, causes, frames, named, neutral, secrets_in
from fleet.templates import render
from queues.claims import ClaimLost

CONTENT = "what-the-customer-wrote"


class Model(BaseModel):
    number: int


def raised(work: Callable[[], Any]) -> BaseException:
    try:
        work()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def chained() -> None:
    try:
        Model.model_validate({"number": CONTENT})
    except ValueError as error:
        raise KeyError(CONTENT) from error


@pytest.mark.parametrize(
    "work",
    [
        lambda: Model.model_validate({"number": CONTENT}),
        lambda: json.loads("{" + CONTENT),
        lambda: render("{{ item." + CONTENT.replace("-", "_") + ".x }} " + CONTENT, {"item": {}}),
        lambda: dict[str, int]()[CONTENT],
        f"\ud800{CONTENT}".encode,
        lambda: int(CONTENT),
        lambda: open(f"/nowhere/{CONTENT}"),  # noqa: PTH123, SIM115
        chained,
    ],
)
def test_of_an_error_that_quotes_somebody_its_type_is_told(work: Callable[[], Any]) -> None:
    error = raised(work)
    told = " ".join([*causes(error), *frames(error.__traceback__)])
    assert type(error).__name__ in told
    assert CONTENT not in told
    assert CONTENT.replace("-", "_") not in told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FleetError("The fleet is away."), "FleetError: The fleet is away."),
        (BadInputError(f'"{CONTENT}" is no tier.'), "BadInputError"),
        (PlanError(f"The plan says {CONTENT}."), "PlanError"),
        (Rejected(f"{CONTENT} breaks the rule"), "Rejected"),
        (ProviderError("openai limits.", kind="rate_limit", retryable=True), "ProviderError: openai limits."),
        (ClaimLost("The claim was lost."), "ClaimLost: The claim was lost."),
        (ResponseError("OOM command not allowed"), "ResponseError: OOM command not allowed"),
        (OSError(28, "No space left on device", f"/blobs/{CONTENT}"), "OSError: No space left on device"),
        (ValueError(), "ValueError"),
    ],
)
def test_errors_that_were_made_to_be_told_are(error: BaseException, told: str) -> None:
    assert named(error) == told


def test_where_an_error_was_raised_is_told_without_code_or_values() -> None:
    found = frames(raised(lambda: Model.model_validate({"number": CONTENT})).__traceback__)
    assert any(f"{__name__}:" in frame and frame.endswith(" raised") for frame in found)


@pytest.mark.parametrize(
    "text",
    [
        "redis://:p4ssw0rd@store:6379/0 does not answer",
        "redis://fleet:p4ssw0rd@store:6379/0",
        "amqp://fleet:p4ss@p4ssw0rd@rabbit/",
        "Authorization: Bearer p4ssw0rd",
        "{'Authorization': 'Bearer p4ssw0rd', 'x': 1}",
        '{"api_key": "p4ssw0rd"}',
        "X-Api-Key=p4ssw0rd&b=2",
        "password = p4ssw0rd",
        "bearer p4ssw0rd",
        "basic p4ssw0rd=",
        "sk-proj-p4ssw0rd is no key",
        "the key flk_p4ssw0rd",
        "whsec_p4ssw0rd+/=",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    told = Redactor().line(text)
    assert "p4ssw0rd" not in told
    assert HIDDEN in told


def test_addresses_ids_and_plain_words_stay() -> None:
    for text in ("http://127.0.0.1:9464/metrics", "j0199c2f4a11d03be7/topic/3", "basic work", "12 tokens of the key"):
        assert Redactor().line(text) == text


def test_secrets_that_the_process_has_are_hidden_however_they_look() -> None:
    variables = {
        "OPENAI_API_KEY": "unmistakable-1",
        "FLEET_REDIS_URL": "redis://fleet:unmistakable%2F2@store:6379/0",
        "FLEET_FLOWER_BASIC_AUTH": "admin:unmistakable-3",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=unmistakable-4,x-other=unmistakable-5",
        "VENDOR_TOKEN": "unmistakable-6",
        "HOME": "/home/fleet",
        "PASSWORD": "a",
    }
    redactor = Redactor(secrets_in(variables))
    for secret in (*(f"unmistakable-{i}" for i in (1, 3, 4, 5, 6)), "unmistakable/2", "unmistakable%2F2"):
        assert "unmistakable" not in redactor.line(f"it said {secret}, and more")
    assert redactor.line("a fleet at /home/fleet") == "a fleet at /home/fleet"


@given(st.text())
def test_a_line_has_nothing_that_a_terminal_or_a_reader_of_lines_acts_on(text: str) -> None:
    told = neutral(text)
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") or c == " " for c in told), (
        "no control character, no half character, no line break"
    )
    assert not set(told) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\ufeff")


def test_what_is_written_out_can_be_read() -> None:
    assert neutral("a\nb\x1b[31m\u202e\u2028é") == "a\\nb\\x1b[31m\\u202e\\u2028é"


def test_a_line_has_an_end() -> None:
    assert len(Redactor().line("x" * 1_000_000)) == 4_000
