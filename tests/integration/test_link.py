"""The link against a real Valkey."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import NoScriptError, ResponseError

from queues import scripts
from queues.calls import MAX_EACH
from queues.link import Link, LinkClosed, LinkError, LinkLost
from tests.support.valkey import Valkey

SOURCE = b"return {KEYS[1], ARGV[1]}"


#: For each pair: their sum, counted in the key; a pair that is no pair of numbers fails.
PAIRS = b"""
local replies = {}
for at = 2, #ARGV, 2 do
  local fine, sum = pcall(function()
    redis.call('INCR', KEYS[1])
    return ARGV[1] + ARGV[at] + ARGV[at + 1]
  end)
  replies[#replies + 1] = fine and sum or {err = 'no numbers'}
end
return replies
"""


def script(name: str, source: bytes) -> scripts.Script:
    return scripts.Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"echo": script("echo", SOURCE), "pairs": script("pairs", PAIRS)}
    for module in ("calls", "link"):
        monkeypatch.setattr(f"queues.{module}.load", known.__getitem__)


def with_link(url: str, body: Callable[[Link], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        link = Link.from_url(url, **options)
        try:
            await asyncio.wait_for(body(link), 30)
        finally:
            await link.aclose()

    asyncio.run(main())


def test_a_tick_is_one_batch_and_each_caller_gets_its_own_reply_or_error(valkey: Valkey) -> None:
    async def body(link: Link) -> None:
        await link.execute("SET", "n", 0)
        await link.execute("LPUSH", "list", "x")
        before = await link.execute("INFO", "stats")
        calls = [link.execute("INCR", "n") for _ in range(1000)] + [link.execute("INCR", "list")]
        *replies, wrong = await asyncio.gather(*calls, return_exceptions=True)
        after = await link.execute("INFO", "stats")
        assert replies == list(range(1, 1001))
        assert isinstance(wrong, ResponseError)
        reads = [int(info.split(b"total_reads_processed:")[1].split(b"\r")[0]) for info in (before, after)]
        assert reads[1] - reads[0] < 20

    with_link(valkey.url, body)


def test_a_script_is_loaded_when_the_server_does_not_know_it(valkey: Valkey) -> None:
    async def body(link: Link) -> None:
        results = await asyncio.gather(*[link.call("echo", ["k"], [i, 0.5][:1]) for i in range(3)])
        assert results == [[b"k", b"0"], [b"k", b"1"], [b"k", b"2"]]
        valkey.flush()
        assert await link.call("echo", ["k"], [b"\xff"]) == [b"k", b"\xff"]
        with pytest.raises(NoScriptError):
            await link.execute("EVALSHA", "0" * 40, 0)

    with_link(valkey.url, body)


def test_calls_of_one_script_run_as_one_and_each_gets_its_own_reply_or_error(valkey: Valkey) -> None:
    async def body(link: Link) -> None:
        valkey.flush()
        await link.execute("CONFIG", "RESETSTAT")
        pairs = [link.each("pairs", ["k"], [1], [number, 10]) for number in range(MAX_EACH + 6)]
        others = [link.each("pairs", ["k"], [2], [0, 0]), link.each("pairs", ["other"], [1], [0, 0])]
        given_up = asyncio.ensure_future(link.each("pairs", ["k"], [1], [0, 0]))
        await asyncio.sleep(0)
        given_up.cancel()
        wrong = link.each("pairs", ["k"], [1], ["x", 1])
        *replies, two, other, error = await asyncio.gather(*pairs, *others, wrong, return_exceptions=True)
        assert replies == [11 + number for number in range(MAX_EACH + 6)]
        assert (two, other) == (2, 1)
        assert isinstance(error, ResponseError)
        assert int(await link.execute("GET", "k")) == len(pairs) + 2, "nothing runs twice, nor what nobody waits for"
        stats = (await link.execute("INFO", "commandstats")).decode().splitlines()
        runs = {line.split(":")[0]: int(line.split("calls=")[1].split(",")[0]) for line in stats if "calls=" in line}
        assert runs["cmdstat_eval"] == 4, (
            "two for the many of one head, one for each other; the server did not know the script"
        )

    with_link(valkey.url, body)


def test_a_script_that_is_not_there_is_told_to_whoever_asks_for_it(valkey: Valkey) -> None:
    async def body(link: Link) -> None:
        with pytest.raises(KeyError):
            await link.each("nothing", ["k"], [], [1])
        with pytest.raises(TypeError):
            await link.each("pairs", ["k"], [1], [None, 1])  # type: ignore[list-item]
        assert await link.each("pairs", ["k"], [1], [1, 1]) == 3

    with_link(valkey.url, body)


def test_idempotent_calls_survive_a_cut_connection_and_others_say_so(valkey: Valkey) -> None:
    async def body(link: Link) -> None:
        await link.execute("SET", "k", "v")
        with valkey.client() as client:
            client.execute_command("CLIENT", "PAUSE", 500, "ALL")
            safe = asyncio.ensure_future(link.execute("GET", "k", idempotent=True))
            unsafe = asyncio.ensure_future(link.execute("INCR", "n"))
            await asyncio.sleep(0.05)
            client.execute_command("CLIENT", "UNPAUSE")
        assert (await safe, await unsafe) == (b"v", 1)
        with valkey.client() as client:
            me = [c["id"] for c in client.client_list() if c["cmd"] in ("incr", "get")]
            assert me
            for identity in me:
                client.client_kill_filter(_id=identity)
        assert await link.execute("GET", "k", idempotent=True) == b"v"
        with pytest.raises(LinkLost):
            await link.execute("CLIENT", "KILL", "SKIPME", "no", "TYPE", "normal")
            await link.execute("CLIENT", "GETNAME")
        assert await link.execute("GET", "k") == b"v"

    with_link(valkey.url, body)


def test_blocking_calls_do_not_hold_up_the_others(valkey: Valkey) -> None:
    async def body(link: Link) -> None:
        waiter = asyncio.ensure_future(link.blocking("BLPOP", "wake", timeout=20.0))
        assert await link.execute("PING") == b"PONG"
        assert await link.blocking("BLPOP", "never", timeout=0.05) is None
        assert not waiter.done()
        await link.execute("RPUSH", "wake", "go")
        assert await waiter == [b"wake", b"go"]
        gone = asyncio.ensure_future(link.blocking("BLPOP", "wake", timeout=20.0))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone

    with_link(valkey.url, body)


def test_a_cancelled_caller_does_not_disturb_the_replies_of_others(valkey: Valkey) -> None:
    async def body(link: Link) -> None:
        first = asyncio.ensure_future(link.execute("ECHO", "first"))
        second = asyncio.ensure_future(link.execute("ECHO", "second"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        assert await second == b"second"
        assert await link.execute("ECHO", "third") == b"third"

    with_link(valkey.url, body)


def test_a_store_that_is_away_fails_after_a_bounded_number_of_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queues.link.BACKOFF", (0.01, 0.01))
    server = Valkey(tmp_path)

    async def body(link: Link) -> None:
        assert await link.execute("PING") == b"PONG"
        server.kill()
        with pytest.raises(LinkError):
            await link.execute("PING", idempotent=True)
        server.start()
        assert await link.execute("PING", idempotent=True) == b"PONG"

    try:
        with_link(server.url, body)
    finally:
        server.stop()


def test_closing_ends_waiting_calls(valkey: Valkey) -> None:
    async def body(link: Link) -> None:
        await link.execute("PING")
        call = asyncio.ensure_future(link.execute("PING"))
        await asyncio.sleep(0)
        await link.aclose()
        with pytest.raises(LinkClosed):
            await call
        with pytest.raises(LinkClosed):
            await link.execute("PING")

    with_link(valkey.url, body)
