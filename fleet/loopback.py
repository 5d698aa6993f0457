"""What only this machine reaches: addresses, and requests that a program on it sent for itself.

It knows headers by their lower-case names; no server and no framework.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Sequence
from urllib.parse import urlsplit

#: What a proxy adds: whoever it serves is not this machine.
PASSED_ON = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own alone; a name that is not `localhost` may stand for anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def from_here(client: str, hosts: Sequence[str], origin: str | None, headers: Container[str]) -> bool:
    """Sent by a program on this machine: by no proxy, and by no browser for a page whose name points here.

    `client`: the address it came from; `hosts`: its Host headers; `headers`: the names of all it has.
    """
    if len(hosts) != 1 or any(name in headers for name in PASSED_ON):
        return False
    try:
        host = urlsplit(f"//{hosts[0]}").hostname or ""
    except ValueError:
        return False
    return is_loopback(client) and is_loopback(host) and (origin is None or origin == f"http://{hosts[0]}")
