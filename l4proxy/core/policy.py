"""How one app treats its clients: who may come and how much, what the origin and the records learn of them, TLS. Frozen types only."""

from dataclasses import dataclass, field
from typing import Literal

from l4proxy.core.access_list import NOBODY, AccessList

TcpClientAddress = Literal["off", "proxy-v1", "proxy-v2", "transparent"]
UdpClientAddress = Literal["off", "spp", "proxy-v2-first", "proxy-v2-every", "transparent"]
RecordClient = Literal["full", "prefix", "hash", "none"]
Duplication = Literal["off", "on-loss", "always"]
TlsMode = Literal["flexible", "full", "strict"]


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """How the origin learns who the client is, per protocol: one word of the file can mean something for one of them only."""

    tcp: TcpClientAddress = "off"
    udp: UdpClientAddress = "off"


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps and rates of one app at one PoP; None: only the engine's own caps apply."""

    flows: int | None = None
    flows_per_source: int | None = None
    source_prefix_v6: int = 64
    """Length of the prefix that counts as one IPv6 client."""
    new_flows_per_second: int | None = None
    new_flows_per_second_per_source: int | None = None
    bandwidth_per_flow: int | None = None
    """Bytes per second, each direction by itself."""
    amplification: float | None = None
    """Bytes to a client that has not proved its address, per byte from it."""


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who may come: the longest prefix wins, deny wins ties."""

    default_allow: bool = True
    allow: AccessList = NOBODY
    """What the app file itself names."""
    deny: AccessList = NOBODY
    allow_files: tuple[str, ...] = ()
    """Paths of files with more."""
    deny_files: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that it names."""
        return self.allow_files + self.deny_files


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where one certificate and its key lie."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """TLS that ends at the edge. `flexible`: none to the origin, `full`: unchecked, `strict`: verified."""

    mode: TlsMode
    certificates: tuple[CertificateFiles, ...] = field(default=())
    """Chosen by server name; the first one serves clients that name none."""
    client_ca: str | None = None
    """Only clients with a certificate of these authorities come in; None: all do."""

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that it names, each once."""
        named = [name for pair in self.certificates for name in (pair.certificate, pair.key)]
        return tuple(dict.fromkeys([*named, *([] if self.client_ca is None else [self.client_ca])]))
