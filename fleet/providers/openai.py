"""The provider for OpenAI and everybody who speaks its protocols: authenticates, sends, reads, and says what failed.

It knows no job, no budget and no limit, and it never retries: permits and tries are the executor's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from openai import APIStatusError

from fleet.config import ProviderConfig
from fleet.errors import ProviderError
from fleet.prices import Usage
from fleet.providers import failures
from fleet.providers.background import UNFINISHED, EndedError, Follower, Unfinished
from fleet.providers.base import DEFAULT_TIER, BatchProvider, Completion, ModelRequest, Started
from fleet.providers.exchange import Answer, Body, Exchange
from fleet.providers.limits import told
from fleet.providers.vendor_batches import VendorBatches
from fleet.providers.wires import ChatWire, FailedAnswerError, Found, ResponsesWire, Wire
from fleet.tokens import estimate_tokens

VENDOR_URL = "https://api.openai.com/v1"
VENDOR_HOST = "api.openai.com"
#: Cancelling saves money at best, so it may not hold anybody up for long.
CANCEL_TIMEOUT_S = 5.0
CANCEL_TRIES = 3
CANCEL_WAIT_S = 0.2
#: It becomes part of a path and is journalled, so nothing odd is taken for one.
_HANDLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:=~-]{0,255}")
#: What reading something else than an answer raises.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)

logger = logging.getLogger(__name__)


class OpenAIProvider:
    """An account at one base URL over one wire.

    Args:
        config: wire `responses` or `chat`; `auto` means responses here, `connect` resolves it by host.
        base_url: up to and with `/v1`.
        api_key: sent as bearer token, in no message ever.
        name: what messages call the provider.
    """

    def __init__(self, config: ProviderConfig, base_url: str, api_key: str, *, name: str = "The provider") -> None:
        self._name = name
        self._key_env = config.key_env
        self._wire = _wire(config, base_url)
        #: Others than the vendor may refuse a parameter that they do not know.
        self._cache_keys = is_vendor(base_url) if config.cache_key is None else config.cache_key
        self._says_default = is_vendor(base_url) if config.service_tier is None else config.service_tier
        #: Conversations are in this form, and everybody speaks it.
        self._chat = self._wire if isinstance(self._wire, ChatWire) else _chat(base_url)
        self._exchange = Exchange(base_url, api_key)
        self._batches = VendorBatches(name, (self._wire, self._chat), self._asked, self._send, self._completion)

    @property
    def reattaches(self) -> bool:
        """True on the responses wire. A server of that wire which lacks it is for tiers with `background: never`."""
        return isinstance(self._wire, ResponsesWire)

    @property
    def says_default(self) -> bool:
        return self._says_default

    @property
    def batches(self) -> BatchProvider:
        """Whether a model is taken in batches its configuration says."""
        return self._batches

    async def complete(self, request: ModelRequest, started: Started | None = None) -> Completion:
        """The answer of the model, within `request.timeout_s` seconds all told.

        Raises:
            ProviderError: there was none; the error says whether and when to ask again.
        """
        if request.background and self.reattaches:
            return await self._in_background(request, started)
        wire, body = self._asked(request)
        answer = await self._send("POST", wire.path, request, request.timeout_s, body)
        request_id = answer.headers.get("x-request-id")
        try:
            return self._completion(wire, json.loads(answer.content), request, request_id, answer.headers)
        except FailedAnswerError as error:
            raise failures.failed_answer(self._name, str(error), request_id, billed=error.billed) from None
        except UNREADABLE:
            raise failures.malformed(self._name, request_id) from None

    async def collect(self, handle: str, request: ModelRequest) -> Completion:
        """The answer of a call begun in the background; see `Provider.collect`.

        Raises:
            ProviderError: there is none, or none in time.
        """
        if not self.reattaches:
            # The wire was changed since the call was begun: nobody here can be asked for it.
            raise failures.unknown_handle(self._name, handle)
        return await self._followed(handle, request, request.timeout_s)

    async def cancel(self, handle: str) -> None:
        """Ask the vendor to stop a call in the background; best effort."""
        if not self.reattaches:
            return
        nobody = ModelRequest(call_id="cancel", model="any model", prompt="")
        for _ in range(CANCEL_TRIES):
            try:
                await self._send("POST", f"{self._path_of(handle)}/cancel", nobody, CANCEL_TIMEOUT_S)
            except ProviderError as error:
                # A refusal is final: the call has ended, or is not known.
                if not error.retryable:
                    return
                await asyncio.sleep(CANCEL_WAIT_S)
            else:
                return
        logger.warning("%s could not be asked to cancel a call in the background.", self._name)

    async def aclose(self) -> None:
        await self._exchange.aclose()

    def _asked(self, request: ModelRequest) -> tuple[Wire, dict[str, Any]]:
        """The wire that a request goes by, and its body there."""
        wire = self._wire if request.conversation is None else self._chat
        return wire, wire.body(self._understood(request))

    def _understood(self, request: ModelRequest) -> ModelRequest:
        """The request without what the address may not know."""
        if request.cache_key is not None and not self._cache_keys:
            request = replace(request, cache_key=None)
        if request.service_tier == DEFAULT_TIER and not self._says_default:
            request = replace(request, service_tier=None)
        return request

    async def _in_background(self, request: ModelRequest, started: Started | None) -> Completion:
        began = time.monotonic()
        body = self._wire.body(self._understood(request))
        answer = await self._send("POST", self._wire.path, request, request.timeout_s, body)
        handle = _handle(answer.content)
        if handle is None:
            raise failures.malformed(self._name, answer.headers.get("x-request-id"))
        if started is not None:
            await started(handle)
        return await self._followed(handle, request, request.timeout_s - (time.monotonic() - began), answer)

    async def _followed(
        self, handle: str, request: ModelRequest, timeout_s: float, first: Answer | None = None
    ) -> Completion:
        """Follows a call to its end; `first` is what the vendor said of it already."""

        async def look(within_s: float) -> Unfinished | Completion:
            nonlocal first
            answer, first = first, None
            if answer is None:
                answer = await self._send("GET", self._path_of(handle), request, within_s)
            try:
                body = json.loads(answer.content)
                if body.get("status") in UNFINISHED:
                    return Unfinished(failures.retry_after(answer.headers))
                return self._completion(self._wire, body, request, handle, answer.headers)
            except FailedAnswerError as error:
                ended = failures.failed_answer(self._name, str(error), handle, billed=error.billed)
            except UNREADABLE:
                raise failures.malformed(self._name, handle) from None
            raise EndedError(ended)

        return await Follower(self._name, handle, look, timeout_s).follow()

    def _path_of(self, handle: str) -> str:
        return f"{self._wire.path}/{quote(handle, safe='')}"

    def _completion(
        self,
        wire: Wire,
        answer: Mapping[str, Any],
        request: ModelRequest,
        request_id: str | None,
        headers: Mapping[str, str],
    ) -> Completion:
        found = wire.read(answer)
        return Completion(
            text=found.text,
            finish=found.finish,
            usage=found.usage or _estimated(request, found),
            usage_reported=found.usage is not None,
            model=found.model,
            request_id=request_id,
            service_tier=found.service_tier,
            told=told(headers),
            message=None if request.conversation is None else found.message,
            reason=None if request.conversation is None else found.reason,
        )

    async def _send(
        self, method: str, path: str, request: ModelRequest, timeout_s: float, body: Body | None = None
    ) -> Answer:
        failure: ProviderError
        try:
            return await self._exchange.send(method, path, request.call_id, timeout_s, body)
        except APIStatusError as error:
            failure = failures.from_status(error, provider=self._name, model=request.model, key_env=self._key_env)
        except (aiohttp.ClientError, OSError) as error:
            failure = failures.from_connection(error, provider=self._name, timeout_s=timeout_s)
        # Raised out here, so that the vendor's words (which may quote the prompt) are not chained to it.
        try:
            raise failure
        finally:
            del failure  # it would hold this frame, with the prompt, and be held by it until the collector comes


def is_vendor(base_url: str) -> bool:
    """Whether the address is the vendor's own."""
    return urlsplit(base_url).hostname == VENDOR_HOST


def _wire(config: ProviderConfig, base_url: str) -> Wire:
    return _chat(base_url) if config.wire == "chat" else ResponsesWire()


def _chat(base_url: str) -> ChatWire:
    return ChatWire("max_completion_tokens" if is_vendor(base_url) else "max_tokens")


def _handle(content: bytes) -> str | None:
    """The id of the call that was begun."""
    try:
        handle = json.loads(content)["id"]
    except UNREADABLE:
        return None
    return handle if isinstance(handle, str) and _HANDLE.fullmatch(handle) else None


def _estimated(request: ModelRequest, found: Found) -> Usage:
    return Usage(input_tokens=request.input_estimate(), output_tokens=estimate_tokens(found.text))
