"""Every vector of docs/protocol.md, read by this implementation and written again; and what the page says must be dropped."""

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.protocol import messages, packets
from tests.protocol.messages import Frame, MalformedError, Open, Reader
from tests.protocol.packets import ChannelReceiver, DroppedError, Hello, LinkDown, Outer, Probe, Report
from tests.protocol.siphash import siphash24

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()

VECTORS = {
    name: bytes.fromhex(digits)
    for name, digits in re.findall(
        r"^(\w+): ([0-9a-f]+)$", PAGE.split("```vectors")[1].split("```")[0], re.MULTILINE
    )
}

CLIENT, LISTENER = ("192.0.2.7", 50_000), ("2001:db8::1", 25_565)
OPEN = Open(6, 0x0123456789ABCDEF, "minecraft", "origin.example.net", CLIENT, LISTENER, 5_000)
PING = b"ping"
SESSION, FLOW, CHANNEL = 0x102, OPEN.flow, 0x0A0B0C0D

FRAMES = {
    "frame_data": Frame(1, {"session": SESSION}, PING),
    "frame_data_marked": Frame(1, {"session": SESSION}, PING, 0xB9),
    "frame_open_data": Frame(2, {"open": replace(OPEN, protocol=17)}, PING),
    "frame_open_data_marked": Frame(2, {"open": replace(OPEN, protocol=17)}, PING, 0xB9),
    "frame_bound": Frame(3, {"flow": FLOW, "session": SESSION}),
    "frame_bound_datagram": Frame(3, {"flow": FLOW, "session": SESSION}, PING),
    "frame_bound_datagram_marked": Frame(3, {"flow": FLOW, "session": SESSION}, PING, 0xB9),
    "frame_session_unknown": Frame(4, {"session": SESSION}),
    "frame_close": Frame(5, {"session": SESSION, "reason": 11}),
    "frame_refused": Frame(6, {"flow": FLOW, "reason": 7}),
    "frame_fragment": Frame(7, {"id": 6, "index": 1, "count": 3, "bytes": PING}),
    "frame_quic": Frame(8, {"ecn": 2, "packet": PING}),
    "frame_repair": Frame(9, {"packets": [0x0102, 0xFEFF], "lengths": 5, "bytes": PING}),
}

STREAM_MESSAGES = {
    "stream_hello": (0x10, bytes([1, 1]) + struct.pack("!IBI", 9, 2, CHANNEL) + b"\x06game,5"),
    "stream_bus": (0x11, b"record"),
    "stream_credit": (0x12, struct.pack("!QQQ", SESSION, 0x0002_625A_0000, 0x0100_0000)),
    "stream_open": (0x20, OPEN.encode()),
    "stream_open_ok": (0x21, b""),
    "stream_open_fail": (0x22, b"\x03"),
    "stream_stripe": (0x23, struct.pack("!Q", SESSION)),
}

PROBE_KEY = bytes(range(0xF0, 0x100))
CHANNEL_KEY, CHANNEL_IV = bytes(range(0xA0, 0xB0)), bytes(range(0xB0, 0xBC))


def hop_key(hop: int) -> bytes:
    """Return the hop key of the vector `outer_hop_N`."""
    return bytes(range(hop << 4, (hop << 4) + 16))


def hello(count: int, padding: int = 0) -> Hello:
    """Return what the hellos of the page say."""
    heard = [0xFFFFFFFF << n & 0xFFFFFFFF | 1 for n in range(count)]
    reports = tuple(Report(0xC0DE0000 + n, 1000 + n, heard[n], 12_345 + n) for n in range(count))
    return Hello(5, 0xAABBCCDD, 0x01020304, 77, 1_234_567_890, reports, padding)


def test_every_vector_has_its_place_here() -> None:
    others = {f"outer_hop_{n}" for n in range(4)} | {f"address_v{n}" for n in (4, 6)}
    others |= {"hello_no_reports", "hello_four_reports", "hello_padded_to_80"}
    others |= {"probe_request", "probe_reply", "link_down", "channel_header", "sealed_packet", "stripe_chunk"}
    assert VECTORS.keys() == others | FRAMES.keys() | STREAM_MESSAGES.keys()


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, "310e0edd47db6f72"), (1, "fd67dc93c539f874"), (2, "5a4fa9d909806c0d"), (15, "e545be4961ca29a1")],
)
def test_siphash_is_that_of_the_paper(length: int, expected: str) -> None:
    """Its reference vectors are written little-endian."""
    assert siphash24(bytes(range(16)), bytes(range(length))).to_bytes(8, "little").hex() == expected


@pytest.mark.parametrize(("name", "address"), [("address_v4", CLIENT), ("address_v6", LISTENER)])
def test_addresses(name: str, address: tuple[str, int]) -> None:
    assert messages.read_address(Reader(VECTORS[name])) == address
    assert messages.write_address(address) == VECTORS[name]


@pytest.mark.parametrize("name", FRAMES)
def test_frames(name: str) -> None:
    assert list(messages.read_frames(VECTORS[name])) == [FRAMES[name]]
    assert messages.write_frame(FRAMES[name]) == VECTORS[name]


@pytest.mark.parametrize("name", STREAM_MESSAGES)
def test_stream_messages(name: str) -> None:
    assert messages.read_stream_message(VECTORS[name]) == STREAM_MESSAGES[name]
    assert messages.write_stream_message(*STREAM_MESSAGES[name]) == VECTORS[name]
    if name == "stream_open":
        assert messages.read_open(STREAM_MESSAGES[name][1]) == OPEN


def test_a_chunk_of_a_stripe() -> None:
    chunk = (0x0002_625A_0000, 16_384)
    assert struct.unpack("!QI", VECTORS["stripe_chunk"]) == chunk
    assert struct.pack("!QI", *chunk) == VECTORS["stripe_chunk"]


def test_an_outer_header_from_hop_to_hop() -> None:
    """Each transit checks under one key, moves the pointer on, and writes epoch and tag under the next."""
    labels = (0x11111111, 0x22222222, 0x33333333)
    outer = Outer(0, 1, 5, 0xAABBCCDD, labels, PING)
    for hop in range(4):
        packet = VECTORS[f"outer_hop_{hop}"]
        assert outer.encode(hop_key(hop)) == packet
        assert packets.read_outer(packet, hop_key(hop)) == outer
        outer = outer.next_hop(6 + hop)


@pytest.mark.parametrize(
    ("name", "count", "padding"),
    [("hello_no_reports", 0, 0), ("hello_four_reports", 4, 0), ("hello_padded_to_80", 1, 80 - 24 - 16 - 8)],
)
def test_hellos(name: str, count: int, padding: int) -> None:
    assert packets.read_hello(VECTORS[name], PROBE_KEY) == hello(count, padding)
    assert hello(count, padding).encode(PROBE_KEY) == VECTORS[name]


@pytest.mark.parametrize("is_reply", [False, True])
def test_probes(is_reply: bool) -> None:
    sent_ns = 1_700_000_000_123_456_789
    answer = (41, sent_ns, 1_700_000_000_133_456_789, 25_000) if is_reply else (0, sent_ns, 0, 0)
    probe = Probe(is_reply, 5, 0xDEADBEEF, 42, *answer)
    packet = VECTORS["probe_reply" if is_reply else "probe_request"]
    assert packets.read_probe(packet, PROBE_KEY) == probe
    assert probe.encode(PROBE_KEY) == packet


def test_a_link_down() -> None:
    link_down = LinkDown(5, 0xAABBCCDD, 0x0001020304050607, (0x11111111, 0x22222222))
    assert packets.read_link_down(VECTORS["link_down"], PROBE_KEY) == link_down
    assert link_down.encode(PROBE_KEY) == VECTORS["link_down"]


def test_a_packet_of_the_channel() -> None:
    """Two frames in one packet; the Rust side opens and seals the same bytes."""
    frames = VECTORS["frame_data"] + VECTORS["frame_bound_datagram_marked"]
    sealed = packets.seal(CHANNEL_KEY, CHANNEL_IV, 3, CHANNEL, 0x010203040506, frames)
    assert sealed == VECTORS["sealed_packet"]
    assert sealed[:16] == VECTORS["channel_header"]
    opened = ChannelReceiver(CHANNEL, CHANNEL_KEY, CHANNEL_IV).open(sealed)
    expected = [FRAMES["frame_data"], FRAMES["frame_bound_datagram_marked"]]
    assert list(messages.read_frames(opened)) == expected


def test_a_channel_takes_each_counter_once_in_any_order_within_its_window() -> None:
    def packet(counter: int) -> bytes:
        return packets.seal(CHANNEL_KEY, CHANNEL_IV, 3, CHANNEL, counter, VECTORS["frame_data"])

    receiver = ChannelReceiver(CHANNEL, CHANNEL_KEY, CHANNEL_IV)
    for counter in (5, 3, 70_000, 69_000, 70_000 - 65_535):
        assert receiver.open(packet(counter)) == VECTORS["frame_data"]
        with pytest.raises(DroppedError, match="channel_replayed"):
            receiver.open(packet(counter))
    with pytest.raises(DroppedError, match="channel_old"):
        receiver.open(packet(70_000 - 65_536))
    forged = bytearray(packet(70_001))
    forged[20] ^= 1
    with pytest.raises(DroppedError, match="channel_auth"):
        receiver.open(bytes(forged))
    assert receiver.open(packet(70_001)), "a forged packet does not move the window"


def test_a_frame_in_pieces_is_whole_when_all_have_come() -> None:
    frame = messages.write_frame(Frame(1, {"session": SESSION}, bytes(3_000)))
    pieces = [frame[start : start + 1_000] for start in range(0, len(frame), 1_000)]
    fragments = [
        Frame(7, {"id": 9, "index": index, "count": len(pieces), "bytes": piece})
        for index, piece in enumerate(pieces)
    ]
    reassembly = messages.Reassembly()
    done = [reassembly.add(fragment) for fragment in reversed(fragments)]
    assert done[:-1] == [None] * (len(pieces) - 1)
    assert done[-1] == frame


def flipped(name: str, place: int, bits: int) -> bytes:
    """Return a vector with some bits of one byte changed."""
    packet = bytearray(VECTORS[name])
    packet[place] ^= bits
    return bytes(packet)


@pytest.mark.parametrize(
    ("read", "packet", "reason"),
    [
        ("outer", VECTORS["outer_hop_0"][:28], "outer_truncated"),
        ("outer", flipped("outer_hop_0", 1, 0x30), "outer_version"),
        ("outer", flipped("outer_hop_0", 1, 0x04), "outer_labels"),
        ("outer", flipped("outer_hop_0", 3, 0x03), "outer_labels"),
        ("outer", flipped("outer_hop_0", 2, 0x01), "outer_tag"),
        ("outer", flipped("outer_hop_0", 27, 0x01), "outer_tag"),
        ("hello", VECTORS["hello_no_reports"][:-1], "hello_truncated"),
        ("hello", flipped("hello_no_reports", 2, 1), "hello_version"),
        ("hello", flipped("hello_no_reports", 3, 8), "hello_truncated"),
        ("hello", flipped("hello_four_reports", 3, 1), "hello_version"),
        ("hello", flipped("hello_four_reports", 35, 1), "hello_version"),
        ("hello", flipped("hello_padded_to_80", 60, 1), "hello_tag"),
        ("probe", VECTORS["probe_reply"] + b"x", "probe_truncated"),
        ("probe", flipped("probe_request", 1, 2), "probe_kind"),
        ("probe", flipped("probe_request", 12, 1), "probe_kind"),
        ("probe", flipped("probe_reply", 20, 1), "probe_tag"),
        ("link_down", VECTORS["link_down"][:-1], "link_down_truncated"),
        ("link_down", VECTORS["link_down"][:15], "link_down_truncated"),
        ("link_down", flipped("link_down", 2, 1), "link_down_version"),
        ("link_down", flipped("link_down", 3, 2), "link_down_version"),
        ("link_down", flipped("link_down", 15, 1), "link_down_tag"),
    ],
)
def test_what_must_be_dropped_and_why(read: str, packet: bytes, reason: str) -> None:
    readers: dict[str, Callable[[bytes], object]] = {
        "outer": lambda data: packets.read_outer(data, hop_key(0)),
        "hello": lambda data: packets.read_hello(data, PROBE_KEY),
        "probe": lambda data: packets.read_probe(data, PROBE_KEY),
        "link_down": lambda data: packets.read_link_down(data, PROBE_KEY),
    }
    with pytest.raises(DroppedError, match=f"^{reason}$"):
        readers[read](packet)


def test_no_frame_can_be_cut_short() -> None:
    for name in FRAMES:
        for length in range(1, len(VECTORS[name])):
            with pytest.raises(MalformedError):
                list(messages.read_frames(VECTORS[name][:length]))
