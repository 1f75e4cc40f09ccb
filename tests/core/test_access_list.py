"""Packed access lists: their number stands for their contents, and their pieces put together are the list."""

from ipaddress import ip_network

import pytest

from l4proxy.core.access_list import NOBODY, PIECE_PREFIXES, AccessList

PREFIXES = [ip_network(text) for text in ("192.0.2.0/24", "2001:db8::/32", "198.51.100.7")]


def test_prefixes_are_packed_by_family() -> None:
    packed = AccessList.pack(PREFIXES)
    assert packed.v4 == bytes([192, 0, 2, 0, 24, 198, 51, 100, 7, 32])
    assert packed.v6 == bytes.fromhex("20010db8") + bytes(12) + bytes([32])
    assert len(packed) == 3


def test_the_number_stands_for_the_contents() -> None:
    one = AccessList.pack(PREFIXES)
    assert one == AccessList.pack(PREFIXES)
    others = [AccessList.pack(PREFIXES[:2]), AccessList.pack(reversed(PREFIXES)), NOBODY]
    assert len({one.id, *(other.id for other in others)}) == 4
    # The same bytes are another list when they belong to another family.
    assert AccessList.of(bytes(85), b"").id != AccessList.of(b"", bytes(85)).id


@pytest.mark.parametrize("v4", [0, 1, PIECE_PREFIXES, PIECE_PREFIXES + 1])
@pytest.mark.parametrize("v6", [0, PIECE_PREFIXES - 1, 2 * PIECE_PREFIXES + 1])
def test_the_pieces_are_the_list(v4: int, v6: int) -> None:
    whole = AccessList.of(bytes(range(5)) * v4, bytes(range(17)) * v6)
    pieces = list(whole.pieces())
    assert [piece["part"] for piece in pieces] == list(range(len(pieces)))
    assert [piece["is_last"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert {piece["id"] for piece in pieces} == {whole.id}
    assert b"".join(piece["v4"] for piece in pieces) == whole.v4  # type: ignore[misc]
    assert b"".join(piece["v6"] for piece in pieces) == whole.v6  # type: ignore[misc]
