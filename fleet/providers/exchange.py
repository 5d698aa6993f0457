"""One request to an OpenAI-compatible vendor and its answer: the official client's address, key, headers and errors on aiohttp.

It is the transport that the client itself rides on. What the client does around it, building options, requests, responses and
models of them, takes most of a worker's time (`make bench` has the figures), and a fleet needs none of it: it never retries here,
and reads answers itself. It knows no wire and no job.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
from openai import APIStatusError, AsyncOpenAI
from pydantic_core import to_json

#: Above any tier's concurrency; permits bound the calls, not the pool.
MAX_CONNECTIONS = 4000
#: Shorter than servers keep idle connections, so that none is closed under a request that is just being sent.
KEEPALIVE_S = 30.0
CONNECT_TIMEOUT_S = 10.0


#: JSON, or a form with a file in it.
Body = Mapping[str, Any] | aiohttp.FormData


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back with a status that says it went well."""

    content: bytes
    headers: Mapping[str, str]


class Exchange:
    """The connections to one account at one base URL."""

    def __init__(self, base_url: str, api_key: str) -> None:
        """The connections belong to the event loop that sends first."""
        self._client = AsyncOpenAI(api_key=api_key, base_url=base_url, max_retries=0)
        self._url = str(self._client.base_url).rstrip("/")
        self._proxy = _proxy(self._url)
        self._headers: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        method: str,
        path: str,
        call_id: str,
        timeout_s: float,
        body: Body | None = None,
    ) -> Answer:
        """Send `body`, JSON or a form, to a path below the base URL, and read the answer, within `timeout_s` all told.

        Raises:
            APIStatusError: it has a status of 300 or above.
            aiohttp.ClientError, OSError: there was none, or none in time (TimeoutError).
        """
        session = self._session or self._connect()
        # With the request, not with the session: that would give them, and the key, to a proxy, too.
        headers = {**self._headers, "X-Client-Request-Id": call_id}
        data: aiohttp.BytesPayload | aiohttp.FormData | None = None
        if isinstance(body, aiohttp.FormData):
            data = body  # which names its type itself
            headers = {name: value for name, value in headers.items() if name.lower() != "content-type"}
        elif body is not None:
            data = aiohttp.BytesPayload(to_json(body), content_type="application/json")
        async with (
            asyncio.timeout(timeout_s),
            session.request(method, self._url + path, data=data, headers=headers, proxy=self._proxy) as response,
        ):
            content = await response.read()
            if response.status >= 300:
                raise _refusal(response, content)
            return Answer(content, response.headers)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
        await self._client.close()

    def _connect(self) -> aiohttp.ClientSession:
        headers = {**self._client.default_headers, **self._client.auth_headers}
        self._headers = {name: value for name, value in headers.items() if isinstance(value, str)}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=MAX_CONNECTIONS,
                keepalive_timeout=KEEPALIVE_S,
                ssl=httpx2.create_ssl_context(),  # trusts whom the client trusts
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        )
        return self._session


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address. aiohttp would ask it, and ~/.netrc, for every request."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None or proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _refusal(response: aiohttp.ClientResponse, content: bytes) -> APIStatusError:
    """The client's error of an answer; its code, type and parameter are what the body says."""
    try:
        said = json.loads(content)
    except ValueError:
        said = None
    if isinstance(said, dict):
        said = said.get("error", said)
    request = httpx2.Request(response.method, str(response.url))
    # Without the body and what described it: it is read already.
    headers = [(name, value) for name, value in response.raw_headers if not name.lower().startswith(b"content-")]
    answer = httpx2.Response(response.status, headers=headers, request=request)
    return APIStatusError(f"HTTP {response.status}", response=answer, body=said)
