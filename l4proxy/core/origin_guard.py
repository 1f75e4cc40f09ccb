"""What a name may not resolve to: the table of `rust_ext/crates/proto/src/origin_guard.rs`, for people and for checks.

The engine enforces it when it dials; here the same verdict reaches `status` before a client meets it, and keeps the checks of
origins from knocking where the engine would not. Python's own `ipaddress` properties know neither NAT64 nor 6to4.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

Denied = Literal[
    "unspecified", "loopback", "link_local", "metadata", "multicast", "broadcast", "reserved", "private"
]

_ROWS_V4: tuple[tuple[str, Denied], ...] = (
    ("169.254.169.254/32", "metadata"),  # EC2 and most others
    ("169.254.170.2/32", "metadata"),  # ECS
    ("169.254.170.23/32", "metadata"),  # EKS
    ("100.100.100.200/32", "metadata"),  # Alibaba
    ("168.63.129.16/32", "metadata"),  # Azure's wire server
    ("192.0.0.192/32", "metadata"),  # Oracle
    ("0.0.0.0/8", "unspecified"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link_local"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "reserved"),
    ("192.88.99.0/24", "reserved"),
    ("198.18.0.0/15", "reserved"),
    ("198.51.100.0/24", "reserved"),
    ("203.0.113.0/24", "reserved"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "private"),
    ("172.16.0.0/12", "private"),
    ("192.168.0.0/16", "private"),
)

_ROWS_V6: tuple[tuple[str, Denied], ...] = (
    ("fd00:ec2::/32", "metadata"),  # EC2
    ("fd20:ce::254/128", "metadata"),  # Google
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("fe80::/10", "link_local"),
    ("ff00::/8", "multicast"),
    ("fc00::/7", "private"),
    ("fec0::/10", "private"),
    ("64:ff9b:1::/48", "private"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "reserved"),
    ("3fff::/20", "reserved"),
)

_TABLE_V4 = tuple((IPv4Network(net), denied) for net, denied in _ROWS_V4)
_TABLE_V6 = tuple((IPv6Network(net), denied) for net, denied in _ROWS_V6)

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")


def denied(address: str, *, allow_private: bool) -> Denied | None:
    """Return why a name may not lead to `address`; None: it may."""
    ip = ip_address(address)
    return _in_v4(ip, allow_private) if isinstance(ip, IPv4Address) else _in_v6(ip, allow_private)


def _in_v4(ip: IPv4Address, allow_private: bool) -> Denied | None:
    found = next((denied for net, denied in _TABLE_V4 if ip in net), None)
    return None if found == "private" and allow_private else found


def _in_v6(ip: IPv6Address, allow_private: bool) -> Denied | None:
    bits = int(ip)

    def inner(shift: int) -> IPv4Address:
        return IPv4Address(bits >> shift & 0xFFFF_FFFF)

    if ip in _MAPPED or ip in _NAT64:
        return _in_v4(inner(0), allow_private)
    if ip in _SIX_TO_FOUR:
        return _in_v4(inner(80), allow_private)
    if ip in _TEREDO:
        client = IPv4Address(int(inner(0)) ^ 0xFFFF_FFFF)
        return _in_v4(client, allow_private) or _in_v4(inner(64), allow_private)
    found = next((denied for net, denied in _TABLE_V6 if ip in net), None)
    if found is not None:
        return None if found == "private" and allow_private else found
    if ip in _COMPATIBLE:
        return _in_v4(inner(0), allow_private) or "reserved"
    return None if ip in _GLOBAL_UNICAST else "reserved"
