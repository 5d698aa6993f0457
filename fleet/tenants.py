"""Tenants: whose a job is, which its id says, so that every key and file of a job belongs to one of them by name.

It knows names and ids; who may act for a tenant is for `fleet.keys` to say.
"""

from __future__ import annotations

import re
import secrets
import time

from fleet.errors import BadInputError

#: Whose everything is that was asked for without a key.
DEFAULT = "default"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")


def check_tenant(name: str) -> str:
    """`name`; BadInputError when it is none for a tenant."""
    if not _NAME.fullmatch(name):
        raise BadInputError(
            f'"{name[:60]}" is no name of a tenant: up to 40 lower-case letters, digits and inner hyphens.'
        )
    return name


def new_job_id(tenant: str) -> str:
    """A job id that sorts by time among its tenant's: `acme.j0199…`, and without a tenant for the default one; no secret."""
    id_ = f"j{int(time.time() * 1000):011x}{secrets.token_hex(3)}"
    return id_ if tenant == DEFAULT else f"{tenant}.{id_}"


def tenant_of(job_id: str) -> str:
    """Whose a job is."""
    tenant, dot, _ = job_id.partition(".")
    return tenant if dot else DEFAULT
