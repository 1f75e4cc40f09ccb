"""Listeners, origins and overlay addresses."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.config.endpoints import (
    MAX_PORTS,
    OriginAddress,
    join,
    parse_listen,
    parse_origin,
    parse_overlay_address,
    split,
)
from l4proxy.config.units import WrongValue
from l4proxy.core.app import Listen
from tests.config.support import PATIENT

ports = st.integers(1, 65_535)
addresses = st.one_of(
    st.ip_addresses(v=4).filter(lambda a: a.packed[0] not in (0, *range(224, 240)) and int(a) != 2**32 - 1),
    st.ip_addresses(v=6).filter(
        lambda a: not a.is_multicast and not a.is_unspecified and a.ipv4_mapped is None
    ),
).map(str)


@st.composite
def listeners(draw: st.DrawFn) -> Listen:
    first = draw(ports)
    last = draw(st.integers(first, min(65_535, first + MAX_PORTS - 1)))
    address = draw(st.one_of(st.just("::"), addresses))
    return Listen(draw(st.sampled_from(["tcp", "udp"])), address, first, last)


@PATIENT
@given(listeners())
def test_what_is_printed_is_read_back(listen: Listen) -> None:
    assert parse_listen(str(listen)) == listen


@PATIENT
@given(addresses, st.one_of(st.none(), ports))
def test_origins_are_read_back(address: str, port: int | None) -> None:
    text = f"[{address}]" if ":" in address else address
    text += "" if port is None else f":{port}"
    assert parse_origin(text) == OriginAddress(text, "ip", address, port)


@PATIENT
@given(addresses, ports)
def test_overlay_addresses_are_read_back(address: str, port: int) -> None:
    text = join(address, port)
    assert parse_overlay_address(text) == text
    assert split(text) == (address, port)


@PATIENT
@given(
    st.one_of(
        st.text(), st.text("tcpud/[]:.-0123456789abcdef%"), st.none(), st.integers(), st.lists(st.text())
    )
)
def test_anything_else_is_a_wrong_value(value: object) -> None:
    for parse in (parse_listen, parse_origin, parse_overlay_address):
        with suppress(WrongValue):
            parse(value)


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("tcp/25565", Listen("tcp", "::", 25_565, 25_565)),
        ("udp/10000-10100", Listen("udp", "::", 10_000, 10_100)),
        ("tcp/198.51.100.1:80", Listen("tcp", "198.51.100.1", 80, 80)),
        ("udp/[2001:DB8:0::1]:5060-5070", Listen("udp", "2001:db8::1", 5_060, 5_070)),
        ("tcp/127.0.0.1:1", Listen("tcp", "127.0.0.1", 1, 1)),
        (f"udp/16384-{16_384 + MAX_PORTS - 1}", Listen("udp", "::", 16_384, 16_384 + MAX_PORTS - 1)),
        ("tcp/65535-65535", Listen("tcp", "::", 65_535, 65_535)),
    ],
)
def test_listeners(text: str, listen: Listen) -> None:
    assert parse_listen(text) == listen


@pytest.mark.parametrize(
    ("text", "kind", "host", "port"),
    [
        ("10.0.0.1", "ip", "10.0.0.1", None),
        ("127.0.0.1:80", "ip", "127.0.0.1", 80),
        ("[2001:DB8::0:1]", "ip", "2001:db8::1", None),
        ("[fe80::1]:80", "ip", "fe80::1", 80),
        ("localhost", "name", "localhost", None),
        ("play.example.net:25565", "name", "play.example.net", 25_565),
        ("1.example.net.", "name", "1.example.net.", None),
        ("srv:_sip._udp.example.net", "srv", "_sip._udp.example.net", None),
    ],
)
def test_origins(text: str, kind: str, host: str, port: int | None) -> None:
    found = parse_origin(text)
    assert (found.text, found.kind, found.host, found.port) == (text, kind, host, port)


@pytest.mark.parametrize(
    "text",
    [
        "a..b",
        "-a.example",
        "a-.example",
        "a" * 64,
        f"{'a.' * 127}a.b",
        "exa mple",
        "1",
        "256.1.1.1",
        "1.2.3.4.5",
        "",
    ],
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(WrongValue):
        parse_origin(text)
