"""Addresses that users name (of webhooks, pictures, items): which of them the fleet may ask, and which lead into its own network.

It owns the rules, for the text of a URL and for the IP addresses that a host has; it resolves nothing and opens no connection:
`fleet.outside` does that, and asks here first. The networks are those of IANA's special-purpose address registries (RFC 6890)
and are written down here, because what `ipaddress` calls global differs between versions of Python. The blocked ports are
those of the Fetch standard ("bad port").
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from yarl import URL

from fleet.errors import AddressRefusedError

#: (host as it stands in a URL, lower case and without brackets; port).
Endpoint = tuple[str, int]

MAX_URL_CHARS = 2_048
MAX_HOST_CHARS = 253

_SPECIAL_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; a vendor's metadata, too (100.100.100.200)
        "127.0.0.0/8",
        "168.63.129.16/32",  # a vendor's metadata at an address that is otherwise public
        "169.254.0.0/16",  # link-local; most vendors' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; a vendor's metadata, too (192.0.0.192)
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
#: All of IPv6 that is given out for the public network; everything else is loopback, private, link-local, multicast, reserved, or
#: an IPv4 address in another form.
_GLOBAL_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments; Teredo, which holds an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",  # documentation
    )
)
#: How a network without IPv4 reaches it (RFC 6052): the last four bytes are the address that is meant.
_NAT64 = IPv6Network("64:ff9b::/96")

_BLOCKED_PORTS = frozenset(
    (1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080)
)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
#: What every browser and libc takes for an IPv4 address, in one of its odd forms (WHATWG URL, "ends in a number").
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


def check_address(text: str, allowed: Collection[Endpoint] = ()) -> URL:
    """`text` as a URL that may be asked, as far as can be told without resolving its host.

    `allowed`: what the operator lets users name although it is inside.

    Raises:
        AddressRefusedError: what it is that keeps it from being asked; of the URL the host alone is told.
    """
    url = _parsed(text)
    host, port = endpoint_of(url)
    if (host, port) in allowed:
        return url
    if port not in (80, 443) and (port < 1024 or port in _BLOCKED_PORTS):
        raise AddressRefusedError(f"The port {port} of {host} is none for HTTP; use 443, 80 or one from 1024 on.")
    if host == "localhost" or host.endswith(".localhost") or (is_literal(host) and is_inside(host)):
        raise leads_inside(host)
    return url


def endpoint_of(url: URL) -> Endpoint:
    """Host and port of a URL."""
    return url.raw_host or "", url.port or 0


def endpoint(text: str) -> Endpoint:
    """HOST:PORT as an operator writes it; ValueError when it is no such thing."""
    try:
        url = _parsed(f"http://{text}/")
    except AddressRefusedError:
        url = URL()
    if url.explicit_port is None or any(mark in text for mark in "/?#"):
        raise ValueError(f'"{text[:60]}" is no HOST:PORT; 10.0.0.7:8080 would be one')
    return endpoint_of(url)


def is_inside(address: str) -> bool:
    """Whether an IP address is anything but a public one: private, local, reserved, multicast, or one of these in IPv6."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and ip in _NAT64:
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    if isinstance(ip, IPv4Address):
        return any(ip in network for network in _SPECIAL_V4)
    return ip not in _GLOBAL_V6 or any(ip in network for network in _SPECIAL_V6)


def is_literal(host: str) -> bool:
    """Whether the host of a checked URL is an IP address and no name."""
    return ":" in host or _ENDS_IN_NUMBER.fullmatch(host) is not None


def leads_inside(host: str) -> AddressRefusedError:
    """The error of a host that leads inside."""
    return AddressRefusedError(
        f"{host} is, or resolves to, an address that is not public, so it is not asked; an operator who wants it asked "
        "names it in the configuration (outside.allow)."
    )


def _parsed(text: str) -> URL:
    """A URL of which everybody who reads it understands the same."""
    if len(text) > MAX_URL_CHARS:
        raise AddressRefusedError(f"A URL of over {MAX_URL_CHARS:,} characters is not asked.")
    if not text.isprintable() or " " in text or "\\" in text:
        raise AddressRefusedError("The URL has a space, a backslash, a line break or an invisible character in it.")
    try:
        url = URL(text)
    except (ValueError, IndexError):  # IndexError: brackets in a user name
        raise AddressRefusedError("This is no URL; https://example.com/hook would be one.") from None
    if url.scheme not in ("https", "http"):
        raise AddressRefusedError("The URL does not start with https:// or http://.")
    authority = re.split("[/?#]", text.partition("//")[2])[0]
    if "@" in authority:
        raise AddressRefusedError("The URL has a user name or a password in it, which is not sent; leave it out.")
    host = url.raw_host or ""
    # Brackets around what is no IPv6 address are for forms of addresses that do not exist yet.
    if url.port == 0 or not _is_host(host) or ("[" in authority and ":" not in host):
        raise AddressRefusedError("The URL has no host, or one that is no name and no IP address in its usual form.")
    return url


def _is_host(host: str) -> bool:
    if not is_literal(host):
        return len(host) <= MAX_HOST_CHARS and _NAME.fullmatch(host) is not None
    try:
        return str(ip_address(host)) == host and "%" not in host
    except ValueError:
        return False
