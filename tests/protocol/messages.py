"""What stands inside: frames of the datagram channel and messages of streams (sections 4 and 5 of docs/protocol.md)."""

import ipaddress
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


class MalformedError(Exception):
    """Bytes that are none of what the page describes."""


class Reader:
    """Takes bytes from the front."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if len(self.rest) < count:
            raise MalformedError(f"{count} bytes wanted, {len(self.rest)} left")
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def number(self, size: int) -> int:
        """Return the next big-endian number."""
        return int.from_bytes(self.take(size), "big")

    def sized(self, size: int) -> bytes:
        """Return bytes whose length stands before them."""
        return self.take(self.number(size))


Address = tuple[str, int]


def read_address(reader: Reader) -> Address:
    """Read family · IP · port."""
    length = {4: 4, 6: 16}.get(reader.number(1))
    if length is None:
        raise MalformedError("family")
    return str(ipaddress.ip_address(reader.take(length))), reader.number(2)


def write_address(address: Address) -> bytes:
    """Write family · IP · port."""
    ip = ipaddress.ip_address(address[0])
    return bytes([ip.version]) + ip.packed + struct.pack("!H", address[1])


@dataclass(frozen=True)
class Open:
    """The body of OPEN."""

    protocol: int
    flow: int
    app: str
    origin: str
    client: Address
    listener: Address
    deadline_ms: int

    def encode(self) -> bytes:
        """Write the body."""
        out = bytes([1, self.protocol, 0]) + struct.pack("!Q", self.flow)
        for text in (self.app, self.origin):
            out += bytes([len(text.encode())]) + text.encode()
        out += write_address(self.client) + write_address(self.listener)
        return out + struct.pack("!I", self.deadline_ms)


def read_open(body: bytes) -> Open:
    """Read the body of OPEN, all of it."""
    reader = Reader(body)
    version, protocol, flags = reader.take(3)
    if (version, flags) != (1, 0) or protocol not in (6, 17):
        raise MalformedError("open")
    flow = reader.number(8)
    app, origin = (reader.sized(1).decode() for _ in range(2))
    found = Open(protocol, flow, app, origin, read_address(reader), read_address(reader), reader.number(4))
    if reader.rest:
        raise MalformedError("something follows")
    return found


@dataclass(frozen=True)
class Frame:
    """One frame of the datagram channel: its type without the mark, its fields, its datagram if it has one."""

    kind: int
    fields: Mapping[str, object] = field(default_factory=dict)
    datagram: bytes | None = None
    tos: int = 0


def read_frames(plaintext: bytes) -> Iterator[Frame]:
    """Yield the frames of one packet; MalformedError ends it, those before stand."""
    reader = Reader(plaintext)
    while reader.rest:
        kind = reader.number(1)
        tos = 0
        if kind in (0x11, 0x12, 0x13):
            kind, tos = kind & 0x0F, reader.number(1)
            if tos == 0:
                raise MalformedError("a mark of 0")
        yield _read_frame(kind, tos, reader)


def _read_frame(kind: int, tos: int, reader: Reader) -> Frame:
    match kind:
        case 1:
            session = reader.number(4)
            return Frame(1, {"session": session}, reader.sized(2), tos)
        case 2:
            opened = read_open(reader.sized(2))
            return Frame(2, {"open": opened}, reader.sized(2), tos)
        case 3:
            found = {"flow": reader.number(8), "session": reader.number(4)}
            flags = reader.number(1)
            if flags > 1 or (tos and not flags):
                raise MalformedError("flags")
            return Frame(3, found, reader.sized(2) if flags else None, tos)
        case 4:
            return Frame(4, {"session": reader.number(4)})
        case 5:
            return Frame(5, {"session": reader.number(4), "reason": reader.number(1)})
        case 6:
            return Frame(6, {"flow": reader.number(8), "reason": reader.number(1)})
        case 7:
            found = {"id": reader.number(4), "index": reader.number(1), "count": reader.number(1)}
            if not 2 <= found["count"] <= 64 or found["index"] >= found["count"]:
                raise MalformedError("fragment")
            return Frame(7, {**found, "bytes": reader.sized(2)})
        case 8:
            ecn = reader.number(1)
            if ecn > 3:
                raise MalformedError("ECN bits")
            return Frame(8, {"ecn": ecn, "packet": reader.sized(2)})
        case 9:
            count = reader.number(1)
            if not 1 <= count <= 64:
                raise MalformedError("repair")
            names = [reader.number(2) for _ in range(count)]
            return Frame(9, {"packets": names, "lengths": reader.number(2), "bytes": reader.sized(2)})
    raise MalformedError(f"frame type {kind}")


def write_frame(frame: Frame) -> bytes:
    """Write one frame."""
    head = bytes([0x10 | frame.kind, frame.tos]) if frame.tos else bytes([frame.kind])
    datagram = b"" if frame.datagram is None else struct.pack("!H", len(frame.datagram)) + frame.datagram
    values = frame.fields
    match frame.kind:
        case 1:
            body = _number(values["session"], 4)
        case 2:
            opened = values["open"]
            assert isinstance(opened, Open)
            body = struct.pack("!H", len(opened.encode())) + opened.encode()
        case 3:
            body = _number(values["flow"], 8) + _number(values["session"], 4)
            body += bytes([frame.datagram is not None])
        case 4:
            body = _number(values["session"], 4)
        case 5:
            body = _number(values["session"], 4) + _number(values["reason"], 1)
        case 6:
            body = _number(values["flow"], 8) + _number(values["reason"], 1)
        case 8:
            packet = values["packet"]
            assert isinstance(packet, bytes)
            body = _number(values["ecn"], 1) + struct.pack("!H", len(packet)) + packet
        case 9:
            names, mixed = values["packets"], values["bytes"]
            assert isinstance(names, list)
            assert isinstance(mixed, bytes)
            body = bytes([len(names)]) + b"".join(_number(name, 2) for name in names)
            body += _number(values["lengths"], 2) + struct.pack("!H", len(mixed)) + mixed
        case _:
            piece = values["bytes"]
            assert isinstance(piece, bytes)
            body = _number(values["id"], 4) + _number(values["index"], 1) + _number(values["count"], 1)
            body += struct.pack("!H", len(piece)) + piece
    return head + body + datagram


def _number(value: object, size: int) -> bytes:
    assert isinstance(value, int)
    return value.to_bytes(size, "big")


class Reassembly:
    """Fragments → the frame that they are pieces of."""

    def __init__(self) -> None:
        self.waiting: dict[int, dict[int, bytes]] = {}

    def add(self, fragment: Frame) -> bytes | None:
        """Take a fragment; return the frame when it was the last that was missing."""
        number, index, count = (fragment.fields[name] for name in ("id", "index", "count"))
        piece = fragment.fields["bytes"]
        assert isinstance(number, int)
        assert isinstance(index, int)
        assert isinstance(piece, bytes)
        pieces = self.waiting.setdefault(number, {})
        pieces[index] = piece
        if len(pieces) != count:
            return None
        del self.waiting[number]
        return b"".join(pieces[place] for place in range(len(pieces)))


def read_stream_message(data: bytes) -> tuple[int, bytes]:
    """Read `type · length · body`: four bytes of length for HELLO, BUS and CREDIT, two for the others."""
    reader = Reader(data)
    kind = reader.number(1)
    body = reader.sized(4 if kind in (0x10, 0x11, 0x12) else 2)
    if reader.rest:
        raise MalformedError("something follows")
    return kind, body


def write_stream_message(kind: int, body: bytes) -> bytes:
    """Write `type · length · body`."""
    return bytes([kind]) + len(body).to_bytes(4 if kind in (0x10, 0x11, 0x12) else 2, "big") + body
