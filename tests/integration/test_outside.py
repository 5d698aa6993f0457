"""Asking addresses that users name, against real servers on loopback: what is refused is never connected to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohappyeyeballs
import pytest
from aiohttp import web
from yarl import URL

from fleet.addresses import Endpoint
from fleet.errors import AddressRefusedError, OutsideError
from fleet.outside import Outside, redirected
from tests.support.receiver import listening, receiving


class Names:
    """A name server: for each name the answers that it gives one after the other, the last one again and again."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self._answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        left = self._answers[host]
        return left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture(autouse=True)
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that sockets are to be opened to. Whatever is broken, no test opens one to anything but this machine."""
    addresses: list[str] = []
    really = aiohappyeyeballs.start_connection

    async def start_connection(addr_infos: Sequence[Any], **options: Any) -> socket.socket:
        addresses.extend(info[4][0] for info in addr_infos)
        if not set(addresses) <= {"127.0.0.1", "::1"}:
            raise ConnectionRefusedError
        return await really(addr_infos, **options)

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start_connection)
    return addresses


def opened(*allowed: Endpoint, names: Names | None = None, total_s: float = 20.0) -> Outside:
    return Outside(allowed, lookup=names or Names(), total_s=total_s)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


def test_what_is_allowed_is_asked_as_it_is_named_and_a_name_is_resolved_once() -> None:
    async def scenario() -> None:
        async with receiving() as receiver:
            names = Names(receiver_test=[["127.0.0.1"], ["192.0.2.1"]])
            outside = opened(("receiver.test", receiver.port), names=names)
            answer = await outside.get(f"http://receiver.test:{receiver.port}/a?b=c#d", 100)
            assert (answer.status, answer.body) == (200, b"ITS ANSWER")
            (received,) = receiver.received
            assert (received.method, received.path) == ("GET", "/a?b=c")
            assert received.headers["host"] == f"receiver.test:{receiver.port}"
            assert not {"cookie", "authorization", "referer"} & received.headers.keys()
            assert names.asked == ["receiver.test"]
            await outside.aclose()

    run(scenario)


@pytest.mark.parametrize(
    "addresses",
    [
        *(
            ["127.0.0.1"],
            ["::1"],
            ["10.0.0.1"],
            ["169.254.169.254"],
            ["::ffff:127.0.0.1"],
            ["64:ff9b::7f00:1"],
            ["fe80::1%lo"],
        ),
        *(["8.8.8.8", "127.0.0.1"], ["2606:4700::1111", "::1"]),
    ],
)
def test_a_name_with_one_address_inside_is_refused_whole(addresses: list[str]) -> None:
    async def scenario() -> None:
        async with receiving() as receiver:
            outside = opened(names=Names(receiver_test=[addresses]))
            for asking in (
                outside.get(f"http://receiver.test:{receiver.port}/", 100),
                outside.post(f"http://receiver.test:{receiver.port}/", b"", {}),
            ):
                with pytest.raises(AddressRefusedError, match=r"receiver\.test is, or resolves to"):
                    await asking
            assert not receiver.received
            await outside.aclose()

    run(scenario)


def test_a_name_that_is_rebound_is_connected_to_where_it_was_checked(connected: list[str]) -> None:
    """Its first answer is public, every later one leads inside."""

    async def scenario() -> None:
        names = Names(rebound_test=[["8.8.8.8", "2606:4700::1111"], ["127.0.0.1"]])
        outside = opened(names=names)
        with pytest.raises(OutsideError, match=r"rebound\.test could not be asked"):
            await outside.get("http://rebound.test:8080/", 100)
        assert names.asked == ["rebound.test"]
        assert set(connected) == {"8.8.8.8", "2606:4700::1111"}
        connected.clear()
        with pytest.raises(AddressRefusedError):
            await outside.get("http://rebound.test:8080/", 100)
        assert not connected
        await outside.aclose()

    run(scenario)


def test_the_systems_own_names_are_resolved_and_refused_too() -> None:
    async def scenario() -> None:
        async with receiving() as receiver:
            outside = Outside([("localhost", receiver.port)])
            assert (await outside.get(f"http://localhost:{receiver.port}/", 100)).status == 200
            with pytest.raises(AddressRefusedError):
                await outside.checked("localhost", receiver.port + 1)
            await outside.aclose()

    run(scenario)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "http://2130706433:{port}/",
        "http://localhost:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://inside.test/",
        "http://user:password@8.8.8.8/",
        "http://8.8.8.8:25/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/",
        "http://[/",
    ],
)
def test_a_redirect_is_checked_like_a_first_address(location: str) -> None:
    async def scenario() -> None:
        async with receiving() as receiver:

            async def redirect(request: web.Request) -> web.StreamResponse:
                return web.Response(status=302, headers={"Location": location.format(port=receiver.port)})

            async with listening(redirect) as port:
                outside = opened(("127.0.0.1", port), names=Names(inside_test=[["10.0.0.1"]]))
                with pytest.raises(AddressRefusedError):
                    await outside.get(f"http://127.0.0.1:{port}/", 100)
                assert not receiver.received
                await outside.aclose()

    run(scenario)


@pytest.mark.parametrize(("hops", "reached"), [(3, True), (4, False)])
def test_three_redirects_are_followed_and_no_more(hops: int, reached: bool) -> None:
    async def scenario() -> None:
        seen: list[str] = []

        async def redirect(request: web.Request) -> web.StreamResponse:
            seen.append(request.path)
            if len(seen) <= hops:
                return web.Response(status=307, headers={"Location": f"../hop/{len(seen)}", "Set-Cookie": "a=b"})
            assert "Cookie" not in request.headers
            return web.Response(text="there")

        async with listening(redirect) as port:
            # By name: of addresses no client keeps cookies.
            outside = opened(("hops.test", port), names=Names(hops_test=[["127.0.0.1"]]))
            if reached:
                assert (await outside.get(f"http://hops.test:{port}/", 100)).body == b"there"
            else:
                with pytest.raises(OutsideError, match="more than 3 redirects"):
                    await outside.get(f"http://hops.test:{port}/", 100)
            assert len(seen) == 4
            await outside.aclose()

    run(scenario)


def test_a_body_goes_to_the_address_that_was_named_and_to_no_other() -> None:
    async def scenario() -> None:
        async with receiving() as receiver, receiving() as other:
            receiver.statuses, receiver.headers = [307], {"Location": other.url}
            outside = opened(("127.0.0.1", receiver.port), ("127.0.0.1", other.port))
            answer = await outside.post(receiver.url, b"body", {"X-Secret": "1"})
            assert (answer.status, answer.body) == (307, b"")
            assert [one.body for one in receiver.received] == [b"body"]
            assert not other.received
            await outside.aclose()

    run(scenario)


def test_from_https_to_http_no_redirect_is_followed() -> None:
    assert str(redirected(URL("http://example.com/"), "https://example.com/x")) == "https://example.com/x"
    assert str(redirected(URL("https://example.com/a/b"), "../c")) == "https://example.com/c"
    with pytest.raises(AddressRefusedError, match="from https"):
        redirected(URL("https://example.com/"), "http://example.com/x")


def test_an_answer_that_is_too_long_is_not_read_on() -> None:
    async def scenario() -> None:
        sent = 0

        async def endless(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 10_000)
                sent += 10_000

        async def announced(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": "1001"})
            await response.prepare(request)
            await asyncio.Event().wait()
            return response

        for handle in (endless, announced):
            async with listening(handle) as port:
                outside = opened(("127.0.0.1", port))
                with pytest.raises(OutsideError, match="more than 1,000 bytes"):
                    await outside.get(f"http://127.0.0.1:{port}/", 1_000)
                assert (await outside.post(f"http://127.0.0.1:{port}/", b"", {})).status == 200
                await outside.aclose()
        assert sent < 100_000_000

        async def exact(request: web.Request) -> web.StreamResponse:
            return web.Response(body=b"x" * 1_000)

        async with listening(exact) as port:
            outside = opened(("127.0.0.1", port))
            assert len((await outside.get(f"http://127.0.0.1:{port}/", 1_000)).body) == 1_000
            await outside.aclose()

    run(scenario)


def test_a_compressed_answer_is_not_unpacked() -> None:
    async def scenario() -> None:
        async def bomb(request: web.Request) -> web.StreamResponse:
            assert request.headers["Accept-Encoding"] == "identity"
            return web.Response(body=b"x", headers={"Content-Encoding": "gzip"})

        async with listening(bomb) as port:
            outside = opened(("127.0.0.1", port))
            with pytest.raises(OutsideError, match="compressed"):
                await outside.get(f"http://127.0.0.1:{port}/", 1_000)
            await outside.aclose()

    run(scenario)


def test_who_answers_too_slowly_is_left() -> None:
    async def scenario() -> None:
        async def silent(request: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            return web.Response()

        async def dripping(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.02)

        async def no_name(host: str, port: int) -> Sequence[str]:
            await asyncio.Event().wait()
            return []

        for handle in (silent, dripping):
            async with listening(handle) as port:
                outside = opened(("127.0.0.1", port), total_s=0.3)
                with pytest.raises(OutsideError, match=r"did not answer within 0\.3 s"):
                    await outside.get(f"http://127.0.0.1:{port}/", 1_000_000)
                await outside.aclose()
        outside = Outside(lookup=no_name, total_s=0.1)
        with pytest.raises(OutsideError, match="did not answer"):
            await outside.get("http://slow.test/", 100)
        await outside.aclose()

    run(scenario)


def test_what_goes_wrong_is_told_without_the_path() -> None:
    async def scenario() -> None:
        async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 nonsense\r\n\r\n")
            await reader.read()
            writer.close()
            await writer.wait_closed()
            closed.set()

        closed = asyncio.Event()
        server = await asyncio.start_server(broken, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        outside = opened(("127.0.0.1", port), ("127.0.0.1", 1), ("nowhere.test", 80), names=Names(nowhere_test=[[]]))
        for address in (f"http://127.0.0.1:{port}/SECRET", "http://127.0.0.1:1/SECRET", "http://nowhere.test/SECRET"):
            with pytest.raises(OutsideError, match="could not be asked") as caught:
                await outside.get(address, 100)
            assert "SECRET" not in str(caught.value)
            assert caught.value.__suppress_context__
        await outside.aclose()
        await closed.wait()
        server.close()
        await server.wait_closed()

    run(scenario)


def test_no_header_can_be_put_in_by_another() -> None:
    async def scenario() -> None:
        async with receiving() as receiver:
            outside = opened(("127.0.0.1", receiver.port))
            with pytest.raises(OutsideError, match="ValueError"):
                await outside.post(receiver.url, b"", {"X": "a\r\nHost: inside"})
            assert not receiver.received
            await outside.aclose()

    run(scenario)


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with receiving() as receiver, receiving() as proxy:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            outside = opened(("127.0.0.1", receiver.port))
            await outside.get(receiver.url, 100)
            assert (len(receiver.received), len(proxy.received)) == (1, 0)
            await outside.aclose()

    run(scenario)
