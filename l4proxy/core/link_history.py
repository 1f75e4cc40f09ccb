"""What a PoP knew of all links of its fleet, moment by moment, as bytes: compact, appended to, read back up to where they are torn. Pure.

A segment is a magic line and chunks: length and CRC-32 (big-endian u32 each), then that many bytes. The first chunk is the header
(msgpack), every other one a moment: seconds since 1970 (u64), then, deflated, how each number differs from the moment before
(little-endian i32: all RTTs, all jitters, all losses, in the order of the header's links).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from l4proxy.core.bus import UNITS_OF_LOSS, UNITS_PER_MS
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.routing.links import FloatArray, IntArray, LinkTable
from l4proxy.errors import L4ProxyError

MAGIC = b"l4proxy links 1\n"
NOT_MEASURED = -1
DOWN = -2
"""In the place of an RTT: the link was measured once, and did not answer, was disabled or removed at the moment."""

MAX_LINKS = 1_000_000
MAX_CHUNK = 64 << 20
"""Bytes of one chunk: a million links with names of sixty letters. A longer one is not one of ours."""

_CHUNK = struct.Struct(">II")
_MOMENT = struct.Struct(">Q")


class HistoryError(L4ProxyError):
    """Bytes that are no segment."""


@dataclass(frozen=True, slots=True)
class Header:
    """What all moments of a segment share."""

    fleet: str
    pop: PopName
    """Whose knowledge it is."""
    interval_s: int
    locations: dict[PopName, tuple[float, float] | None]
    """All PoPs of the fleet, in the order of names; degrees."""
    links: tuple[LinkName, ...]
    """In the order of names."""
    start: tuple[int, ...]
    """Number of the PoP that each leaves, and below the one that it leads to."""
    end: tuple[int, ...]

    @property
    def pops(self) -> tuple[PopName, ...]:
        """Names of all PoPs, sorted."""
        return tuple(self.locations)


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """All links at one time. `rtt_ms`: NaN: not measured; inf: down. `loss_ratio` is the upper bound that routes are made with."""

    at_s: int
    rtt_ms: FloatArray
    jitter_ms: FloatArray
    loss_ratio: FloatArray


def header_of(
    fleet: str,
    pop: PopName,
    interval_s: int,
    locations: dict[PopName, tuple[float, float] | None],
    table: LinkTable,
) -> Header:
    """Return the header of moments of this table."""
    ordered = {name: locations.get(name) for name in table.pops}
    start, end = tuple(table.start.tolist()), tuple(table.end.tolist())
    return Header(fleet, pop, interval_s, ordered, table.names, start, end)


class Writer:
    """Makes the bytes of one segment, from its first to its last."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._last = np.zeros((3, len(header.links)), np.int32)

    def begin(self) -> bytes:
        """Return what a segment begins with."""
        header = self.header
        body = {
            "fleet": header.fleet,
            "pop": header.pop,
            "interval_s": header.interval_s,
            "pops": [[name, None if at is None else list(at)] for name, at in header.locations.items()],
            "links": list(header.links),
            "start": list(header.start),
            "end": list(header.end),
        }
        return MAGIC + _chunk(bytes(msgpack.packb(body)))

    def moment(self, at_s: int, table: LinkTable) -> bytes:
        """Return what is appended for a table of the header's links."""
        now = _numbers(table)
        difference = (now - self._last).astype("<i4")
        self._last = now
        return _chunk(_MOMENT.pack(at_s) + zlib.compress(difference.tobytes()))


def _numbers(table: LinkTable) -> IntArray:
    """All three of each link as whole numbers, [3, links]."""
    most = np.iinfo(np.int32).max
    is_known = np.isfinite(table.rtt_ms)
    rtt = np.where(is_known, np.clip(np.nan_to_num(table.rtt_ms) * UNITS_PER_MS, 1, most), NOT_MEASURED)
    rtt = np.where(is_known & ~table.usable, DOWN, rtt)
    jitter = np.clip(np.nan_to_num(table.jitter_ms) * UNITS_PER_MS, 0, most)
    loss = np.clip(np.nan_to_num(table.loss_ratio), 0, 1) * UNITS_OF_LOSS
    numbers: IntArray = np.rint(np.stack([rtt, jitter, loss])).astype(np.int32)
    return numbers


def _chunk(payload: bytes) -> bytes:
    return _CHUNK.pack(len(payload), zlib.crc32(payload)) + payload


@dataclass(slots=True)
class Segment:
    """A segment that was read: header, times, and the moments on demand. `torn` bytes at its end could not be read."""

    header: Header
    times_s: tuple[int, ...]
    torn: int
    _payloads: list[bytes]

    def moments(self) -> Iterator[Moment]:
        """Return the moments in order. HistoryError: one does not hold what the header says."""
        numbers: NDArray[np.int32] = np.zeros((3, len(self.header.links)), np.int32)
        for at_s, payload in zip(self.times_s, self._payloads, strict=True):
            numbers = numbers + _difference(payload, numbers.shape[1])
            rtt_ms = np.where(numbers[0] > 0, numbers[0] / UNITS_PER_MS, np.nan)
            rtt_ms[numbers[0] == DOWN] = np.inf
            yield Moment(at_s, rtt_ms, numbers[1] / UNITS_PER_MS, numbers[2] / UNITS_OF_LOSS)


def read(data: bytes) -> Segment:
    """Read a segment up to where it is torn: a crash or a full disk ends it in the middle of a chunk. HistoryError: it is none."""
    if not data.startswith(MAGIC):
        raise HistoryError("it does not begin as a recorded history does")
    chunks, torn = _chunks(data)
    if not chunks:
        raise HistoryError("its header is torn")
    header = _header(chunks[0])
    payloads = [chunk for chunk in chunks[1:] if len(chunk) > _MOMENT.size]
    times = tuple(_MOMENT.unpack_from(payload)[0] for payload in payloads)
    return Segment(header, times, torn, payloads)


def _chunks(data: bytes) -> tuple[list[bytes], int]:
    """All whole chunks, and how many bytes behind them are none."""
    found, at = [], len(MAGIC)
    while at + _CHUNK.size <= len(data):
        length, crc = _CHUNK.unpack_from(data, at)
        payload = data[at + _CHUNK.size : at + _CHUNK.size + length]
        if length > MAX_CHUNK or len(payload) < length or zlib.crc32(payload) != crc:
            break
        found.append(payload)
        at += _CHUNK.size + length
    return found, len(data) - at


def _header(payload: bytes) -> Header:
    try:
        body: dict[str, Any] = msgpack.unpackb(payload)
        header = Header(
            str(body["fleet"]),
            PopName(str(body["pop"])),
            int(body["interval_s"]),
            {PopName(str(n)): None if at is None else (float(at[0]), float(at[1])) for n, at in body["pops"]},
            tuple(LinkName(str(name)) for name in body["links"]),
            tuple(int(number) for number in body["start"]),
            tuple(int(number) for number in body["end"]),
        )
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise HistoryError(f"its header cannot be read: {error}") from error
    ends, links = {*header.start, *header.end}, len(header.links)
    fits = len(header.start) == len(header.end) == links <= MAX_LINKS
    if not fits or any(not 0 <= number < len(header.locations) for number in ends) or header.interval_s < 1:
        raise HistoryError("its header contradicts itself")
    return header


def _difference(payload: bytes, links: int) -> NDArray[np.int32]:
    size = 3 * 4 * links
    inflate = zlib.decompressobj()
    try:
        body = inflate.decompress(payload[_MOMENT.size :], size + 1)
    except zlib.error as error:
        raise HistoryError(f"a moment cannot be inflated: {error}") from error
    if len(body) != size:
        raise HistoryError(f"a moment has {len(body)} bytes, its header's links need {size}")
    return np.frombuffer(body, "<i4").astype(np.int32).reshape(3, links)
