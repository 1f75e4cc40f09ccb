"""Where the demo takes place: three PoPs on the measured map, a client, an origin, an app. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from l4proxy.lab import worldmap

APP = "echo"
PORT = 7777
CLIENT, ORIGIN = "client", "origin"
CLIENT_RTT_MS, ORIGIN_RTT_MS = 6.0, 2.0
"""A client in the same metropolis, an origin in the same city as their PoPs."""
LINK_RATE = "200Mbit/s"
"""More than the flows need and less than this machine can emulate."""


@dataclass(frozen=True, slots=True)
class Story:
    """Three sites, what is between them, and where the client and the origin are."""

    triple: worldmap.Triple
    world: worldmap.WorldMap

    @classmethod
    def from_map(cls) -> "Story":
        """Take the map that ships with the package, and the three sites that its rule chooses."""
        world = worldmap.load()
        return cls(world.choose_triple(), world)

    @property
    def pops(self) -> tuple[str, str, str]:
        """Ingress, transit, egress."""
        return self.triple.ingress, self.triple.transit, self.triple.egress

    def pair(self, a: str, b: str) -> worldmap.Pair:
        """Return what was measured between two of the sites."""
        return self.world.pairs[frozenset((a, b))]

    def links(self) -> list[tuple[str, str, worldmap.Pair]]:
        """Return the three pairs: direct, then the two of the detour."""
        ingress, transit, egress = self.pops
        return [
            (a, b, self.pair(a, b)) for a, b in ((ingress, egress), (ingress, transit), (transit, egress))
        ]

    def document(self) -> dict[str, Any]:
        """Return the lab file. RTT, jitter and loss were measured there and back; each direction gets its half of what makes them."""
        links = [
            {
                "between": [a, b],
                "rtt": f"{pair.rtt_ms - 2 * jitter_ms(pair):.2f}ms",
                "jitter": f"{jitter_ms(pair):.2f}ms",
                "loss": 1 - (1 - pair.loss_ratio) ** 0.5,
                "rate": LINK_RATE,
            }
            for a, b, pair in self.links()
        ]
        sites = self.world.sites
        ingress, _, egress = self.pops
        return {
            "lab": "demo",
            "seed": 7,
            "pops": {
                pop: {"location": [sites[pop].latitude, sites[pop].longitude], "workers": 1}
                for pop in self.pops
            },
            "hosts": {
                CLIENT: {"near": ingress, "rtt": f"{CLIENT_RTT_MS}ms"},
                ORIGIN: {"near": egress, "rtt": f"{ORIGIN_RTT_MS}ms"},
            },
            "links": links,
            "apps": [
                {
                    "name": APP,
                    "listen": [f"tcp/{PORT}", f"udp/{PORT}"],
                    "origins": [f"{ORIGIN}:{PORT}"],
                    "routing": {"egress": [egress]},
                }
            ],
        }

    def path_rtt_ms(self, path: Sequence[str]) -> float:
        """Return the configured RTT from client to origin over a path."""
        hops = pairwise(path)
        return CLIENT_RTT_MS + sum(self.pair(a, b).rtt_ms for a, b in hops) + ORIGIN_RTT_MS

    def topology(self) -> dict[str, Any]:
        """Return what the report says about the map."""
        sites = self.world.sites
        return {
            "pops": [
                {
                    "name": pop,
                    "city": sites[pop].city,
                    "latitude": sites[pop].latitude,
                    "longitude": sites[pop].longitude,
                }
                for pop in self.pops
            ],
            "links": [
                {"between": [a, b], "rtt_ms": p.rtt_ms, "jitter_ms": p.jitter_ms, "loss_ratio": p.loss_ratio}
                for a, b, p in self.links()
            ],
            "client": {"near": self.triple.ingress, "rtt_ms": CLIENT_RTT_MS},
            "origin": {"near": self.triple.egress, "rtt_ms": ORIGIN_RTT_MS},
            "app": APP,
            "source": "measured between sites of one hosting provider, August 2026 (l4proxy/lab/data/README.md)",
        }


def jitter_ms(pair: worldmap.Pair) -> float:
    """Return the jitter of one direction.

    The emulator's extra delays are exponential: two of mean j differ by j on average, and sums of two, there and
    back, by 1.5 j. They make a round trip longer by 2 j, which is part of the RTT that was measured.
    """
    return pair.jitter_ms / 1.5
