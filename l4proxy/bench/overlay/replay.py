"""Fills a transit PoP: takes one packet of the first PoP's that passes it, and sends it again as fast as asked for.

    python -m l4proxy.bench.overlay.replay --overlay ADDR:PORT --to ADDR:PORT --through ADDR:PORT --size BYTES --seconds S

A transit PoP keeps no state of flows, so to it the same packet is as good as a new one: it checks the tag, reads the label, writes
the next tag. (The last PoP drops the copies by their counter.) So one core can send what a keyed sender could not: its own
encryption would cost ten times what the transit costs. Runs in the first PoP's namespace, from its overlay address. Segments go to the
kernel in batches, as the engine's own do. Prints what was sent, as JSON, and reads the transit's time right before and after.
"""

import argparse
import contextlib
import json
import socket
import sys
import time

from l4proxy.bench.usage import Meter
from l4proxy.errors import L4ProxyError

OUTER, CHANNEL = 0x08, 0x09
"""First byte of a packet that passes transit PoPs, and of the datagram channel's in it (docs/protocol.md, section 1)."""
HEADERS = 20 + 16 + 7 + 16
"""What stands around a datagram that passes one transit: outer header with a label, channel header, frame, tag (sections 2 and 5)."""
WARM_UP_S = 0.3
CAPTURE_S = 10.0
PATIENCE_FRAMES = 20
"""Frames that are looked at before the next datagram is sent; hellos and probes are always among them."""
_ETH_P_ALL, _IP_UDP, _PACKET_OUTGOING = 0x0003, 17, 4
_UDP_SEGMENT = 103
BATCH_BYTES = 60_000
"""Below what one system call may send, 65,507 bytes."""


def address(text: str) -> tuple[str, int]:
    """Return host and port of `ADDR:PORT`."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def payload(frame: bytes) -> bytes | None:
    """Return what a UDP packet over IPv4 carries, from its Ethernet frame; None for others."""
    ip = frame[14:]
    if frame[12:14] != b"\x08\x00" or len(ip) < 28 or ip[9] != _IP_UDP:
        return None
    header = (ip[0] & 15) * 4
    length = int.from_bytes(ip[header + 4 : header + 6])
    return ip[header + 8 : header + length]


def captured(to: tuple[str, int], through: tuple[str, int], size: int) -> bytes:
    """Return a packet of `size` bytes that goes to the transit and carries one datagram. L4ProxyError when none comes."""
    deadline = time.monotonic() + CAPTURE_S
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as tap,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        tap.settimeout(0.05)
        client.connect(through)
        while time.monotonic() < deadline:
            client.send(bytes(size - HEADERS))
            with contextlib.suppress(TimeoutError):
                for _ in range(PATIENCE_FRAMES):
                    frame, (_, _, kind, *_) = tap.recvfrom(65_536)
                    found = payload(frame)
                    is_there = kind == _PACKET_OUTGOING and frame[30:34] == socket.inet_aton(to[0])
                    if (
                        found
                        and is_there
                        and len(found) == size
                        and (found[0], found[20]) == (OUTER, CHANNEL)
                    ):
                        return found
    raise L4ProxyError(f"no packet of {size} bytes with one datagram went to {to[0]}")


def send(
    packet: bytes, overlay: tuple[str, int], to: tuple[str, int], batch: int, rate: float, seconds: float
) -> int:
    """Send a packet for so many seconds, `batch` a call; return how many went. `rate` 0: as fast as it goes."""
    sent, began = 0, time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        # The engine's own socket has the port too; the kernel's steering never gives this one a packet.
        out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        out.bind(overlay)
        out.connect(to)
        out.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, len(packet))
        together = packet * batch
        while (now := time.monotonic() - began) < seconds:
            if rate and (early := (sent + batch) / rate - now) > 0:
                time.sleep(early)
            out.send(together)
            sent += batch
    return sent


def main() -> None:
    """Parse options, capture, send, print."""
    parser = argparse.ArgumentParser(prog="l4proxy.bench.overlay.replay")
    parser.add_argument("--overlay", type=address, required=True, help="the first PoP's overlay address")
    parser.add_argument("--to", type=address, required=True, help="the transit's")
    parser.add_argument("--through", type=address, required=True, help="the first PoP's UDP listener")
    parser.add_argument("--size", type=int, required=True, help="bytes of the packet")
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--rate", type=float, default=0.0, help="packets a second; 0: as fast as it goes")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--pid", type=int, required=True, help="the transit's engine")
    given = parser.parse_args()
    packet = captured(given.to, given.through, given.size)
    batch = max(1, min(given.batch, BATCH_BYTES // len(packet)))
    arguments = (packet, given.overlay, given.to, batch, given.rate)
    warm = send(*arguments, WARM_UP_S)
    with Meter([given.pid]) as meter:
        sent = send(*arguments, given.seconds)
    sys.stdout.write(
        json.dumps({"sent": sent, "sent_in_all": warm + sent, "cpu_ns": meter.cpu_ns, "batch": batch}) + "\n"
    )


if __name__ == "__main__":
    main()
