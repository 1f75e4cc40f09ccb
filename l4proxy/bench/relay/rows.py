"""What is measured: loads, and the rows of the table with their bars, as data. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l4proxy.bench.bars import OURS, Bar

SPLICE, COPY, UDP = "floor-splice", "floor-copy", "floor-udp"
"""The least that a relay can do (rust_ext/crates/bench, floors)."""
ROUTED = "routed"
"""No relay: the kernel forwards the packets."""

PEERS = ("haproxy-splice", "haproxy", "nginx", "sozu", "realm", "quilkin")
TCP_PEERS = ("haproxy-splice", "haproxy", "nginx", "sozu", "realm")
TLS_PEERS = ("haproxy", "nginx")
UDP_PEERS = ("nginx", "sozu", "realm", "quilkin")

PING_PONG_BYTES, UDP_BYTES, UDP_FLOWS = 128, 160, 16
IN_FLIGHT = 32
"""Connections open at once: enough that a relay finds several ready, as under real load."""
WINDOW = 8
"""Datagrams of a flow on their way in a flood: 128 in all fit the kernel's default buffer of every relay, so nothing is lost."""
IDLE_FLOWS = 4_000
"""Two descriptors each in the relay and at HAProxy a pipe's two: within 20,000. Fewer would drown in the noise of slab memory."""
IDLE_SESSIONS = 2_000
SETTLE_S = 1.0
"""Before memory is read."""


@dataclass(frozen=True, slots=True)
class Load:
    """One thing to measure an arm with."""

    key: str
    kind: str
    """Which function of `load` does it."""
    options: Mapping[str, Any]
    arms: Sequence[str]
    fresh: bool = False
    """Start every relay anew for each measurement: it grows with what it has carried before."""
    seconds: float | None = None
    """Instead of those of the run."""
    protocol: str = "tcp"
    """What the relay is asked over whether it is there."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: one figure of one load."""

    key: str
    title: str
    unit: str
    load: str
    figure: str
    bars: Sequence[Bar] = field(default=())
    added: bool = False
    """What the arm adds to the routed way."""
    digits: int = 1


def _tcp(*extra: str) -> tuple[str, ...]:
    return (OURS, *TCP_PEERS, *extra)


def _udp(*extra: str) -> tuple[str, ...]:
    return (OURS, *UDP_PEERS, *extra)


def _bulk(flows: int, reverse: bool) -> Load:
    key = f"bulk-{flows}-{'down' if reverse else 'up'}"
    return Load(key, "bulk", {"flows": flows, "reverse": reverse}, _tcp(SPLICE, ROUTED))


def _rate(key: str, flows: int, rate: int, fresh: bool = False) -> Load:
    return Load(key, "udp_rate", {"flows": flows, "rate": rate}, _udp(UDP, ROUTED), fresh, protocol="udp")


_BULK = tuple(_bulk(flows, reverse) for flows in (1, 8) for reverse in (False, True))

LOADS = {
    load.key: load
    for load in (
        *_BULK,
        Load(
            "ping-tcp",
            "ping_pong",
            {"protocol": "tcp", "size": PING_PONG_BYTES},
            _tcp(COPY, ROUTED),
        ),
        Load("connect", "connect", {"in_flight": IN_FLIGHT}, _tcp(COPY, ROUTED)),
        _rate("udp-20k", UDP_FLOWS, 20_000),
        _rate("udp-50k", UDP_FLOWS, 50_000),
        Load(
            "udp-max", "udp_flood", {"flows": UDP_FLOWS, "window": WINDOW}, _udp(UDP, ROUTED), protocol="udp"
        ),
        _rate("udp-2000", 2_000, 20_000, fresh=True),
        _rate("udp-10000", 10_000, 20_000, fresh=True),
        Load(
            "ping-udp",
            "ping_pong",
            {"protocol": "udp", "size": UDP_BYTES},
            _udp(UDP, ROUTED),
            protocol="udp",
        ),
        Load("tls-connect", "tls_connect", {}, (OURS, *TLS_PEERS), protocol="tls"),
        *(
            Load(
                f"tls-bulk-{way}", "tls_bulk", {"reverse": way == "down"}, (OURS, *TLS_PEERS), protocol="tls"
            )
            for way in ("up", "down")
        ),
        Load(
            "idle-tcp",
            "idle",
            {"protocol": "tcp", "flows": IDLE_FLOWS},
            _tcp(COPY, ROUTED),
            fresh=True,
            seconds=SETTLE_S,
        ),
        Load(
            "idle-udp",
            "idle",
            {"protocol": "udp", "flows": IDLE_SESSIONS},
            _udp(UDP),
            fresh=True,
            seconds=SETTLE_S,
            protocol="udp",
        ),
    )
}

_BULK_BARS = (
    Bar(1.05, SPLICE),
    Bar(1.00, "best"),
    Bar(0.70, "nginx"),
    Bar(0.45, "haproxy"),
    Bar(0.95, "best", stretch=True),
)


def _bulk_row(load: Load) -> Row:
    flows, way = load.options["flows"], "to the client" if load.options["reverse"] else "to the origin"
    title = f"TCP bulk {way}, {flows} flow{'s' * (flows > 1)}"
    return Row(load.key, title, "CPU s/GB", load.key, "cpu", _BULK_BARS, digits=3)


def _packets(key: str, title: str, bar: Bar) -> Row:
    return Row(key, title, "CPU µs a packet", key, "cpu", (bar,), digits=2)


_HAPROXY = Bar(1.00, "haproxy", stretch=True)
_KERNEL_BARS = (Bar(1.00, "haproxy-splice"), Bar(1.00, "haproxy"))

WORKERS_KEY = "workers"

ROWS = {
    row.key: row
    for row in (
        *map(_bulk_row, _BULK),
        Row(
            "ping-tcp-p50",
            f"TCP {PING_PONG_BYTES} B ping-pong, added one way, p50",
            "µs",
            "ping-tcp",
            "p50",
            (Bar(1.10, COPY), Bar(1.00, "best"), Bar(0.70, "best", stretch=True)),
            added=True,
        ),
        Row("ping-tcp-p99", "the same, p99", "µs", "ping-tcp", "p99", (Bar(1.00, "best"),), added=True),
        Row(
            "connect",
            "TCP connect, 1 byte each way, close",
            "CPU µs each",
            "connect",
            "cpu",
            (Bar(1.10, COPY), Bar(1.00, "best"), Bar(0.75, "best", stretch=True)),
        ),
        Row("tls-connect", "TLS 1.3 full handshake, 1 byte each way, close", "CPU µs each", "tls-connect", "cpu", (_HAPROXY,)),
        Row("tls-bulk-up", "TLS bulk to the origin, 1 flow", "CPU s/GB", "tls-bulk-up", "cpu", (_HAPROXY,), digits=3),
        Row("tls-bulk-down", "TLS bulk to the client, 1 flow", "CPU s/GB", "tls-bulk-down", "cpu", (_HAPROXY,), digits=3),
        _packets("udp-20k", f"UDP {UDP_BYTES} B, {UDP_FLOWS} flows, 20k/s", Bar(0.70, "best")),
        _packets("udp-50k", "the same, 50k/s", Bar(0.50, "best")),
        _packets("udp-max", "the same, as fast as it goes", Bar(0.60, "best")),
        _packets("udp-2000", "UDP, 2,000 flows, 20k/s", Bar(0.60, "nginx")),
        Row("udp-2000-loss", "the same, lost", "share", "udp-2000", "loss", (Bar(0.0001, ""),), digits=5),
        _packets("udp-10000", "UDP, 10,000 flows, 20k/s", Bar(1.20, "row:udp-20k")),
        Row("ping-udp", f"UDP {UDP_BYTES} B ping-pong, added one way, p50", "µs", "ping-udp", "p50", (Bar(0.70, "nginx"),), added=True),
        Row("idle-tcp", "idle TCP flow, resident", "kB", "idle-tcp", "user_kb", (Bar(0.75, "best"),), digits=2),
        Row("idle-tcp-kernel", "the same, kernel memory", "kB", "idle-tcp", "kernel_kb", _KERNEL_BARS, added=True, digits=2),
        Row("idle-udp", "idle UDP session, resident", "kB", "idle-udp", "user_kb", (Bar(1.0, ""),), digits=2),
    )
}  # fmt: skip

WORKERS_BAR = Bar(1.7, "", at_least=True)
WORKERS_TITLE = "two workers over one, UDP as fast as it goes"


def chosen(names: Sequence[str]) -> list[str]:
    """Return the keys of the rows that are asked for, in the table's order; nothing asked for: all.

    A name is a row's key, or what the keys of several begin with (`udp`, `bulk-8`). ValueError for one that names none.
    """
    every = [*ROWS, WORKERS_KEY]
    found = {name: [key for key in every if key == name or key.startswith(f"{name}-")] for name in names}
    if unknown := [name for name, keys in found.items() if not keys]:
        raise ValueError(f"no rows {', '.join(unknown)}; there are {', '.join(every)}")
    wanted = {key for keys in found.values() for key in keys}
    return [key for key in every if key in wanted or not names]


def loads_of(keys: Sequence[str]) -> list[Load]:
    """Return the loads that rows need, each once: a row may be held against a figure of another."""
    needed: dict[str, None] = {}
    for row in (ROWS[key] for key in keys if key in ROWS):
        needed[row.load] = None
        for bar in row.bars:
            if bar.of.startswith("row:"):
                needed[ROWS[bar.of.removeprefix("row:")].load] = None
    return [LOADS[key] for key in LOADS if key in needed]


def arms_of(load: Load, peers: Sequence[str]) -> list[str]:
    """Return who takes part in a load: ourselves, the floors and the peers that were asked for."""
    return [name for name in load.arms if name in peers or name not in PEERS]
