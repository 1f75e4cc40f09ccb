"""A reader of PROXY headers and of Simple Proxy Protocol that knows nothing of the engine's: from the specifications alone.

It is strict: what is not exactly a header is an assertion. Nothing here writes headers but `datagram_header`, for balancers of UDP.
"""

import ipaddress
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
SPP_LENGTH = 38
SPP_MAGIC = 0x56EC

CRC32C, AUTHORITY, UNIQUE_ID, SSL, APP = 0x03, 0x02, 0x05, 0x20, 0xE0

Address = tuple[str, int]


@dataclass
class Said:
    """What a header says."""

    version: int
    transport: str
    """"stream" or "datagram"."""
    client: Address
    proxy: Address
    values: dict[int, bytes] = field(default_factory=dict)
    """TLVs of version 2."""


def read_line(read: Callable[[int], bytes]) -> Said:
    """Read a header of version 1; `read(n)` returns exactly n bytes."""
    line = b""
    while not line.endswith(b"\r\n"):
        assert len(line) < 107, line
        line += read(1)
    word, family, client, proxy, client_port, proxy_port = line[:-2].decode("ascii").split(" ")
    assert word == "PROXY"
    for address in (client, proxy):
        assert ipaddress.ip_address(address).version == {"TCP4": 4, "TCP6": 6}[family], line
    for port in (client_port, proxy_port):
        assert port == str(int(port)), line
    return Said(1, "stream", (client, int(client_port)), (proxy, int(proxy_port)))


def read_binary(read: Callable[[int], bytes]) -> Said:
    """Read a header of version 2, with its checksum verified where there is one."""
    fixed = read(16)
    assert fixed[:12] == SIGNATURE, fixed
    assert fixed[12] == 0x21, "version 2, PROXY"
    rest = read(int.from_bytes(fixed[14:], "big"))
    length, family = {1: (4, socket.AF_INET), 2: (16, socket.AF_INET6)}[fixed[13] >> 4]
    transport = {1: "stream", 2: "datagram"}[fixed[13] & 0xF]
    client, proxy = (socket.inet_ntop(family, rest[at : at + length]) for at in (0, length))
    client_port, proxy_port = struct.unpack_from("!HH", rest, 2 * length)
    said = Said(2, transport, (client, client_port), (proxy, proxy_port))
    at = 2 * length + 4
    while at < len(rest):
        kind, size = struct.unpack_from("!BH", rest, at)
        value = rest[at + 3 : at + 3 + size]
        assert len(value) == size, "a value ends within the header"
        assert kind not in said.values, "each once"
        said.values[kind] = value
        if kind == CRC32C:
            whole = fixed + rest
            place = 16 + at + 3
            assert crc32c(whole[:place] + bytes(4) + whole[place + 4 :]) == int.from_bytes(value, "big")
        at += 3 + size
    return said


def read_spp(datagram: bytes) -> tuple[Said, bytes]:
    """Take a header of Simple Proxy Protocol off a datagram."""
    magic, client, proxy, client_port, proxy_port = struct.unpack_from("!H16s16sHH", datagram)
    assert magic == SPP_MAGIC, datagram
    said = Said(0, "datagram", (_unmapped(client), client_port), (_unmapped(proxy), proxy_port))
    return said, datagram[SPP_LENGTH:]


def read_datagram(datagram: bytes) -> tuple[Said, bytes]:
    """Take a header of version 2 off a datagram."""
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        part = datagram[at : at + count]
        assert len(part) == count, "a header ends within its datagram"
        at += count
        return part

    return read_binary(read), datagram[at:]


def datagram_header(client: Address, proxy: Address) -> bytes:
    """Return a header of version 2 for IPv4 datagrams, as a balancer of UDP puts before them."""
    addresses = socket.inet_aton(client[0]) + socket.inet_aton(proxy[0])
    return (
        SIGNATURE + b"\x21\x12" + struct.pack("!H", 12) + addresses + struct.pack("!HH", client[1], proxy[1])
    )


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli, reflected polynomial 0x82F63B78; RFC 3720, appendix B.4) of some bytes."""
    remainder = 0xFFFF_FFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F6_3B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFF_FFFF


def _unmapped(packed: bytes) -> str:
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)
