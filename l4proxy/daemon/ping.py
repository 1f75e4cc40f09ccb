"""One ICMP echo: build, send, wait, match. For origins of UDP apps, where nothing can be connected to.

Uses the kernel's ping sockets where net.ipv4.ping_group_range admits this user, else a raw socket where that is
permitted. Where neither is, `is_possible` says so and nobody pings.
"""

import os
import socket
import struct
import time
from typing import Final

import anyio

_HEADER: Final = struct.Struct("!BBHHH")
_ECHO_REQUEST: Final = {socket.AF_INET: 8, socket.AF_INET6: 128}
_ECHO_REPLY: Final = {socket.AF_INET: 0, socket.AF_INET6: 129}
_PROTOCOL: Final = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_PAYLOAD: Final = b"l4proxy origin check"
_MAX_REPLY_BYTES: Final = 1500


def checksum(data: bytes) -> int:
    """Return the Internet checksum of RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def encode_request(family: int, identifier: int, sequence: int) -> bytes:
    """Return an echo request; for IPv6 the kernel fills in the checksum, which covers addresses."""
    kind = _ECHO_REQUEST[socket.AddressFamily(family)]
    packet = _HEADER.pack(kind, 0, 0, identifier, sequence) + _PAYLOAD
    if family == socket.AF_INET6:
        return packet
    return _HEADER.pack(kind, 0, checksum(packet), identifier, sequence) + _PAYLOAD


def is_reply(family: int, packet: bytes, sequence: int, identifier: int | None) -> bool:
    """Return whether a received packet answers our request; `identifier` None: the kernel matched it already."""
    if family == socket.AF_INET and packet[:1] and packet[0] >> 4 == 4:
        packet = packet[(packet[0] & 15) * 4 :]  # raw IPv4 sockets deliver the IP header as well
    if len(packet) < _HEADER.size:
        return False
    kind, _, _, got_identifier, got_sequence = _HEADER.unpack_from(packet)
    if kind != _ECHO_REPLY[socket.AddressFamily(family)] or got_sequence != sequence:
        return False
    return identifier is None or got_identifier == identifier


def _open(family: int) -> tuple[socket.socket, int | None]:
    """Return a socket for echoes, and the identifier to match by (None: the kernel does)."""
    protocol = _PROTOCOL[socket.AddressFamily(family)]
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        return socket.socket(family, socket.SOCK_DGRAM | flags, protocol), None
    except PermissionError:
        identifier = int.from_bytes(os.urandom(2), "big")
        return socket.socket(family, socket.SOCK_RAW | flags, protocol), identifier


def is_possible(family: int) -> bool:
    """Return whether this process may ping at all."""
    try:
        _open(family)[0].close()
    except OSError:
        return False
    return True


async def ping(address: str, sequence: int) -> int:
    """Return the round-trip time of one echo, nanoseconds; waits for ever, so the caller sets the time limit.

    Raises OSError when the network says that the address cannot be reached.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock, identifier = _open(family)
    sequence &= 0xFFFF
    with sock:
        sock.connect((address, 0))
        began_ns = time.perf_counter_ns()
        sock.send(encode_request(family, identifier or 0, sequence))
        while True:
            await anyio.wait_readable(sock)
            try:
                packet = sock.recv(_MAX_REPLY_BYTES)
            except BlockingIOError:
                continue
            if is_reply(family, packet, sequence, identifier):
                return time.perf_counter_ns() - began_ns
