"""Asks addresses that users name, over HTTP, as somebody who has no access to the fleet's own network would.

It owns the connections: a host is resolved here, once for each connection; every address that it has must be public; the
socket is opened to an address that was checked, and to no other. Redirects are followed by hand and checked like a first
address. Time and size have caps; no cookie, no proxy and no credential of the environment is used. It knows nothing of what
is asked or sent. The rules are those of `fleet.addresses`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from fleet.addresses import Endpoint, check_address, is_inside, leads_inside
from fleet.errors import AddressRefusedError, OutsideError

#: Seconds for everything about one request, redirects included, and for one connection.
TOTAL_S, CONNECT_S = 20.0, 10.0
MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
#: Names that are resolved at once. The threads are these lookups' own: a name server that is slow on purpose delays nobody else.
LOOKUPS = 32
#: Compressed answers would have two sizes.
HEADERS = {"User-Agent": "tierfleet", "Accept-Encoding": "identity"}

#: The IP addresses of a host and port.
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `headers` by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Outside:
    """Everything outside. Belongs to the loop on which it is first used.

    `allowed`: what may be asked although it is inside; the names among them, at their ports, may resolve to anything.
    `lookup`: the system's own where none is given.
    """

    def __init__(
        self, allowed: Collection[Endpoint] = (), *, lookup: Lookup | None = None, total_s: float = TOTAL_S
    ) -> None:
        self._allowed = frozenset(allowed)
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="outside-lookup")
        self._lookup = lookup or self._system_lookup
        self._total_s = total_s
        self._session: aiohttp.ClientSession | None = None

    async def get(self, address: str, most_bytes: int) -> Answer:
        """The answer to a GET, which has at most `most_bytes`, after at most three redirects.

        Raises:
            AddressRefusedError: the address, or one that it redirects to, is none to ask.
            OutsideError: there was no whole answer in time.
        """
        url = check_address(address, self._allowed)
        async with self._asking(url):
            for _ in range(MAX_REDIRECTS + 1):
                async with self._opened().get(url, allow_redirects=False) as answer:
                    if answer.status not in REDIRECTS or "Location" not in answer.headers:
                        return _answer(answer, await _read(answer, most_bytes))
                    url = redirected(url, answer.headers["Location"], self._allowed)
                    answer.close()
            raise OutsideError(f"{url.raw_host} was reached by more than {MAX_REDIRECTS} redirects, which is a circle.")

    async def post(self, address: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Status and headers of the answer to a POST; its body is not read.

        A body goes to the address that was named and to no other: a redirect is an answer like any.

        Raises:
            AddressRefusedError: the address is none to ask.
            OutsideError: there was no answer in time.
        """
        url = check_address(address, self._allowed)
        async with (
            self._asking(url),
            self._opened().post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            answer.close()
            return _answer(answer, b"")

    async def aclose(self) -> None:
        """Close what is open. Idempotent."""
        if self._session is not None:
            await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No connection is kept, and no name: each is checked for the request that it is opened for.
            connector = aiohttp.TCPConnector(resolver=_Checked(self), use_dns_cache=False, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=HEADERS,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    @contextlib.asynccontextmanager
    async def _asking(self, url: URL) -> AsyncIterator[None]:
        """One request in its time. What goes wrong is told without the URL, whose path may be a secret."""
        try:
            async with asyncio.timeout(self._total_s):
                yield
        except TimeoutError:
            raise OutsideError(f"{url.raw_host} did not answer within {self._total_s:g} s.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise OutsideError(f"{url.raw_host} could not be asked ({type(error).__name__}).") from None

    async def checked(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host, all of which may be connected to. Raises AddressRefusedError, OSError."""
        addresses = await self._lookup(host, port)
        if not addresses:
            raise OSError("no address")
        # One that is inside among others that are not is no mistake but an attempt: none of them is asked.
        if (host, port) not in self._allowed and any(is_inside(address) for address in addresses):
            raise leads_inside(host)
        return addresses

    async def _system_lookup(self, host: str, port: int) -> Sequence[str]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _resolved, host, port)


class _Checked(AbstractResolver):
    """What aiohttp asks for the addresses of a name; it connects to what it gets. Literal ones were checked with their URL."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._outside.checked(host, port)
        ]

    async def close(self) -> None:
        pass


def redirected(url: URL, location: str, allowed: Collection[Endpoint] = ()) -> URL:
    """Where an answer of `url` sends whoever asked. Raises AddressRefusedError."""
    try:
        target = check_address(str(url.join(URL(location))), allowed)
    except (ValueError, IndexError):
        raise AddressRefusedError(f"{url.raw_host} redirects to what is no URL.") from None
    if url.scheme == "https" and target.scheme == "http":
        raise AddressRefusedError(f"{url.raw_host} redirects from https:// to http://, which is not followed.")
    return target


def _resolved(host: str, port: int) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _answer(answer: aiohttp.ClientResponse, body: bytes) -> Answer:
    return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, body)


async def _read(answer: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body. Raises OutsideError as soon as it has more than it may."""
    host = answer.url.raw_host
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise OutsideError(f"{host} sends a compressed answer, although it was asked not to.")
    body = bytearray()
    if (answer.content_length or 0) <= most_bytes:
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > most_bytes:
                break
        else:
            return bytes(body)
    answer.close()
    raise OutsideError(f"{host} sends more than {most_bytes:,} bytes.")
