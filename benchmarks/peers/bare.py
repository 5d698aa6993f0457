"""A script without any queue, which keeps so many calls going until it is killed.

`python -m benchmarks.peers.bare CLIENT IN_FLIGHT`; CLIENT is `default` or `aiohttp` (a transport of the official client) or
`hand` (aiohttp alone).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import aiohttp
import uvloop

from benchmarks.peers.call import async_client, call_by_hand, call_with


async def run(kind: str, in_flight: int) -> None:
    call: Callable[[], Awaitable[int]]
    if kind == "hand":
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        call = lambda: call_by_hand(session)  # noqa: E731
    else:
        client = async_client(kind)
        call = lambda: call_with(client)  # noqa: E731

    async def lane() -> None:
        while True:
            await call()

    await asyncio.gather(*[lane() for _ in range(in_flight)])


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], int(sys.argv[2])))
