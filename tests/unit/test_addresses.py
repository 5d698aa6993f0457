"""Which addresses that users name may be asked: dozens that may not, in every disguise, and those that may."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.addresses import check_address, endpoint, is_inside
from fleet.errors import AddressRefusedError, BadInputError

INSIDE = [
    # IPv4: private, shared, loopback, link-local, metadata, documentation, benchmarks, multicast, reserved, broadcast
    *(
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
    ),
    *(
        "127.255.255.254",
        "168.63.129.16",
        "169.254.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "172.16.0.1",
        "172.31.255.255",
    ),
    *(
        "192.0.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
    ),
    *("203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    # IPv6: unspecified, loopback, unique local, link-local, site-local, multicast, documentation, discard, segment routing
    *(
        "::",
        "::1",
        "fc00::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1",
        "fe80::a9fe:a9fe",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ),
    *("2001:db8::1", "3fff::1", "100::1", "5f00::1", "4000::1", "fe80::1%eth0"),
    # IPv4 in IPv6: mapped, compatible, translated, 6to4, Teredo, NAT64 (well-known and local)
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8"),
    *("::ffff:0:127.0.0.1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2002:808:808::1", "2001:0:7f00:1::", "2001::1"),
    *(
        "64:ff9b::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b::100.64.0.1",
        "64:ff9b:1::8.8.8.8",
    ),
]
PUBLIC = [
    *(
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
    ),
    *("192.167.255.255", "198.17.255.255", "198.20.0.0", "223.255.255.255", "168.63.129.17"),
    *("2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888", "2001:200::1", "2003::1", "64:ff9b::8.8.8.8"),
]


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_that_is_not_public_is_inside(address: str) -> None:
    assert is_inside(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_not(address: str) -> None:
    assert not is_inside(address)


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_taken_for_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """But for the networks that are public, and that some versions of Python do not know so."""
    if not is_inside(str(ip)) and ip not in ipaddress.ip_network("64:ff9b::/96" if ip.version == 6 else "0.0.0.0/32"):
        assert ip.is_global
        assert not (ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


REFUSED = {
    "no public address": [
        *(f"http://{'[' + address + ']' if ':' in address else address}/" for address in INSIDE if "%" not in address),
        *("https://localhost/", "http://LOCALHOST:8080/", "http://foo.localhost/", "http://127.0.0.1:6379/", "http://[::1]:80/"),
        *("http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "http://１２７.０.０.１/", "http://127。0。0。1/", "http://①②⑦.0.0.1/"),
    ],
    "no host": [
        *("http://0x7f.1/", "http://0x7f000001/", "http://0X7F000001/", "http://2130706433/", "http://017700000001/", "http://127.1/"),
        *("http://127.0.1/", "http://0177.0.0.1/", "http://0x7f.0x0.0x0.0x1/", "http://127.0.0.1./", "http://127.0.0.01/"),
        *("http://1.1.1.1.1/", "http://256.1.1.1/", "http://0/", "http://1/", "http://10.1/", "http://example.com.0x7f/", "http://0x/"),
        *("http://example.com./", "http://example..com/", "http://.example.com/", "http://-example.com/", "http://exa%6dple.com/"),
        *("http://%31%32%37.0.0.1/", "http://exa$mple.com/", "http://example.com,127.0.0.1/", f"http://{'a' * 64}.com/"),
        *(f"http://{'a.' * 127}com/", "http:///etc", "http:example.com", "http:/example.com", "http://", "http://[fe80::1%25eth0]/"),
        *("http://[::1%25lo]/", "http://example.com:0/", "http://[v1.fe80]/"),
    ],
    "no URL": [
        *("http://[::1/", "http://::1/", "http://[::1]x/", "http://example.com:port/", "http://example.com:80:80/"),
        *("http://example.com:99999/", "http://[127.0.0.1]/", "http://127.0.0.1[::1]/", "http://[x]@/", "http://ex\u2100mple.com/"),
    ],
    "user name": [
        *("http://user@example.com/", "http://user:password@example.com/", "http://@example.com/", "http://:@example.com/"),
        *("https://example.com@127.0.0.1/", "https://example.com:443@127.0.0.1/", "http://a@b@example.com/"),
    ],
    "does not start": [
        *("ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "unix:///run/docker.sock", "data:text/plain,x"),
        *("//example.com/", "example.com", "", "javascript:alert(1)", "httpx://example.com/", "ws://example.com/"),
    ],
    "line break": [
        *("http://example.com/\r\nHost: inside", "http://example.com/\n", "http://exam\tple.com/", " http://example.com/", "http://example.com/ x"),
        *("http://example.com\\@127.0.0.1/", "http:\\\\example.com/", "http://example.com/\x00", "http://example.com/\u2028", "http://exam\u200bple.com/"),
        *("http://example.com/\x7f", "http://example.com/\u202e"),
    ],
    "port": [f"http://example.com:{port}/" for port in (1, 22, 25, 53, 110, 143, 445, 465, 587, 993, 1023, 2049, 6000, 6667, 10080)],
    "over 2,048": ["http://example.com/" + "a" * 2_048],
}  # fmt: skip


@pytest.mark.parametrize(
    ("why", "address"), [(why, address) for why, addresses in REFUSED.items() for address in addresses]
)
def test_an_address_is_refused_and_told_why(why: str, address: str) -> None:
    said = {"no public address": "not public", "no host": "no host", "no URL": "no URL", "port": "none for HTTP"}.get(
        why, why
    )
    with pytest.raises(AddressRefusedError, match=said) as caught:
        check_address(address)
    assert isinstance(caught.value, BadInputError)


def test_of_a_refused_address_the_host_alone_is_told() -> None:
    for address in (
        "https://10.0.0.1/SECRET?SECRET#SECRET",
        "ftp://example.com/SECRET",
        "http://SECRET@example.com/SECRET",
    ):
        with pytest.raises(AddressRefusedError) as caught:
            check_address(address)
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://example.com/hook?token=x",
        "http://example.com:8080/",
        "https://example.com:8443/a@b",
        "https://münchen.example/ä?ö",
        "https://a_b.example-c.com/",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]:8443/",
        "https://xn--80ak6aa92e.com/",
        "https://1.example.com/",
        "https://example.c0m/",
    ],
)
def test_an_address_outside_may_be_asked(address: str) -> None:
    assert check_address(address).scheme in ("http", "https")


def test_what_the_operator_allows_is_asked_at_its_port_alone() -> None:
    allowed = {endpoint(text) for text in ("127.0.0.1:8080", "[::1]:25", "Receiver:80", "localhost:9")}
    for address in (
        "http://127.0.0.1:8080/x",
        "http://[::1]:25/",
        "http://[0:0::1]:25/",
        "http://RECEIVER/",
        "http://localhost:9/",
    ):
        check_address(address, allowed)
    for address in (
        "http://127.0.0.1:8081/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://localhost:8080/",
        "http://127.0.0.2:8080/",
    ):
        with pytest.raises(AddressRefusedError):
            check_address(address, allowed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        "host:x",
        "host:0",
        "host:70000",
        "a b:1",
        "user@host:1",
        "host:1/x",
        "host:1?",
        "http://h:1",
    ],
)
def test_an_allowed_endpoint_is_a_host_and_a_port(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        endpoint(text)
