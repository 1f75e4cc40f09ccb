"""What is written down of a client's address."""

import pytest

from l4proxy.core.privacy import recorded_client

KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("ip", "how", "told"),
    [
        ("198.51.100.7", "full", ("198.51.100.7", 50_000)),
        ("198.51.100.7", "prefix", ("198.51.100.0/24", None)),
        ("2001:db8:1:2:3::4", "prefix", ("2001:db8:1::/48", None)),
        ("198.51.100.7", "none", (None, None)),
        ("198.51.100.7", "a word of a later version", (None, None)),
    ],
)
def test_as_much_as_the_app_allows(ip: str, how: str, told: tuple[str | None, int | None]) -> None:
    assert recorded_client(ip, 50_000, how, KEY) == told


def test_a_hash_is_the_same_for_one_client_and_one_key_only() -> None:
    def hashed(ip: str, key: bytes) -> str | None:
        return recorded_client(ip, 1, "hash", key)[0]

    assert hashed("198.51.100.7", KEY) == hashed("198.51.100.7", KEY)
    assert hashed("2001:db8::1", KEY) == hashed("2001:db8:0::1", KEY)
    others = {hashed("198.51.100.8", KEY), hashed("198.51.100.7", bytes(32)), hashed("2001:db8::1", KEY)}
    assert len(others | {hashed("198.51.100.7", KEY)}) == 4
