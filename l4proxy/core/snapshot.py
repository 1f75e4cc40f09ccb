"""Everything the engine needs, as one frozen value: the Python side of docs/engine-protocol.md, section "Snapshot".

`to_message` is the only place that knows how these become msgpack maps: field names are the keys.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from l4proxy.core.app import Protocol
from l4proxy.core.ids import AppName, Id32, LinkName, PopName
from l4proxy.core.policy import ClientAddress, Duplication, Limits, RecordClient, TlsMode
from l4proxy.core.resolution import Target
from l4proxy.core.topology import DatagramMode


@dataclass(frozen=True, slots=True)
class ListenSpec:
    """A range of ports; `address` "::" is every address of both families."""

    protocol: Protocol
    address: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class OriginSpec:
    """An origin by its text in the app file, with where it may be dialled now: () for a name without an answer.

    What stands behind a `name` is other people's word and is checked when it is dialled; an `address` is the operator's.
    """

    name: str
    kind: Literal["address", "name"]
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way for a new flow: origin (index into the app's origins) through a handle, or dialled here (None)."""

    origin: int
    handle: int | None
    trial: bool = False
    """It failed of late: one flow in 32 tries it first, and goes on to the next if it still does."""


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """Candidates in order of preference, per protocol."""

    tcp: tuple[Candidate, ...]
    udp: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class AccessListSpec:
    """A list of prefixes by its number; its contents travel in frames of their own."""

    verdict: Literal["allow", "deny"]
    id: int


@dataclass(frozen=True, slots=True)
class AccessSpec:
    """Who may come: the longest prefix wins, deny wins ties."""

    default_allow: bool = True
    lists: tuple[AccessListSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class CertificateSpec:
    """A chain and its key, PEM. The key is nobody's business, so it is not shown."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TlsSpec:
    """TLS that ends at the edge."""

    mode: TlsMode
    certificates: tuple[CertificateSpec, ...]
    client_ca_pem: bytes | None


@dataclass(frozen=True, slots=True)
class AppSpec:
    """One app as the engine sees it."""

    name: AppName
    listens: tuple[ListenSpec, ...]
    all_listens: tuple[ListenSpec, ...]
    origins: tuple[OriginSpec, ...]
    routes: RouteSpec
    idle_tcp_ms: int
    idle_udp_ms: int
    half_closed_ms: int
    connect_timeout_ms: int
    admits_egress: bool
    limits: Limits = field(default_factory=Limits)
    client_address: ClientAddress = field(default_factory=ClientAddress)
    accept_client_address: tuple[str, ...] = ()
    access: AccessSpec = field(default_factory=AccessSpec)
    rehome: bool = False
    dscp: int | None = None
    duplication: Duplication = "off"
    tls: TlsSpec | None = None
    record_client: RecordClient = "full"
    allow_private_origins: bool = False
    source_pool: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """An outgoing link: where it leaves (`local`, an overlay socket) and where it goes (`remote`), both `ip:port`."""

    id: Id32
    name: LinkName
    peer: PopName
    label: int
    local: str
    remote: str
    probe_interval_ms: int
    copies_bytes_per_s: int = 0
    """Copies of datagrams that it may carry as a second path."""
    moves: bool = False
    """The peer is behind NAT: where it is stands in its packets and not in `remote`."""


@dataclass(frozen=True, slots=True)
class IncomingLinkSpec:
    """An incoming link: packets of `peer` come from `remote` to `local`."""

    id: Id32
    name: LinkName
    peer: PopName
    local: str
    remote: str
    moves: bool = False


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """Another PoP. `dial`: this PoP dials the pair connection. `adjacent`: a link joins the two. `moves`: it is behind NAT."""

    name: PopName
    id: Id32
    dial: bool
    adjacent: bool
    moves: bool = False


@dataclass(frozen=True, slots=True)
class PathSpec:
    """One path: its own first link, and the labels of the following links."""

    id: Id32
    links: tuple[LinkName, ...]
    first_link: Id32
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HandleSpec:
    """What a route handle means now: the primary path first, then its backups."""

    id: int
    peer: PopName
    policy: str
    paths: tuple[PathSpec, ...]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Hard caps of the engine as a whole, shared by its workers."""

    max_sessions: int = 131_072
    max_new_sessions: int = 16_384
    max_tcp_flows: int = 65_536
    source_key: bytes = bytes(16)
    """Decides which address of a source pool a client is seen from: kept over restarts and told to nobody else."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole forwarding state of one PoP."""

    generation: int
    pop: PopName
    pop_id: Id32
    fleet: str
    apps: tuple[AppSpec, ...]
    links: tuple[LinkSpec, ...]
    links_in: tuple[IncomingLinkSpec, ...]
    peers: tuple[PeerSpec, ...]
    handles: tuple[HandleSpec, ...]
    options: EngineOptions
    transit_bytes_per_s: int = 0
    """What each previous hop may send through this PoP; 0: no bound."""
    datagrams: DatagramMode = "channel"

    def to_message(self) -> dict[str, Any]:
        """Return the map that goes on the wire."""
        return asdict(self)
