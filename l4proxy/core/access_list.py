"""A list of prefixes as the engine takes it: packed, and named by a number that stands for its contents. Pure.

An IPv4 prefix is 5 bytes (address, length), an IPv6 prefix 17. A list is never changed: another version is another list.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Self

V4_BYTES = 5
V6_BYTES = 17

PIECE_PREFIXES = 60_000
"""Prefixes of one family in one frame: a megabyte of IPv6, far below the longest frame."""


@dataclass(frozen=True, slots=True)
class AccessList:
    """Prefixes of both families."""

    id: int
    """64 bits of a hash of the contents."""
    v4: bytes = field(repr=False)
    v6: bytes = field(repr=False)

    @classmethod
    def of(cls, v4: bytes, v6: bytes) -> Self:
        """Return the list of these packed prefixes."""
        digest = hashlib.blake2b(len(v4).to_bytes(8) + v4 + v6, digest_size=8).digest()
        return cls(int.from_bytes(digest), v4, v6)

    @classmethod
    def pack(cls, prefixes: Iterable[IPv4Network | IPv6Network]) -> Self:
        """Return the list of these prefixes, in their order."""
        packed = {4: bytearray(), 6: bytearray()}
        for prefix in prefixes:
            packed[prefix.version] += prefix.network_address.packed + bytes([prefix.prefixlen])
        return cls.of(bytes(packed[4]), bytes(packed[6]))

    def __len__(self) -> int:
        return len(self.v4) // V4_BYTES + len(self.v6) // V6_BYTES

    def pieces(self) -> Iterator[dict[str, object]]:
        """Yield the bodies of its `access_list` frames, at least one."""
        count = max(
            -(-len(self.v4) // (PIECE_PREFIXES * V4_BYTES)),
            -(-len(self.v6) // (PIECE_PREFIXES * V6_BYTES)),
            1,
        )
        for part in range(count):
            begin, end = part * PIECE_PREFIXES, (part + 1) * PIECE_PREFIXES
            yield {
                "id": self.id,
                "part": part,
                "is_last": part == count - 1,
                "v4": self.v4[begin * V4_BYTES : end * V4_BYTES],
                "v6": self.v6[begin * V6_BYTES : end * V6_BYTES],
            }


NOBODY = AccessList.of(b"", b"")
"""The list that names nobody."""
