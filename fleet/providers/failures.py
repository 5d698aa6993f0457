"""Every way a call to an OpenAI-compatible vendor fails, as one `ProviderError` that carries its own decision.

Messages hold no prompt, output or key: of what the vendor says only its error code and parameter name are repeated.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping

import aiohttp
from openai import APIStatusError

from fleet.errors import ProviderError, ProviderErrorKind
from fleet.providers.limits import told

#: A wait a vendor asks for is bounded, so that a bad header cannot park a fleet for days.
MAX_RETRY_AFTER_S = 3600.0
_PLAIN = re.compile(r"[\w.\[\]-]{1,80}")
_QUOTA_CODES = frozenset(
    ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated", "quota_exceeded")
)
#: The code of a call that asked for flex while there is no capacity for it. Source: the vendor's guide on flex processing.
NO_ROOM = "resource_unavailable"
#: Codes of a failed answer that blame the request: the same one fails again. Source: the client's `ResponseError.code`.
_INPUT_CODES = re.compile(r"invalid_prompt|data_residency_mismatch|\w+_policy(_violation)?|\w*image\w*")
#: What the vendor says of lines of a batch that it did not run. Source: its API reference, "The request output object".
_LINES: dict[str, tuple[ProviderErrorKind, str]] = {
    "batch_expired": ("expired", "was not run within the time that batches have"),
    "batch_cancelled": ("cancelled", "was not run before the batch was cancelled"),
    "request_timeout": ("timeout", "took too long"),
}
#: Raised before a single byte of the request was sent.
BEFORE_SENDING = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.ClientHttpProxyError,
)


def from_status(error: APIStatusError, *, provider: str, model: str, key_env: str) -> ProviderError:
    """The error of an answer with a status of 300 or above."""
    status = error.status_code
    kind, retryable, what = _decision(status, error.code or error.type or "", model, key_env)
    return ProviderError(
        f"{provider} {what} (HTTP {status}{_hint(error)}).",
        kind=kind,
        retryable=retryable,
        retry_after=retry_after(error.response.headers) if retryable else None,
        # A gateway that gave up waiting says nothing about what went on behind it.
        maybe_billed=status in (408, 504),
        request_id=error.request_id,
        told=told(error.response.headers),
    )


def from_connection(error: aiohttp.ClientError | OSError, *, provider: str, timeout_s: float) -> ProviderError:
    """The error of a call without an answer: refused, broken off, or out of time.

    Only what failed before sending is surely not billed.
    """
    if isinstance(error, BEFORE_SENDING):
        return ProviderError(
            f"{provider} cannot be reached; check the base URL and the network.", kind="connection", retryable=True
        )
    if isinstance(error, aiohttp.ClientResponseError):  # it is no HTTP
        return malformed(provider, None)
    if isinstance(error, TimeoutError):
        return timed_out(provider, timeout_s)
    return ProviderError(
        f"{provider} broke off the connection before its answer was complete.",
        kind="connection",
        retryable=True,
        maybe_billed=True,
    )


def timed_out(provider: str, timeout_s: float) -> ProviderError:
    return ProviderError(
        f"{provider} gave no answer within {timeout_s:g} s.", kind="timeout", retryable=True, maybe_billed=True
    )


def unreachable(provider: str, handle: str, timeout_s: float) -> ProviderError:
    return ProviderError(
        f"{provider} could not be asked for {timeout_s:g} s what became of a call that was begun in the background.",
        kind="unreachable",
        retryable=True,
        maybe_billed=True,
        request_id=handle,
    )


def malformed(provider: str, request_id: str | None) -> ProviderError:
    return ProviderError(
        f"{provider} sent an answer that cannot be read; it may be cut short, or not an OpenAI-compatible server.",
        kind="malformed",
        retryable=True,
        maybe_billed=True,
        request_id=request_id,
    )


def failed_answer(provider: str, code: str, request_id: str | None, *, billed: bool = False) -> ProviderError:
    """The error of an answer whose status says that there is none, as the vendor's error code (or the status) tells."""
    if code == "cancelled":
        return ProviderError(
            f"{provider} reports that the call was cancelled.",
            kind="cancelled",
            retryable=False,
            # How far it came before that is not always told.
            maybe_billed=True,
            request_id=request_id,
        )
    kind: ProviderErrorKind = "server"
    if code == "rate_limit_exceeded":
        kind = "rate_limit"
    elif code in _QUOTA_CODES:
        kind = "quota"
    elif _INPUT_CODES.fullmatch(code):
        kind = "bad_request"
    return ProviderError(
        f"{provider} reports that the model failed (code {code if _PLAIN.fullmatch(code) else 'unknown'}).",
        kind=kind,
        retryable=kind not in ("bad_request", "quota"),
        maybe_billed=billed,
        request_id=request_id,
    )


def failed_line(provider: str, code: str, request_id: str | None) -> ProviderError:
    """The error of a line of a batch that has no answer: the vendor's code, or the HTTP status that it got. It is not billed."""
    kind, what = _LINES.get(code, ("server", f"failed on it (code {code if _PLAIN.fullmatch(code) else 'unknown'})"))
    if kind == "server" and code.isdigit() and code.startswith("4"):
        kind = "rate_limit" if code == "429" else "bad_request"
    return ProviderError(
        f"{provider} gave no answer to a line of a batch: it {what}.",
        kind=kind,
        retryable=kind != "bad_request",
        request_id=request_id,
    )


def unknown_handle(provider: str, handle: str) -> ProviderError:
    return ProviderError(
        f"{provider} no longer knows a call that was begun in the background; its answer is lost.",
        kind="not_found",
        retryable=False,
        maybe_billed=True,
        request_id=handle,
    )


def while_it_runs(error: ProviderError, handle: str) -> ProviderError:
    """The error of asking for a call in the background: that call was sent, whatever became of the asking."""
    return ProviderError(
        str(error),
        kind=error.kind,
        retryable=error.retryable,
        retry_after=error.retry_after,
        maybe_billed=True,
        request_id=handle,
        told=error.told,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (seconds or an HTTP date, RFC 9110), at most an hour."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        given = headers.get(name)
        if given is None:
            continue
        try:
            parsed = email.utils.parsedate_tz(given) if name == "retry-after" else None
            seconds = float(given) * unit if parsed is None else email.utils.mktime_tz(parsed) - time.time()
        except (ValueError, OverflowError):
            continue
        if not math.isnan(seconds):
            return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
    return None


def _decision(status: int, code: str, model: str, key_env: str) -> tuple[ProviderErrorKind, bool, str]:
    if status == 401:
        return "auth", False, f"refused the key; set {key_env} to one that may use the model {model}"
    if status == 402 or code in _QUOTA_CODES:
        return "quota", False, "says the account's quota is used up; raise it with the vendor"
    if status == 403:
        return (
            "forbidden",
            False,
            f"does not allow this call to {model}; what it asks for or the key in {key_env} may not do it",
        )
    if status == 404:
        return "not_found", False, f"knows no model {model} at this address; check the model's name and the base URL"
    if status == 429 and code == NO_ROOM:
        return "unavailable", True, f"has no room for {model} at the service tier that was asked for"
    if status == 429:
        return "rate_limit", True, f"limits the rate of {model}"
    if status == 408:
        return "timeout", True, "took too long"
    if status in (503, 529):
        return "overloaded", True, "is overloaded"
    if status == 409 or status >= 500:
        return "server", True, "had an error of its own"
    return "bad_request", False, f"does not accept the request for {model}"


def _hint(error: APIStatusError) -> str:
    named = (("code", error.code), ("type", None if error.code else error.type), ("param", error.param))
    return "".join(f", {name} {value}" for name, value in named if value and _PLAIN.fullmatch(value))
