"""What is measured: loads, and the rows of the table with their bars, as data. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l4proxy.bench.bars import Bar

WIREGUARD = "wireguard-go"
CUBIC, BBR = "cubic", "bbr"
"""Unproxied, with this congestion control at both ends."""


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
        Load("wan-10m", "wan", {"bytes": 10_000_000, "silent": False}),
        Load("wan-100k", "wan", {"bytes": 100_000, "silent": False}),
        Load("wan-10m-silence", "wan", {"bytes": 10_000_000, "silent": True}, quick=False),
        Load("wan-100k-silence", "wan", {"bytes": 100_000, "silent": True}, quick=False),
    )
}

_LARGE = (Bar(0.40, CUBIC), Bar(0.50, BBR))
_SMALL = (Bar(0.30, CUBIC),)

ROWS = {
    row.key: row
    for row in (
        Row("transit-160", "transit PoP, packets of 160 B in batches, both tags", "CPU µs a packet", "transit-160", "cpu",
            (Bar(0.40, ""), Bar(0.30, "", stretch=True)), digits=3),
        Row("transit-1200", "the same, 1,200 B", "CPU µs a packet", "transit-1200", "cpu", (Bar(0.55, ""),), digits=3),
        Row("transit-rate", "the same, 160 B, a core full of it", "Mpps", "transit-160", "mpps", (Bar(2.5, "", at_least=True),)),
        Row("transit-wireguard", "transit PoP beside a WireGuard hop, 1,200 B", "CPU µs a packet", "transit-1200", "cpu",
            (Bar(0.20, WIREGUARD),), digits=3),
        Row("wan-10m", "10 MB, 100 Mbit/s, unproxied 180 ms against 10 + 170 ms", "s", "wan-10m", "s", _LARGE),
        Row("wan-100k", "100 kB, the same", "s", "wan-100k", "s", _SMALL, digits=3),
        Row("wan-10m-silence", "10 MB after 60 s of silence", "s", "wan-10m-silence", "s", _LARGE),
        Row("wan-100k-silence", "100 kB after 60 s of silence", "s", "wan-100k-silence", "s", _SMALL, digits=3),
    )
}  # fmt: skip

ELSEWHERE: Mapping[str, tuple[str, str]] = {
    "false-alarms": (
        "false alarms, links with loss and jitter, an hour",
        "shown in virtual time: cargo test -p l4proxy-proto liveness",
    ),
    "interop": (
        "handshakes at 30 % loss, corruption, black holes, 750 ms, rebinding",
        "shown in virtual time: cargo test -p l4proxy-tunnel -p l4proxy-engine",
    ),
}
"""Rows of the table that are shown by tests and not by a measurement: title, and where."""


def chosen(names: Sequence[str]) -> list[str]:
    """Return the keys of the rows that are asked for, in the table's order; nothing asked for: all.

    A name is a row's key, or what the keys of several begin with (`transit`, `wan`). ValueError for one that names none.
    """
    every = [*ROWS, *ELSEWHERE]
    found = {name: [key for key in every if key == name or key.startswith(f"{name}-")] for name in names}
    if unknown := [name for name, keys in found.items() if not keys]:
        raise ValueError(f"no rows {', '.join(unknown)}; there are {', '.join(every)}")
    wanted = {key for keys in found.values() for key in keys}
    return [key for key in every if key in wanted or not names]


def loads_of(keys: Sequence[str]) -> list[Load]:
    """Return the loads that rows need, each once."""
    needed = {ROWS[key].load for key in keys if key in ROWS}
    return [load for key, load in LOADS.items() if key in needed]
