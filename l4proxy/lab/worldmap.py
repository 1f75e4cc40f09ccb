"""Measured latencies between real sites, and the rule that picks the demo's three PoPs. The files are in `data/`; see its README."""

import csv
import itertools
from dataclasses import dataclass
from importlib import resources

MIN_DIRECT_LOSS_RATIO = 0.01
"""A direct path counts as bad from here on: the loss at which voice and games are no longer good."""


@dataclass(frozen=True, slots=True)
class Site:
    """A city with a data centre. Degrees, north and east positive."""

    name: str
    city: str
    latitude: float
    longitude: float


@dataclass(frozen=True, slots=True)
class Pair:
    """What was measured between two sites, in the worse direction of the two."""

    rtt_ms: float
    jitter_ms: float
    loss_ratio: float
    """Share of round trips lost."""


@dataclass(frozen=True, slots=True)
class Triple:
    """Three sites; flows go from `ingress` to `egress`."""

    ingress: str
    transit: str
    egress: str


@dataclass(frozen=True, slots=True)
class WorldMap:
    """Sites by name, and the pairs that were measured in both directions."""

    sites: dict[str, Site]
    pairs: dict[frozenset[str], Pair]

    def pair(self, a: str, b: str) -> Pair | None:
        """Return what was measured between two sites, or None."""
        return self.pairs.get(frozenset((a, b)))

    def choose_triple(self) -> Triple:
        """Return the three sites for the demo: the rule behind the map.

        Among all pairs whose direct path lost at least 1 % of round trips, and all third sites over which nothing was
        lost, take the one that saves the most RTT. In the shipped data that is Delhi to Sydney over Singapore:
        316 ms and 5 % loss direct, 206 ms and none over Singapore. Ties go to the names that sort first.
        """
        best: tuple[float, Triple] | None = None
        for a, b in itertools.combinations(sorted(self.sites), 2):
            direct = self.pair(a, b)
            if direct is None or direct.loss_ratio < MIN_DIRECT_LOSS_RATIO:
                continue
            for third in sorted(self.sites):
                first, second = self.pair(a, third), self.pair(third, b)
                if first is None or second is None or first.loss_ratio or second.loss_ratio:
                    continue
                gain_ms = direct.rtt_ms - first.rtt_ms - second.rtt_ms
                if best is None or gain_ms > best[0]:
                    best = (gain_ms, Triple(a, third, b))
        if best is None:
            raise ValueError("no pair of the map has a lossy direct path and a clean detour")
        return best[1]


def load() -> WorldMap:
    """Read the map that ships with the package."""
    data = resources.files("l4proxy.lab") / "data"
    with (data / "sites.csv").open() as text:
        sites = {
            row["site"]: Site(row["site"], row["city"], float(row["latitude"]), float(row["longitude"]))
            for row in csv.DictReader(text)
        }
    directed: dict[tuple[str, str], Pair] = {}
    with (data / "pairs.csv").open() as text:
        for row in csv.DictReader(text):
            numbers = (float(row[name]) for name in ("rtt_ms", "jitter_ms", "loss_ratio"))
            directed[row["from"], row["to"]] = Pair(*numbers)
    pairs = {}
    for (a, b), there in directed.items():
        if back := directed.get((b, a)):
            pairs[frozenset((a, b))] = Pair(
                max(there.rtt_ms, back.rtt_ms),
                max(there.jitter_ms, back.jitter_ms),
                max(there.loss_ratio, back.loss_ratio),
            )
    return WorldMap(sites, pairs)
