"""What an operator declares about one app, parsed and frozen. `l4proxy.config` makes these; nothing here reads files.

How it treats clients is in `policy`. A field of the app file whose feature does not exist yet is refused by the loader.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from l4proxy.core.ids import AppName, PopName
from l4proxy.core.policy import AccessPolicy, ClientAddress, Duplication, Limits, RecordClient, TlsPolicy
from l4proxy.core.resolution import LOCALHOST, OriginName, Target, is_localhost

Protocol = Literal["tcp", "udp"]
TrafficClass = Literal["game", "voip", "bulk", "rtt"]
SmartRouting = Literal["on", "off", "auto", "shadow"]


@dataclass(frozen=True, slots=True)
class Listen:
    """Ports that clients come to. `address` "::" means every address, IPv4 and IPv6."""

    protocol: Protocol
    address: str
    first: int
    last: int

    @property
    def ports(self) -> range:
        """Every port of the range, `first` and `last` included."""
        return range(self.first, self.last + 1)

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        prefix = "" if self.address == "::" else f"{host}:"
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.protocol}/{prefix}{ports}"


@dataclass(frozen=True, slots=True)
class Origin:
    """One origin of an app's pool. `name` is the text of the app file; `port` None means the port that the client came to."""

    name: str
    address: str
    """An IP address, or a name that `kind` says how to resolve."""
    port: int | None
    kind: Literal["ip", "name", "srv"] = "ip"

    @property
    def to_resolve(self) -> OriginName | None:
        """The name that DNS is asked for; None: where it is needs no asking."""
        if self.kind == "ip" or is_localhost(self.address):
            return None
        return OriginName(self.kind, self.address, self.port)

    def targets(self, names: Mapping[OriginName, tuple[Target, ...]]) -> tuple[Target, ...]:
        """Return where it may be dialled now, by what is known of names; () for a name without an answer."""
        name = self.to_resolve
        if name is not None:
            return names.get(name, ())
        addresses = (self.address,) if self.kind == "ip" else LOCALHOST
        return tuple(Target(address, self.port) for address in addresses)


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """Per-app limits on what smart routing may do."""

    min_gain_ms: float = 1.0
    """What a detour must gain before `off` is left, milliseconds of cost."""
    max_transits: int = 3
    """Most transit PoPs on a path, 0 to 3."""
    avoid: frozenset[str] = frozenset()
    """PoPs (`ams`) and transits (`ams/a`) that the app's flows never cross."""
    egress: frozenset[PopName] | None = None
    """PoPs that may dial the origins; None: any."""
    egress_max: int | None = None
    """How many of them may do so at once; None: all."""


@dataclass(frozen=True, slots=True)
class IdleTimeouts:
    """After how much silence a session ends, milliseconds."""

    tcp_ms: int = 3_600_000
    udp_ms: int = 120_000  # RFC 4787 REQ-5: a NAT mapping must not expire in less than two minutes
    half_closed_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class App:
    """One app of the operator."""

    name: AppName
    listen: tuple[Listen, ...]
    origins: tuple[Origin, ...]
    smart_routing: SmartRouting = "on"
    tcp_class: TrafficClass = "bulk"
    """Cost formula of its TCP flows: `class` of the file, else `bulk`."""
    udp_class: TrafficClass = "game"
    """Cost formula of its UDP flows: `class` of the file, else `game`."""
    routing: RoutingPolicy = field(default_factory=RoutingPolicy)
    idle: IdleTimeouts = field(default_factory=IdleTimeouts)
    connect_timeout_ms: int = 5_000
    limits: Limits = field(default_factory=Limits)
    pops: frozenset[PopName] | None = None
    """Where it listens; None: at every PoP."""
    client_address: ClientAddress = field(default_factory=ClientAddress)
    accept_client_address: tuple[str, ...] = ()
    """Prefixes of balancers whose word about the client's address is taken; (): nobody's."""
    access: AccessPolicy = field(default_factory=AccessPolicy)
    rehome: bool = False
    """Whether UDP flows may move to another egress or origin when theirs is out of reach."""
    dscp: int | None = None
    """0 to 63 on what goes to clients and origins; None: as it came."""
    duplication: Duplication = "off"
    """Which of its datagrams go over two disjoint paths of the overlay."""
    tls: TlsPolicy | None = None
    """None: TLS passes through untouched."""
    record_client: RecordClient = "full"
    allow_private_origins: bool = False
    """Whether names may lead to private networks."""
    source_pool: tuple[str, ...] = ()
    """Prefixes of source addresses towards origins; (): the kernel chooses."""

    def listens_at(self, pop: PopName) -> bool:
        """Whether clients may come to this app at `pop`."""
        return self.pops is None or pop in self.pops

    def admits_egress(self, pop: PopName) -> bool:
        """Whether `pop` may dial this app's origins."""
        return self.routing.egress is None or pop in self.routing.egress

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """The protocols it listens on, tcp first."""
        present = {listen.protocol for listen in self.listen}
        both: tuple[Protocol, ...] = ("tcp", "udp")
        return tuple(protocol for protocol in both if protocol in present)
