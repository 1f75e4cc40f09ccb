"""Packets that stand in UDP payloads: outer header, channel, hello, probe, LINK_DOWN (sections 2, 5 to 7a of docs/protocol.md)."""

import struct
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.protocol.siphash import siphash24

VERSION = 1


class DroppedError(Exception):
    """A packet that must be dropped; says under which reason it is counted."""


def tag(key: bytes, *covered: bytes) -> bytes:
    """Return the tag of sections 2, 6, 7 and 7a as it stands in packets: big-endian."""
    return siphash24(key, b"".join(covered)).to_bytes(8, "big")


@dataclass(frozen=True)
class Outer:
    """An outer header; `inner` is what it stands before."""

    pointer: int
    worker: int
    epoch: int
    source: int
    labels: tuple[int, ...]
    inner: bytes

    def encode(self, key: bytes) -> bytes:
        """Write the packet for the hop whose key this is."""
        head = bytes([8, VERSION << 4 | self.pointer, self.worker, self.epoch << 4 | len(self.labels)])
        head += struct.pack("!I", self.source)
        labels = b"".join(struct.pack("!I", label) for label in self.labels)
        return head + tag(key, head, labels) + labels + self.inner

    def next_hop(self, epoch: int) -> "Outer":
        """Return what a transit PoP sends on."""
        return replace(self, pointer=self.pointer + 1, epoch=epoch)


def read_outer(packet: bytes, key: bytes) -> Outer:
    """Check and read a packet of type 0x08 that came from the hop whose key this is."""
    if len(packet) < 16:
        raise DroppedError("outer_truncated")
    if packet[1] >> 4 != VERSION:
        raise DroppedError("outer_version")
    pointer, count = packet[1] & 15, packet[3] & 15
    if not 1 <= count <= 3 or pointer > count:
        raise DroppedError("outer_labels")
    end = 16 + 4 * count
    if len(packet) <= end:
        raise DroppedError("outer_truncated")
    if tag(key, packet[:8], packet[16:end]) != packet[8:16]:
        raise DroppedError("outer_tag")
    labels = struct.unpack(f"!{count}I", packet[16:end])
    source = int.from_bytes(packet[4:8], "big")
    return Outer(pointer, packet[2], packet[3] >> 4, source, labels, packet[end:])


@dataclass
class ReplayWindow:
    """The newest 65,536 counters."""

    newest: int = -1
    seen: set[int] = field(default_factory=set)

    def check(self, counter: int) -> None:
        """Refuse what came before, or is too old to tell."""
        if counter <= self.newest - 65_536:
            raise DroppedError("channel_old")
        if counter in self.seen:
            raise DroppedError("channel_replayed")

    def mark(self, counter: int) -> None:
        """Remember a packet that was opened."""
        self.newest = max(self.newest, counter)
        self.seen.add(counter)
        self.seen = {one for one in self.seen if one > self.newest - 65_536}


@dataclass
class ChannelReceiver:
    """One direction of a datagram channel, as its receiver keeps it."""

    channel: int
    key: bytes
    iv: bytes
    window: ReplayWindow = field(default_factory=ReplayWindow)

    def open(self, packet: bytes) -> bytes:
        """Return the frames of a packet of type 0x09."""
        if len(packet) < 16 + 16:
            raise DroppedError("channel_truncated")
        if packet[1] != VERSION or packet[3] != 0:
            raise DroppedError("channel_version")
        if int.from_bytes(packet[4:8], "big") != self.channel:
            raise DroppedError("channel_unknown")
        counter = int.from_bytes(packet[8:16], "big")
        self.window.check(counter)
        try:
            frames = AESGCM(self.key).decrypt(nonce(self.iv, counter), packet[16:], packet[:16])
        except InvalidTag:
            raise DroppedError("channel_auth") from None
        self.window.mark(counter)
        return frames


def nonce(iv: bytes, counter: int) -> bytes:
    """Return IV XOR (0⁴ · counter)."""
    return (int.from_bytes(iv, "big") ^ counter).to_bytes(12, "big")


def channel_header(worker: int, channel: int, counter: int) -> bytes:
    """Return bytes 0 to 15 of a packet of type 0x09."""
    return bytes([9, VERSION, worker, 0]) + struct.pack("!IQ", channel, counter)


def seal(key: bytes, iv: bytes, worker: int, channel: int, counter: int, frames: bytes) -> bytes:
    """Write a packet of type 0x09."""
    header = channel_header(worker, channel, counter)
    return header + AESGCM(key).encrypt(nonce(iv, counter), frames, header)


@dataclass(frozen=True)
class Report:
    """What the sender of a hello has heard of one path of the receiver."""

    path: int
    newest: int
    heard: int
    age_us: int


@dataclass(frozen=True)
class Hello:
    """A packet of type 0x0a."""

    epoch: int
    source: int
    path: int
    sequence: int
    sent_us: int
    reports: tuple[Report, ...]
    padding: int = 0
    """How many zeros stand before the tag."""

    def encode(self, key: bytes) -> bytes:
        """Write the packet."""
        count = len(self.reports) | (8 if self.padding else 0)
        body = bytes([10, VERSION, 0, self.epoch << 4 | count])
        body += struct.pack("!IIIQ", self.source, self.path, self.sequence, self.sent_us)
        for report in self.reports:
            body += struct.pack("!IIII", report.path, report.newest, report.heard, report.age_us)
        body += bytes(self.padding)
        return body + tag(key, body)


def read_hello(packet: bytes, key: bytes) -> Hello:
    """Check and read a packet of type 0x0a."""
    if len(packet) < 24:
        raise DroppedError("hello_truncated")
    is_padded, count = bool(packet[3] & 8), packet[3] & 7
    if packet[1] != VERSION or packet[2] != 0 or count > 4:
        raise DroppedError("hello_version")
    padding = len(packet) - (24 + 16 * count + 8)
    if padding < 0 or is_padded != (padding > 0):
        raise DroppedError("hello_truncated")
    reports = tuple(Report(*struct.unpack_from("!IIII", packet, 24 + 16 * n)) for n in range(count))
    if not all(report.heard & 1 for report in reports):
        raise DroppedError("hello_version")
    if tag(key, packet[:-8]) != packet[-8:]:
        raise DroppedError("hello_tag")
    source, path, sequence, sent_us = struct.unpack_from("!IIIQ", packet, 4)
    return Hello(packet[3] >> 4, source, path, sequence, sent_us, reports, padding)


@dataclass(frozen=True)
class Probe:
    """A packet of type 0x0b; a request has zeros in the last three."""

    is_reply: bool
    epoch: int
    link: int
    sequence: int
    received_count: int
    sent_ns: int
    received_ns: int
    residence_ns: int

    def encode(self, key: bytes) -> bytes:
        """Write the packet."""
        body = bytes([11, 2 if self.is_reply else 1, 0, self.epoch << 4])
        body += struct.pack("!III", self.link, self.sequence, self.received_count)
        body += struct.pack("!QQQ", self.sent_ns, self.received_ns, self.residence_ns)
        return body + tag(key, body)


def read_probe(packet: bytes, key: bytes) -> Probe:
    """Check and read a packet of type 0x0b."""
    if len(packet) != 48:
        raise DroppedError("probe_truncated")
    link, sequence, received_count = struct.unpack_from("!III", packet, 4)
    sent_ns, received_ns, residence_ns = struct.unpack_from("!QQQ", packet, 16)
    kind = packet[1]
    only_replies = (received_count, received_ns, residence_ns)
    if kind not in (1, 2) or packet[2] != 0 or packet[3] & 15 or (kind == 1 and any(only_replies)):
        raise DroppedError("probe_kind")
    if tag(key, packet[:-8]) != packet[-8:]:
        raise DroppedError("probe_tag")
    return Probe(
        kind == 2, packet[3] >> 4, link, sequence, received_count, sent_ns, received_ns, residence_ns
    )


@dataclass(frozen=True)
class LinkDown:
    """A packet of type 0x0c."""

    epoch: int
    source: int
    number: int
    labels: tuple[int, ...]

    def encode(self, key: bytes) -> bytes:
        """Write the packet."""
        body = bytes([12, VERSION, 0, self.epoch << 4 | len(self.labels)])
        body += struct.pack("!IQ", self.source, self.number)
        body += b"".join(struct.pack("!I", label) for label in self.labels)
        return body + tag(key, body)


def read_link_down(packet: bytes, key: bytes) -> LinkDown:
    """Check and read a packet of type 0x0c."""
    if len(packet) < 16:
        raise DroppedError("link_down_truncated")
    count = packet[3] & 15
    if packet[1] != VERSION or packet[2] != 0 or not 1 <= count <= 3:
        raise DroppedError("link_down_version")
    if len(packet) != 16 + 4 * count + 8:
        raise DroppedError("link_down_truncated")
    if tag(key, packet[:-8]) != packet[-8:]:
        raise DroppedError("link_down_tag")
    source, number = struct.unpack_from("!IQ", packet, 4)
    return LinkDown(packet[3] >> 4, source, number, struct.unpack_from(f"!{count}I", packet, 16))
