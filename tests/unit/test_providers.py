"""Failures told apart without a server, and which address, key and wire an account gets."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import aiohttp
import httpx2
import pytest
from openai import APIStatusError

from fleet.config import Environment, ProviderConfig
from fleet.errors import BadInputError, ProviderError
from fleet.providers import connect
from fleet.providers.failures import MAX_RETRY_AFTER_S, failed_answer, from_connection, from_status, retry_after
from fleet.providers.openai import OpenAIProvider

SIM = "http://127.0.0.1:1/v1"
REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/responses")


def status_error(status: int, code: str | None = None, **headers: str) -> ProviderError:
    response = httpx2.Response(status, headers={"x-request-id": "req_1", **headers}, request=REQUEST)
    body = {"message": "You said: my secret prompt, key sk-123", "code": code, "param": "input[0]", "type": "t"}
    error = APIStatusError("said: my secret prompt, key sk-123", response=response, body=body)
    return from_status(error, provider="openai", model="m", key_env="SOME_KEY")


@pytest.mark.parametrize(
    ("status", "code", "kind", "retryable"),
    [
        (400, "invalid_value", "bad_request", False),
        (401, "invalid_api_key", "auth", False),
        (402, None, "quota", False),
        (403, None, "forbidden", False),
        (404, "model_not_found", "not_found", False),
        (408, None, "timeout", True),
        (409, None, "server", True),
        (413, None, "bad_request", False),
        (422, None, "bad_request", False),
        (429, "rate_limit_exceeded", "rate_limit", True),
        (429, "insufficient_quota", "quota", False),
        (500, None, "server", True),
        (502, None, "server", True),
        (503, None, "overloaded", True),
        (529, None, "overloaded", True),
    ],
)
def test_a_status_decides(status: int, code: str | None, kind: str, retryable: bool) -> None:
    error = status_error(status, code)
    assert (error.kind, error.retryable, error.request_id) == (kind, retryable, "req_1")
    assert f"HTTP {status}" in str(error)
    assert "secret" not in str(error)
    assert "sk-123" not in str(error)


def test_only_a_gateway_that_gave_up_may_have_billed() -> None:
    assert [
        status for status in (400, 401, 404, 408, 409, 429, 500, 503, 504) if status_error(status).maybe_billed
    ] == [
        408,
        504,
    ]


def test_the_wait_the_vendor_asks_for() -> None:
    assert status_error(429, **{"retry-after": "2.5"}).retry_after == 2.5
    assert status_error(429, **{"retry-after": "2.5", "retry-after-ms": "250"}).retry_after == 0.25
    assert status_error(429, **{"retry-after": "2.5", "retry-after-ms": "soon"}).retry_after == 2.5
    assert status_error(429, **{"retry-after": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"}).retry_after is None
    assert status_error(401, **{"retry-after": "2.5"}).retry_after is None
    assert status_error(503).retry_after is None
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "nan"}) is None
    assert retry_after({"retry-after": "-1"}) == 0
    assert retry_after({"retry-after": "999999"}) == MAX_RETRY_AFTER_S
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < (retry_after({"retry-after": date}) or 0) <= 30


@pytest.mark.parametrize(
    ("cause", "kind", "maybe_billed"),
    [
        (aiohttp.ServerDisconnectedError(), "connection", True),
        (aiohttp.ClientPayloadError(), "connection", True),
        (aiohttp.SocketTimeoutError(), "timeout", True),
        (aiohttp.ConnectionTimeoutError(), "connection", False),
        (ConnectionResetError(), "connection", True),
    ],
)
def test_a_connection_is_told_by_its_cause(cause: aiohttp.ClientError | OSError, kind: str, maybe_billed: bool) -> None:
    error = from_connection(cause, provider="openai", timeout_s=5)
    assert (error.kind, error.retryable, error.maybe_billed) == (kind, True, maybe_billed)


def test_a_failed_answer_says_its_code_and_no_more() -> None:
    assert failed_answer("openai", "rate_limit_exceeded", None).kind == "rate_limit"
    assert "my secret" not in str(failed_answer("openai", "my secret", None))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("server_error", "server"),
        ("vector_store_timeout", "server"),
        ("one_of_next_year", "server"),
        ("invalid_prompt", "bad_request"),
        ("bio_policy", "bad_request"),
        ("misalignment_policy_violation", "bad_request"),
        ("image_content_policy_violation", "bad_request"),
        ("invalid_base64_image", "bad_request"),
        ("invalid_image_url", "bad_request"),
        ("image_file_too_large", "bad_request"),
        ("insufficient_quota", "quota"),
        ("cancelled", "cancelled"),
    ],
)
def test_a_failed_answer_is_asked_again_unless_the_request_is_to_blame(code: str, kind: str) -> None:
    error = failed_answer("openai", code, None)
    assert (error.kind, error.retryable) == (kind, kind == "server")


def test_a_failed_answer_is_billed_as_the_vendor_states() -> None:
    assert not failed_answer("openai", "server_error", None).maybe_billed
    assert failed_answer("openai", "server_error", None, billed=True).maybe_billed
    # Nobody says how far a cancelled call came.
    assert failed_answer("openai", "cancelled", None).maybe_billed


def environment(**given: Any) -> Environment:
    unset = {"openai_api_key": None, "openai_base_url": None}
    return Environment(**{**unset, **given})


def connected(config: ProviderConfig, given: Environment, simulated_url: str | None = SIM) -> tuple[str, str, str]:
    provider = connect("acme", config, given, simulated_url)
    assert isinstance(provider, OpenAIProvider)
    client = provider._exchange._client
    return str(client.base_url), type(provider._wire).__name__, client.api_key


def test_without_key_and_address_the_simulated_provider_stands_in() -> None:
    assert connected(ProviderConfig(), environment()) == (f"{SIM}/", "ResponsesWire", "none")
    with pytest.raises(BadInputError, match="OPENAI_API_KEY"):
        connect("acme", ProviderConfig(), environment(), None)


def test_the_standard_is_asked_for_of_the_vendor_and_of_the_simulated_provider() -> None:
    def says(**given: Any) -> bool:
        return connect("acme", ProviderConfig(), environment(**given), SIM).says_default

    assert says()
    assert says(openai_api_key="k")
    assert not says(openai_base_url="http://127.0.0.1:2/v1")


def test_with_a_key_it_is_the_vendor() -> None:
    assert connected(ProviderConfig(), environment(openai_api_key="k")) == (
        "https://api.openai.com/v1/",
        "ResponsesWire",
        "k",
    )


def test_another_address_speaks_chat_unless_told_otherwise() -> None:
    there = "http://127.0.0.1:2/v1"
    given = environment(openai_base_url=there)
    assert connected(ProviderConfig(), given) == (f"{there}/", "ChatWire", "none")
    assert connected(ProviderConfig(wire="responses"), given)[1] == "ResponsesWire"
    assert connected(ProviderConfig(base_url=there), environment(openai_api_key="k")) == (f"{there}/", "ChatWire", "k")
    assert connected(ProviderConfig(), environment(openai_base_url=SIM))[1] == "ResponsesWire"


def test_a_key_of_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ProviderConfig(base_url="http://127.0.0.1:2/v1", key_env="ACME_KEY")
    monkeypatch.setenv("ACME_KEY", "a")
    assert connected(config, environment())[2] == "a"
    monkeypatch.delenv("ACME_KEY")
    vendor = ProviderConfig(base_url="https://api.openai.com/v1", key_env="ACME_KEY")
    with pytest.raises(BadInputError, match="set ACME_KEY"):
        connect("acme", vendor, environment(openai_api_key="k"), SIM)
