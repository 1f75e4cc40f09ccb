"""What may be written down of a client's address: `record_client` of an app. Pure; the key is an argument."""

from hashlib import blake2s
from ipaddress import IPv4Address, ip_address, ip_network

KEY_BYTES = 32
"""Length of the key of `hash`. Without a secret key all 2³² IPv4 addresses are hashed in minutes, and the hash hides nobody."""

HASH_BYTES = 16
"""No two of a PoP's clients get one hash by chance."""

PREFIX_V4, PREFIX_V6 = 24, 48
"""What `prefix` keeps: a /24 is the smallest that is announced; a customer's IPv6 network is at most a /48."""


def recorded_client(ip: str, port: int | None, how: str, key: bytes) -> tuple[str | None, int | None]:
    """Return address and port as they may be written down.

    The port is part of `full` only: behind a carrier's NAT port and time lead to one customer. A word that is not known is `none`.
    """
    address = ip_address(ip)
    match how:
        case "full":
            return ip, port
        case "prefix":
            length = PREFIX_V4 if isinstance(address, IPv4Address) else PREFIX_V6
            return str(ip_network((address, length), strict=False)), None
        case "hash":
            return blake2s(address.packed, digest_size=HASH_BYTES, key=key).hexdigest(), None
        case _:
            return None, None
