"""Keys in a real store: what somebody gets who has a copy of its disk."""

from __future__ import annotations

import asyncio

from fleet.keys import Keys, Scope
from queues.link import Link
from tests.support.valkey import Valkey


def kept(valkey: Valkey, *scopes: Scope) -> tuple[str, bytes]:
    """A key that was made, and all that the store then wrote to its disk."""

    async def made() -> str:
        link = Link.from_url(valkey.url)
        try:
            return (await Keys(link, "fleet").create("acme", scopes, "a name", 1.0))[1]
        finally:
            await link.aclose()

    valkey.flush()
    key = asyncio.run(made())
    return key, b"".join(path.read_bytes() for path in (valkey.folder / "appendonlydir").iterdir())


def test_the_store_has_no_key_that_opens_the_api(valkey: Valkey) -> None:
    key, disk = kept(valkey, "submit", "admin")
    assert b"a name" in disk
    assert key.encode() not in disk


def test_a_key_to_sign_with_is_kept_as_it_is(valkey: Valkey) -> None:
    key, disk = kept(valkey, "sign")
    assert key.encode() in disk
