"""Signatures of what is sent to webhooks, and the secrets that they are made with: one for each tenant.

The scheme is Standard Webhooks 1.0.0 (standardwebhooks.com), symmetric: HMAC-SHA256 over `id.timestamp.body`. A secret has to be
known to sign, so the store has it as it is, in a key of its own (`secret:TENANT`); it goes to nobody but the tenant.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping

from fleet.tenants import check_tenant
from queues.link import Link

PREFIX = "whsec_"
SECRET_BYTES = 32
#: For how long a secret that was replaced still signs, beside the new one.
OVERLAP_S = 24 * 3600.0


class Secrets:
    """The secrets of one fleet. Errors: `queues.link.LinkError` when the store does not answer."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace

    async def of(self, tenant: str) -> tuple[str, ...]:
        """What a tenant's webhooks are signed with now, the current secret first; it is made on first use.

        Raises:
            BadInputError: no name for a tenant.
        """
        return await self._secrets(tenant, "")

    async def rotate(self, tenant: str, overlap_s: float = OVERLAP_S) -> tuple[str, ...]:
        """The same, with a new secret; the one that was current goes on signing for `overlap_s`."""
        await self._secrets(tenant, "")
        return await self._secrets(tenant, str(round(overlap_s * 1000)))

    async def _secrets(self, tenant: str, overlap_ms: str) -> tuple[str, ...]:
        new = PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        what = (check_tenant(tenant), new, overlap_ms)
        found = await self._link.call("secret", [self._namespace], what, idempotent=True)
        return tuple(secret.decode() for secret in found)


def signature(secret: str, id_: str, timestamp: int, body: bytes) -> str:
    """One signature: `v1,` and base64. `id_` has no full stop in it; `timestamp`: seconds since 1970, of the try."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    digest = hmac.new(key, b".".join((id_.encode(), str(timestamp).encode(), body)), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def headers(secrets_: Iterable[str], id_: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """The headers of one try, signed with every secret."""
    return {
        "Content-Type": "application/json",
        "webhook-id": id_,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signature(secret, id_, timestamp, body) for secret in secrets_),
    }
