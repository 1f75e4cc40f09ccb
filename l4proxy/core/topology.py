"""The fleet as declared: PoPs, their transits, and the directed links between them. Frozen; nothing measured stands here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from l4proxy.core.ids import Id32, LinkName, PopName, id32
from l4proxy.core.probing import DEFAULT_BUDGET_BYTES_S

DatagramMode = Literal["channel", "quic"]
"""The datagram channel; or QUIC DATAGRAM frames (RFC 9221), on connections whose other end takes them as well."""


@dataclass(frozen=True, slots=True)
class Transit:
    """One provider at one PoP. `address` is where others reach it, `bind` what its own socket is bound to (`ip:port` both)."""

    name: str
    address: str
    bind: str


@dataclass(frozen=True, slots=True)
class Pop:
    """One site. `location` is (latitude, longitude) in degrees: for maps and plausibility, never for routes."""

    name: PopName
    transits: tuple[Transit, ...]
    location: tuple[float, float] | None = None
    dial_outbound: bool = False
    """It is behind NAT: it dials, the addresses of its transits mean nothing to others, and no link joins two such PoPs."""
    transit_rate_bits_s: int | None = None
    """What each other PoP may send through this one; None: no bound."""

    def dials(self, other: "Pop") -> bool:
        """Whether this PoP dials the pair connection with another: the one that can only dial out, else the one whose name sorts first."""
        if self.dial_outbound != other.dial_outbound:
            return self.dial_outbound
        return self.name < other.name

    def transit(self, name: str) -> Transit:
        """Return the transit called `name`; KeyError if there is none."""
        for transit in self.transits:
            if transit.name == name:
                return transit
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Link:
    """A directed underlay adjacency between two PoPs over one transit at each end."""

    from_pop: PopName
    from_transit: str
    to_pop: PopName
    to_transit: str
    enabled: bool = True
    """False: carries no traffic in this direction, but probes."""
    capacity_bits_s: int | None = None
    price: float = 0.0
    kind: str = "transit"
    name: LinkName = field(init=False, repr=False, compare=False)
    """`ams/a>iad/b`. Made once: plans ask for it some thousand times."""

    def __post_init__(self) -> None:
        name = f"{self.from_pop}/{self.from_transit}>{self.to_pop}/{self.to_transit}"
        object.__setattr__(self, "name", LinkName(name))

    @property
    def reverse_name(self) -> LinkName:
        """Name of the link over the same two transits in the other direction."""
        return LinkName(f"{self.to_pop}/{self.to_transit}>{self.from_pop}/{self.from_transit}")

    @property
    def id(self) -> Id32:
        """Wire id of the link."""
        return id32(self.name)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Every PoP and every directed link, in name order. The same on each PoP."""

    name: str
    pops: Mapping[PopName, Pop]
    links: Mapping[LinkName, Link]
    issuer: PopName | None = None
    datagrams: DatagramMode = "channel"
    """What carries UDP flows between PoPs."""
    probe_budget_bytes_s: int = DEFAULT_BUDGET_BYTES_S
    """What the probes of each PoP may cost, requests and their replies together, bytes a second."""

    def links_from(self, pop: PopName) -> tuple[Link, ...]:
        """Outgoing links of `pop`, in name order."""
        return tuple(link for link in self.links.values() if link.from_pop == pop)

    def links_to(self, pop: PopName) -> tuple[Link, ...]:
        """Incoming links of `pop`, in name order."""
        return tuple(link for link in self.links.values() if link.to_pop == pop)

    def neighbours(self, pop: PopName) -> tuple[PopName, ...]:
        """PoPs that a link joins with `pop` in either direction, in name order."""
        names = {link.to_pop for link in self.links_from(pop)} | {
            link.from_pop for link in self.links_to(pop)
        }
        return tuple(sorted(names))
