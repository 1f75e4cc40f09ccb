"""Names and numbers that identify things, as types that cannot be mixed up."""

from functools import lru_cache
from hashlib import sha256
from typing import NewType

PopName = NewType("PopName", str)
"""Name of a PoP in the fleet file, `[a-z0-9-]{1,48}`."""

AppName = NewType("AppName", str)
"""Name of an app, unique in the fleet, `[a-z0-9-]{1,48}`."""

LinkName = NewType("LinkName", str)
"""A directed link, written `ams/a>iad/b`: PoP/transit > PoP/transit."""

KEPT_IDS = 1 << 16
"""Ids that are remembered: plans ask each second for those of all links and paths, 16,000 of them in a fleet of 100 PoPs."""

Id32 = NewType("Id32", int)
"""The first four bytes of SHA-256 of a name; docs/protocol.md section 1."""


@lru_cache(maxsize=KEPT_IDS)
def id32(name: str) -> Id32:
    """Return the 32-bit wire id of a PoP's or link's name, or of a path (link names joined by commas)."""
    return Id32(int.from_bytes(sha256(name.encode()).digest()[:4], "big"))


def path_id(links: "tuple[LinkName, ...] | list[LinkName]") -> Id32:
    """Return the wire id of a path: `id32` of its link names joined by commas."""
    return id32(",".join(links))
