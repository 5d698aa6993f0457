"""The provider for OpenAI and everybody who speaks its protocols: authenticates, sends, reads, and says what failed.

It knows no job, no budget and no limit, and it never retries: permits and tries are the executor's.
"""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import aiohttp
import httpx2
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAioHttpClient

from fleet.config import ProviderConfig
from fleet.errors import ProviderError
from fleet.prices import Usage
from fleet.providers import failures
from fleet.providers.base import Completion, ModelRequest
from fleet.providers.wires import ChatWire, FailedAnswerError, Found, ResponsesWire, Wire
from fleet.tokens import estimate_tokens

VENDOR_URL = "https://api.openai.com/v1"
VENDOR_HOST = "api.openai.com"
#: Above any tier's concurrency; permits bound the calls, not the pool.
MAX_CONNECTIONS = 4000
#: Shorter than servers keep idle connections, so that none is closed under a request that is just being sent.
KEEPALIVE_S = 30.0
CONNECT_TIMEOUT_S = 10.0


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
        self._client = AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            http_client=DefaultAioHttpClient(
                limits=httpx2.Limits(
                    max_connections=MAX_CONNECTIONS,
                    max_keepalive_connections=MAX_CONNECTIONS,
                    keepalive_expiry=KEEPALIVE_S,
                )
            ),
        )

    async def complete(self, request: ModelRequest) -> Completion:
        """The answer of the model, within `request.timeout_s` seconds all told.

        Raises:
            ProviderError: there was none; the error says whether and when to ask again.
        """
        answer = await self._post(request)
        request_id = answer.headers.get("x-request-id")
        try:
            found = self._wire.read(json.loads(answer.content))
        except FailedAnswerError as error:
            raise failures.failed_answer(self._name, str(error), request_id) from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise failures.malformed(self._name, request_id) from None
        return Completion(
            text=found.text,
            finish=found.finish,
            usage=found.usage or _estimated(request, found),
            usage_reported=found.usage is not None,
            model=found.model,
            request_id=request_id,
        )

    async def aclose(self) -> None:
        await self._client.close()

    async def _post(self, request: ModelRequest) -> httpx2.Response:
        timeout_s = request.timeout_s
        failure: ProviderError
        try:
            async with asyncio.timeout(timeout_s):
                # The raw response: the client's own model classes cost as much as all the rest of a call.
                return await self._client.post(
                    self._wire.path,
                    cast_to=httpx2.Response,
                    body=self._wire.body(request),
                    options={
                        "headers": {"X-Client-Request-Id": request.call_id},
                        "timeout": httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
                    },
                )
        except APIStatusError as error:
            failure = failures.from_status(error, provider=self._name, model=request.model, key_env=self._key_env)
        except APIConnectionError as error:
            failure = failures.from_connection(error, provider=self._name, timeout_s=timeout_s)
        except aiohttp.ClientError:
            # What the client's transport does not translate: an answer that is no HTTP.
            failure = failures.malformed(self._name, None)
        except TimeoutError:
            failure = failures.timed_out(self._name, timeout_s)
        # Raised out here, so that the vendor's words (which may quote the prompt) are not chained to it.
        raise failure


def is_vendor(base_url: str) -> bool:
    """Whether the address is the vendor's own."""
    return urlsplit(base_url).hostname == VENDOR_HOST


def _wire(config: ProviderConfig, base_url: str) -> Wire:
    if config.wire == "chat":
        return ChatWire("max_completion_tokens" if is_vendor(base_url) else "max_tokens")
    return ResponsesWire()


def _estimated(request: ModelRequest, found: Found) -> Usage:
    return Usage(input_tokens=request.input_estimate(), output_tokens=estimate_tokens(found.text))
