"""What is measured: loads, and the rows of the table with their bars, as data. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l4proxy.bench.bars import Bar

WIREGUARD = "wireguard-go"
NOQ = "noq-async"
"""The QUIC library's own bulk over its async API (rust_ext/peers/noq-bulk)."""
QUIC_DATAGRAM = "quic-datagram"
"""QUIC DATAGRAM frames of the same library in a minimal loop (rust_ext/crates/bench, floors)."""
OURS_IN_QUIC = "l4proxy-in-quic"
"""Ours, with `datagrams: quic` in the fleet file: what the library's frames cost in our own loop."""
UNPROXIED = "unproxied"
OFF = "l4proxy-off"
"""Ours without smart routing."""
CUBIC, BBR = "cubic", "bbr"
"""Unproxied, with this congestion control at both ends."""


IDLE_FLOWS = 5_000
CITIES = ("rabat", "tokyo", "los-angeles", "lima")


@dataclass(frozen=True, slots=True)
class Load:
    """Something that is done and measured, all its arms in turn."""

    key: str
    family: str
    """The module that does it; one run of a family serves all its loads."""
    options: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = True
    """Whether it is part of a quick look."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: a figure of a load."""

    key: str
    title: str
    unit: str
    load: str
    figure: str
    bars: Sequence[Bar] = ()
    digits: int = 2


LOADS = {
    load.key: load
    for load in (
        Load("transit-160", "transit", {"size": 160}),
        Load("transit-1200", "transit", {"size": 1200}),
        Load("datagrams-20k", "datagrams", {"rate": 20_000.0}),
        Load("datagrams-50k", "datagrams", {"rate": 50_000.0}),
        Load("datagrams-max", "datagrams", {"rate": None}),
        Load("bulk-1", "bulk", {"flows": 1}),
        Load("bulk-8", "bulk", {"flows": 8}),
        Load("wan-10m", "wan", {"bytes": 10_000_000, "silent": False}),
        Load("wan-100k", "wan", {"bytes": 100_000, "silent": False}),
        *(Load(f"experiment-{city}", "experiment") for city in CITIES),
        Load("experiment", "experiment", quick=False),
        Load("udp-detour", "udp-detour"),
        Load("cuts", "cuts"),
        Load("idle-ingress", "idle", {"end": "ingress", "flows": IDLE_FLOWS}),
        Load("idle-egress", "idle", {"end": "egress", "flows": IDLE_FLOWS}),
        Load("false-alarms", "virtual", {"package": "l4proxy-proto", "example": "false_alarms"}),
        Load("duplication", "duplication", quick=False),
        Load("interop", "virtual", {"package": "l4proxy-tunnel", "example": "interop"}),
        Load("wan-10m-silence", "wan", {"bytes": 10_000_000, "silent": True}, quick=False),
        Load("wan-100k-silence", "wan", {"bytes": 100_000, "silent": True}, quick=False),
    )
}

_LARGE = (Bar(0.40, CUBIC), Bar(0.50, BBR))
_SMALL = (Bar(0.30, CUBIC),)

_DATAGRAMS = tuple((rate, end) for rate in ("20k", "50k", "max") for end in ("ingress", "egress"))
_FLOWS = {"tcp": "TCP, 50 messages a second", "bulk": "TCP download", "udp": "UDP, 50 datagrams a second"}


def _datagrams(rate: str, end: str) -> Row:
    at = {"max": "as fast as it goes"}.get(rate, f"{rate}/s")
    bars = (
        (Bar(0.50, QUIC_DATAGRAM),)
        if rate == "20k"
        else (Bar(0.60, QUIC_DATAGRAM), Bar(0.45, QUIC_DATAGRAM, stretch=True))
    )
    key, load = f"datagrams-{rate}-{end}", f"datagrams-{rate}"
    return Row(key, f"encrypted datagrams, 160 B, {at}, {end}", "CPU µs a packet", load, end, bars)


def _cut(flow: str, title: str) -> tuple[Row, Row]:
    what = f"{title}: silence when its path dies, less a round trip"
    return (
        Row(f"cuts-{flow}-p50", f"{what}, p50", "ms", "cuts", f"{flow}_p50", (Bar(150, ""),), digits=0),
        Row(f"cuts-{flow}-p99", "the same, p99", "ms", "cuts", f"{flow}_p99", (Bar(400, ""),), digits=0),
    )


TOKYO_GAIN = 1.08
"""Throughput over CUBIC's that was published for Tokyo: + 108 %."""


def _experiment(city: str) -> tuple[Row, Row]:
    bars = (Bar(round(1 / (1 + TOKYO_GAIN), 4), CUBIC),) if city == "tokyo" else ()
    title = f"10 MB from the Netherlands to {city.replace('-', ' ').title()}"
    key = f"experiment-{city}"
    return (
        Row(key, title, "s", key, "s", bars),
        Row(f"{key}-floor", "the same over the least it can take", "×", key, "floor", (Bar(1.2, ""),)),
    )


ROWS = {
    row.key: row
    for row in (
        Row("transit-160", "transit PoP, packets of 160 B in batches, both tags", "CPU µs a packet", "transit-160", "cpu",
            (Bar(0.40, ""), Bar(0.30, "", stretch=True)), digits=3),
        Row("transit-1200", "the same, 1,200 B", "CPU µs a packet", "transit-1200", "cpu", (Bar(0.55, ""),), digits=3),
        Row("transit-rate", "the same, 160 B, a core full of it", "Mpps", "transit-160", "mpps", (Bar(2.5, "", at_least=True),)),
        Row("transit-wireguard", "transit PoP beside a WireGuard hop, 1,200 B", "CPU µs a packet", "transit-1200", "cpu",
            (Bar(0.20, WIREGUARD),), digits=3),
        *(_datagrams(*one) for one in _DATAGRAMS),
        *(
            Row(f"bulk-{flows}", f"TCP through the tunnel, {flows} flow{'s' * (flows > 1)}", "Gbit/s a core", f"bulk-{flows}",
                "gbit_core", (Bar(1.3, NOQ, at_least=True),))
            for flows in (1, 8)
        ),
        Row("wan-10m", "10 MB, 100 Mbit/s, unproxied 180 ms against 10 + 170 ms", "s", "wan-10m", "s", _LARGE),
        Row("wan-100k", "100 kB, the same", "s", "wan-100k", "s", _SMALL, digits=3),
        *(row for city in CITIES for row in _experiment(city)),
        Row("experiment-mean", "the same, mean throughput of the places over CUBIC", "more", "experiment", "gain",
            (Bar(0.85, "", at_least=True),)),
        Row("udp-detour", "UDP Tokyo to Iowa over a 143 ms detour, added to it by two links", "ms", "udp-detour", "added", (Bar(1.0, ""),)),
        Row("udp-detour-rtt", "the same, round trip beside the direct 173 ms", "ms", "udp-detour", "rtt", (Bar(0.84, OFF),), digits=1),
        *(row for flow, title in _FLOWS.items() for row in _cut(flow, title)),
        Row("cuts-resets", "flows that ended, all cuts", "", "cuts", "resets", (Bar(0, ""),), digits=0),
        Row("cuts-wrong", "flows with a wrong byte, all cuts", "", "cuts", "wrong", (Bar(0, ""),), digits=0),
        *(
            Row(f"false-alarms-{loss}", f"1 % of packets lost {how}, 30 ms of jitter: paths left for nothing", "an hour",
                "false-alarms", loss, (Bar(1.0, ""),))
            for loss, how in (("random", "at random"), ("bursts", "in bursts"))
        ),
        Row("duplication-left", "1 % independent loss on two paths, duplication: always: what is lost", "of 1", "duplication", "left",
            (Bar(0.0002, ""),), digits=6),
        Row("duplication-spread", "the same, round trip, p99 over p50", "ms", "duplication", "spread", (Bar(2.0, ""),)),
        Row("interop", "the QUIC interop runner's cases (loss, corruption, black holes, 750 ms, rebinding): runs that failed", "",
            "interop", "failed", (Bar(0, ""),), digits=0),
        Row("idle-ingress", "idle TCP flow of a tunnel, ingress, beside its socket", "kB", "idle-ingress", "user_kb", (Bar(4.0, ""),)),
        Row("idle-egress", "the same, egress", "kB", "idle-egress", "user_kb", (Bar(4.0, ""),)),
        Row("wan-10m-silence", "10 MB after 60 s of silence", "s", "wan-10m-silence", "s", _LARGE),
        Row("wan-100k-silence", "100 kB after 60 s of silence", "s", "wan-100k-silence", "s", _SMALL, digits=3),
    )
}  # fmt: skip


def chosen(names: Sequence[str]) -> list[str]:
    """Return the keys of the rows that are asked for, in the table's order; nothing asked for: all.

    A name is a row's key, or what the keys of several begin with (`transit`, `wan`). ValueError for one that names none.
    """
    every = [*ROWS]
    found = {name: [key for key in every if key == name or key.startswith(f"{name}-")] for name in names}
    if unknown := [name for name, keys in found.items() if not keys]:
        raise ValueError(f"no rows {', '.join(unknown)}; there are {', '.join(every)}")
    wanted = {key for keys in found.values() for key in keys}
    return [key for key in every if key in wanted or not names]


def loads_of(keys: Sequence[str]) -> list[Load]:
    """Return the loads that rows need, each once."""
    needed = {ROWS[key].load for key in keys if key in ROWS}
    return [load for key, load in LOADS.items() if key in needed]
