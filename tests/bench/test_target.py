"""Targets as people write them."""

import pytest

from l4proxy.bench.target import parse_listen, parse_target, split


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1:4000", ("192.0.2.1", 4000)),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535)),
        ("game.example.net:1", ("game.example.net", 1)),
    ],
)
def test_host_and_port_are_split(text: str, expected: tuple[str, int]) -> None:
    assert split(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", ":1", "::1:4000", "host:65536", "host:-1", "host:1x", "host:²"]
)
def test_what_is_not_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|brackets"):
        split(text)


def test_ipv6_keeps_its_brackets_and_port_zero_is_for_listening_only() -> None:
    assert parse_target("[::1]:7") == "[::1]:7"
    assert parse_target("127.0.0.1:7") == "127.0.0.1:7"
    assert parse_listen("127.0.0.1:0") == "127.0.0.1:0"
    with pytest.raises(ValueError, match="no port 0"):
        parse_target("127.0.0.1:0")
