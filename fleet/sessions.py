"""Sessions of people who look at pages: an opaque name in a browser that stands for a key, for some hours.

It owns the record of a session in the store, which names the key and nothing else: what a session may do is looked up with
its key each time, so one whose key is revoked opens nothing any more. Cookies are for `fleet.api` to know.
"""

from __future__ import annotations

import hashlib
import secrets

from fleet.keys import Keys, Principal
from queues.link import Link

PREFIX = "fls_"
#: Seconds until somebody has to show the key again, however much they look.
LIFE_S = 12 * 3600


class Sessions:
    """The sessions of one fleet. Errors: `queues.link.LinkError` when the store does not answer."""

    def __init__(self, link: Link, namespace: str, keys: Keys) -> None:
        self._link = link
        self._namespace = namespace
        self._keys = keys

    async def begin(self, principal: Principal) -> str:
        """The name of a new session of whoever has shown this key."""
        name = PREFIX + secrets.token_urlsafe(32)
        await self._link.execute("SET", self._key(name), principal.key_id, "EX", LIFE_S, idempotent=True)
        return name

    async def find(self, name: str) -> Principal | None:
        """Whose session this is; None where it is nobody's, is over, or its key was revoked."""
        if not name.startswith(PREFIX) or len(name) > 100:
            return None
        key_id = await self._link.execute("GET", self._key(name), idempotent=True)
        return None if key_id is None else await self._keys.known(key_id.decode())

    async def end(self, name: str) -> None:
        """Let a session open nothing any more."""
        await self._link.execute("DEL", self._key(name), idempotent=True)

    def _key(self, name: str) -> str:
        # 256 random bits: a digest keeps who reads the store from having the session.
        return f"{self._namespace}:session:{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()}"
