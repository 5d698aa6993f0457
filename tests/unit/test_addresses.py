"""Which addresses that users name may be asked: dozens that may not, in every disguise, and those that may."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.addresses import check_address, endpoint, is_inside
from fleet.errors import AddressRefusedError, BadInputError


def words(*lines: str) -> list[str]:
    return [word for line in lines for word in line.split()]


INSIDE = words(
    # IPv4: private, shared, loopback, link-local, metadata, documentation, benchmarks, multicast, reserved, broadcast
    "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254 168.63.129.16",
    "169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1",
    "198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255",
    # IPv6: unspecified, loopback, unique local, link-local, site-local, multicast, documentation, discard, segment routing
    ":: ::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::a9fe:a9fe fec0::1 ff02::1 ff0e::1 2001:db8::1 3fff::1 100::1",
    "5f00::1 4000::1 fe80::1%eth0",
    # IPv4 in IPv6: mapped, compatible, translated, 6to4, Teredo, NAT64 (well-known and local)
    "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:8.8.8.8 ::127.0.0.1 ::8.8.8.8 ::ffff:0:127.0.0.1",
    "2002:7f00:1::1 2002:a9fe:a9fe::1 2002:808:808::1 2001:0:7f00:1:: 2001::1 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254 64:ff9b::100.64.0.1 64:ff9b:1::8.8.8.8",
)
PUBLIC = words(
    "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 192.167.255.255 198.17.255.255",
    "198.20.0.0 223.255.255.255 168.63.129.17 2606:4700::1111 2a00:1450::1 2001:4860:4860::8888 2001:200::1 2003::1",
    "64:ff9b::8.8.8.8",
)


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_that_is_not_public_is_inside(address: str) -> None:
    assert is_inside(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_not(address: str) -> None:
    assert not is_inside(address)


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_taken_for_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """But for NAT64, where the address inside counts."""
    if not is_inside(str(ip)) and not str(ip).startswith("64:ff9b::"):
        assert ip.is_global
        assert not (ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


REFUSED: dict[str, Sequence[str]] = {
    "not public": [
        *(f"http://{'[' + address + ']' if ':' in address else address}/" for address in INSIDE if "%" not in address),
        *words(
            "https://localhost/ http://LOCALHOST:8080/ http://foo.localhost/ http://127.0.0.1:6379/ http://[::1]:80/"
        ),
        # letters in circles, digits in full width and in circles, ideographic full stops: UTS 46 makes plain ones of them
        "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
        "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/",
        "http://127\u30020\u30020\u30021/",
        "http://\u2460\u2461\u2466.0.0.1/",
    ],
    "no host": words(
        "http://0x7f.1/ http://0x7f000001/ http://0X7F000001/ http://2130706433/ http://017700000001/ http://127.1/ http://127.0.1/",
        "http://0177.0.0.1/ http://0x7f.0x0.0x0.0x1/ http://127.0.0.1./ http://127.0.0.01/ http://1.1.1.1.1/ http://256.1.1.1/ http://0/",
        "http://1/ http://10.1/ http://example.com.0x7f/ http://0x/ http://example.com./ http://example..com/ http://.example.com/",
        "http://-example.com/ http://exa%6dple.com/ http://%31%32%37.0.0.1/ http://exa$mple.com/ http://example.com,127.0.0.1/",
        "http:///etc http:example.com http:/example.com http:// http://[fe80::1%25eth0]/ http://[::1%25lo]/ http://example.com:0/",
        f"http://[v1.fe80]/ http://{'a' * 64}.com/ http://{'a.' * 127}com/",
    ),
    "no URL": [
        *words(
            "http://[::1/ http://::1/ http://[::1]x/ http://example.com:port/ http://example.com:80:80/ http://example.com:99999/"
        ),
        *words("http://[127.0.0.1]/ http://127.0.0.1[::1]/ http://[x]@/"),
        "http://ex\u2100mple.com/",  # a/c, once it is plain
    ],
    "user name": words(
        "http://user@example.com/ http://user:password@example.com/ http://@example.com/ http://:@example.com/",
        "https://example.com@127.0.0.1/ https://example.com:443@127.0.0.1/ http://a@b@example.com/",
    ),
    "does not start": [
        *words(
            "ftp://example.com/ file:///etc/passwd gopher://example.com/ unix:///run/docker.sock data:text/plain,x //example.com/"
        ),
        *words("example.com javascript:alert(1) httpx://example.com/ ws://example.com/"),
        "",
    ],
    "line break": [
        "http://example.com/\r\nHost: inside",
        "http://example.com/\n",
        "http://exam\tple.com/",
        " http://example.com/",
        "http://example.com/ x",
        "http://example.com\\@127.0.0.1/",
        "http:\\\\example.com/",
        *(f"http://exam{character}ple.com/" for character in "\x00\x7f\u2028\u200b\u202e\xad"),
    ],
    "none for HTTP": [
        f"http://example.com:{port}/"
        for port in (1, 22, 25, 53, 110, 143, 445, 465, 587, 993, 1023, 2049, 6000, 6667, 10080)
    ],
    "over 2,048": ["http://example.com/" + "a" * 2_048],
}


@pytest.mark.parametrize(
    ("why", "address"), [(why, address) for why, addresses in REFUSED.items() for address in addresses]
)
def test_an_address_is_refused_and_told_why(why: str, address: str) -> None:
    with pytest.raises(AddressRefusedError, match=why) as caught:
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
