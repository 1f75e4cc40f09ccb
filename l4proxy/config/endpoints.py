"""Addresses and ports as operators write them: listeners, origins, overlay addresses. A bad text raises WrongValue.

An address that is written out is the operator's word: private and loopback addresses are allowed, and only what can be
no host at all is refused. What names may resolve to is decided elsewhere, when they are resolved.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Literal

from l4proxy.config.units import WrongValue
from l4proxy.core.app import Listen, Protocol

MAX_PORTS = 20_000
"""Ports of one app. The widest range that a media server has by default is FreeSWITCH's, 16384 to 32768."""

ALL_ADDRESSES = "::"

_LISTEN = re.compile(r"(?P<protocol>[A-Za-z]+)/(?:(?P<host>\[[^\]]*\]|[^:\[\]]*):)?(?P<ports>[^:]*)")
_ENDPOINT = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]+)(?::(?P<port>[^:]*))?")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.*[A-Za-z])(?=.{{1,253}}\.?$){_LABEL}(?:\.{_LABEL})*\.?")
_THIS_NETWORK = 0
"""First octet of addresses that mean "this host"; a connect to 0.0.0.0 reaches 127.0.0.1 (RFC 1122 section 3.2.1.3)."""


@dataclass(frozen=True, slots=True)
class OriginAddress:
    """Where an origin is, as written: an IP address, a host name, or the name of SRV records."""

    text: str
    kind: Literal["ip", "name", "srv"]
    host: str
    """An IP address in its usual form, or the name."""
    port: int | None


def parse_port(text: str) -> int:
    """Return a port, 1 to 65535."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or text != str(int(text)) or not 1 <= int(text) <= 65_535:
        raise WrongValue(f"port {text or '(nothing)'} is not a number from 1 to 65535")
    return int(text)


def parse_host_address(text: str) -> str:
    """Return an IP address in its usual form; it must be one that a single host can have."""
    try:
        address = IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError:
        raise WrongValue(f"{text or '(nothing)'} is not an IP address") from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise WrongValue("a zone (%) in an address is not allowed")
        if address.ipv4_mapped is not None:
            raise WrongValue("is an IPv4 address written as IPv6", f"write {address.ipv4_mapped}")
    elif address.packed[0] == _THIS_NETWORK and not address.is_unspecified:
        raise WrongValue(f"{address} is no address of a host")
    if address.is_unspecified:
        raise WrongValue(f"{address} means every address, not one")
    if address.is_multicast:
        raise WrongValue(f"{address} is a multicast address")
    if address == IPv4Address("255.255.255.255"):
        raise WrongValue(f"{address} is the broadcast address")
    return str(address)


def join(address: str, port: int) -> str:
    """Return `1.2.3.4:80` or `[2001:db8::1]:80`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def split(endpoint: str) -> tuple[str, int]:
    """Return address and port of what `join` made."""
    address, _, port = endpoint.rpartition(":")
    return address.strip("[]"), int(port)


def _unbracket(host: str) -> str:
    """Return an IPv6 address without its brackets; nothing else may have them."""
    if not host.startswith("["):
        return host
    if ":" not in host:
        raise WrongValue("only IPv6 addresses stand in brackets", f"write {host[1:-1]}")
    return host[1:-1]


def parse_listen(value: object) -> Listen:
    """Parse `tcp/PORT`, `udp/FIRST-LAST`, `tcp/ADDR:PORT` or `udp/[ADDR]:FIRST-LAST`."""
    usual = "write tcp/PORT, udp/FIRST-LAST, tcp/ADDR:PORT or udp/[ADDR]:FIRST-LAST"
    if not isinstance(value, str):
        is_port = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65_536
        raise WrongValue("is not a listener", f"write tcp/{value} or udp/{value}" if is_port else usual)
    if (found := _LISTEN.fullmatch(value)) is None:
        raise WrongValue("is not a listener", _bracket_hint(value) or usual)
    protocol = _parse_protocol(found["protocol"])
    address = ALL_ADDRESSES if found["host"] is None else _listen_address(found["host"])
    first_text, dash, last_text = found["ports"].partition("-")
    first = parse_port(first_text)
    last = parse_port(last_text) if dash else first
    if last < first:
        raise WrongValue(f"range {first}-{last} ends before it begins", f"write {last}-{first}")
    if last - first >= MAX_PORTS:
        raise WrongValue(f"range {first}-{last} has {last - first + 1} ports, and {MAX_PORTS} are possible")
    return Listen(protocol, address, first, last)


def _parse_protocol(text: str) -> Protocol:
    match text:
        case "tcp" | "udp":
            return text
        case _:
            hint = f"write {text.lower()}" if text.lower() in ("tcp", "udp") else None
            raise WrongValue(f"{text} is neither tcp nor udp", hint)


def _listen_address(host: str) -> str:
    if host in ("", "*", "0.0.0.0", "[::]"):  # noqa: S104 (refused, not bound)
        raise WrongValue(
            "names every address", "leave the address out: tcp/PORT listens on all, IPv4 and IPv6"
        )
    return parse_host_address(_unbracket(host))


def _bracket_hint(value: str) -> str | None:
    return "an IPv6 address stands in brackets: tcp/[2001:db8::1]:443" if value.count(":") > 1 else None


def parse_origin(value: object) -> OriginAddress:
    """Parse `IP`, `IP:PORT`, `[IPv6]`, `[IPv6]:PORT`, `NAME`, `NAME:PORT` or `srv:NAME`."""
    usual = "write ADDRESS or ADDRESS:PORT, such as 203.0.113.10:25565 or '[2001:db8::1]:25565'"
    if not isinstance(value, str):
        raise WrongValue("is not an origin", usual)
    if "://" in value:
        raise WrongValue("is not an origin", f"leave {value.partition('://')[0]}:// out")
    if value.startswith("srv:"):
        if not _HOST_NAME.fullmatch(value[4:]):
            raise WrongValue("is not a name of SRV records", "write srv:_SERVICE._udp.DOMAIN")
        return OriginAddress(value, "srv", value[4:], None)
    if (found := _ENDPOINT.fullmatch(value)) is None:
        hint = "an IPv6 address stands in brackets: '[2001:db8::1]:25565'" if value.count(":") > 1 else usual
        raise WrongValue("is not an origin", hint)
    port = None if found["port"] is None else parse_port(found["port"])
    host = found["host"]
    if host.startswith("[") or re.fullmatch(r"[0-9.]+", host):
        return OriginAddress(value, "ip", parse_host_address(_unbracket(host)), port)
    if not _HOST_NAME.fullmatch(host):
        raise WrongValue("is not an origin", usual)
    return OriginAddress(value, "name", host, port)


def parse_overlay_address(value: object) -> str:
    """Parse `IP:PORT` or `[IPv6]:PORT`, and return it in its usual form."""
    found = _ENDPOINT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        hint = "write IP:PORT, such as 198.51.100.1:4600 or '[2001:db8::1]:4600'"
        raise WrongValue("is not an overlay address", hint)
    address = parse_host_address(_unbracket(found["host"]))
    if found["port"] is None:
        raise WrongValue("has no port", f"write {join(address, 4600)}")
    return join(address, parse_port(found["port"]))
