"""Owns loading the package's Lua scripts by name. Knows no connection: `link` and `transport` run what it loads.

A script is `queues/lua/<name>.lua`; `_common.lua`, if there is one, is put in front of each, and `_permits.lua` behind that
in front of those that deal in permits, `_outbox.lua` in front of those that write into the outbox, `_shared.lua` in front of
those that look into shared quotas, and `_hold.lua` behind it in front of those that journal an intent.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script: its `name` (the file's stem), its full `source`, and the `sha` under which a server caches it."""

    name: str
    source: bytes
    sha: str


@functools.cache
def load(name: str) -> Script:
    """The script `queues/lua/<name>.lua`. Raises ValueError if there is none."""
    folder = resources.files("queues") / "lua"
    path = folder / f"{name}.lua"
    if name.startswith("_") or not path.is_file():
        known = sorted(entry.name[:-4] for entry in folder.iterdir() if entry.name.endswith(".lua"))
        raise ValueError(f"There is no Lua script called {name!r}; queues/lua has: {', '.join(known) or 'none'}.")
    source = path.read_bytes()
    for prelude, of_it in (
        ("_permits.lua", name.startswith("permit") or name == "release"),
        ("_hold.lua", name in ("hold", "join", "permit")),
        ("_shared.lua", name in ("hold", "join", "permit", "relieve", "accept")),
        ("_outbox.lua", name.startswith("outbox") or name in ("advance", "stop")),
        ("_common.lua", True),
    ):
        if of_it and (folder / prelude).is_file():
            source = (folder / prelude).read_bytes() + b"\n" + source
    return Script(name=name, source=source, sha=hashlib.sha1(source, usedforsecurity=False).hexdigest())
