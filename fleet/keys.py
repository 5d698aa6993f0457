"""API keys: who may act for which tenant, and what they may do. A key is shown once; the store has its HMAC alone.

A key to sign with is the exception: a signature is checked with the key itself, so the store has that, and it opens nothing
at the API. It owns the record of keys in the store; what a scope lets one do is for the routes, and `fleet.intake`, to say.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from fleet.errors import BadInputError
from fleet.tenants import check_tenant
from queues.link import Link

Scope = Literal["submit", "read", "admin", "sign"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "flk_"
#: Longest name of a key, for whoever lists them.
MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever a key belongs to."""

    key_id: str
    tenant: str
    scopes: frozenset[Scope]
    name: str
    created_at: float

    def may(self, scope: Scope) -> bool:
        """`admin` may do everything that is done with a key in the request."""
        return scope in self.scopes or ("admin" in self.scopes and scope != "sign")


class Keys:
    """The keys of one fleet. Errors: `queues.link.LinkError` when the store does not answer.

    A key is 256 random bits, so nothing is gained by guessing; the HMAC under a secret of the store keeps a copied list of
    keys of one fleet from being looked up in that of another.
    """

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace
        self._secret: bytes | None = None

    async def create(self, tenant: str, scopes: Iterable[Scope], name: str, now: float) -> tuple[Principal, str]:
        """A new key: what is known of it, and the key itself, which nobody will ever see again.

        Raises:
            BadInputError: no such scope, no scope, one beside `sign`, or no name for a tenant.
        """
        given = frozenset(scopes)
        if not given or given - set(SCOPES):
            raise BadInputError(f"A key needs scopes out of {', '.join(SCOPES)}.")
        if "sign" in given and len(given) > 1:
            raise BadInputError(
                "A key to sign with has no other scope: the store keeps it as it is, so it must open nothing."
            )
        if len(name) > MAX_NAME:
            raise BadInputError(f"The name of a key has at most {MAX_NAME} characters.")
        principal = Principal(f"key_{secrets.token_hex(6)}", check_tenant(tenant), given, name, now)
        key = PREFIX + secrets.token_urlsafe(32)
        digest = await self._digest(key)
        fields = ["id", principal.key_id, "tenant", tenant, "scopes", json.dumps(sorted(given)), "name", name]
        if "sign" in given:
            fields += ["signs", key]
        await self._link.execute("HSET", self._key("key", digest), *fields, "created_at", repr(now), idempotent=True)
        await self._link.execute("HSET", self._key("keys"), principal.key_id, digest, idempotent=True)
        await self._link.execute("SET", self._key("keys", "ever"), 1, idempotent=True)
        return principal, key

    async def find(self, key: str) -> Principal | None:
        """Whose key this is; None where it is nobody's, or was revoked."""
        if not key.startswith(PREFIX) or len(key) > 200:
            return None
        return await self._load(await self._digest(key))

    async def known(self, key_id: str) -> Principal | None:
        """Whose the key of this id is; None where there is none any more."""
        digest = await self._link.execute("HGET", self._key("keys"), key_id, idempotent=True)
        return None if digest is None else await self._load(digest.decode())

    async def signer(self, key_id: str) -> tuple[Principal, bytes] | None:
        """Whose key this is, and the key, if it is one to sign with; None where it is not, or there is none."""
        digest = await self._link.execute("HGET", self._key("keys"), key_id, idempotent=True)
        if digest is None:
            return None
        key = await self._link.execute("HGET", self._key("key", digest.decode()), "signs", idempotent=True)
        principal = await self._load(digest.decode())
        return None if key is None or principal is None or not principal.may("sign") else (principal, key)

    async def all(self) -> list[Principal]:
        """Every key, the oldest first."""
        digests = await self._link.execute("HVALS", self._key("keys"), idempotent=True)
        found = [await self._load(digest.decode()) for digest in digests]
        return sorted((one for one in found if one is not None), key=lambda one: (one.created_at, one.key_id))

    async def ever(self) -> bool:
        """Whether there ever was a key: who revokes the last one means that nothing is open, not everything."""
        return bool(await self._link.execute("EXISTS", self._key("keys", "ever"), idempotent=True))

    async def revoke(self, key_id: str) -> None:
        """Let a key open nothing any more, from now on.

        Raises:
            BadInputError: there is no key of this id.
        """
        digest = await self._link.execute("HGET", self._key("keys"), key_id, idempotent=True)
        if digest is None:
            raise BadInputError(f'There is no key "{key_id[:60]}"; `fleet keys list` shows what there is.')
        await self._link.execute("DEL", self._key("key", digest.decode()), idempotent=True)
        await self._link.execute("HDEL", self._key("keys"), key_id, idempotent=True)

    async def _load(self, digest: str) -> Principal | None:
        flat = await self._link.execute("HGETALL", self._key("key", digest), idempotent=True)
        fields = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
        if "id" not in fields:
            return None
        scopes = frozenset(scope for scope in json.loads(fields["scopes"]) if scope in SCOPES)
        return Principal(fields["id"], fields["tenant"], scopes, fields["name"], float(fields["created_at"]))

    async def _digest(self, key: str) -> str:
        if self._secret is None:
            name = self._key("keys", "secret")
            await self._link.execute("SET", name, secrets.token_hex(32), "NX", idempotent=True)
            self._secret = await self._link.execute("GET", name, idempotent=True)
        return hmac.new(self._secret, key.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def _key(self, *parts: str) -> str:
        return ":".join((self._namespace, *parts))
