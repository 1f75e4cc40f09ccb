"""What `l4proxy run` was told, checked and frozen."""

import os
from dataclasses import dataclass
from pathlib import Path

from l4proxy.daemon.dns_lookup import NameServer
from l4proxy.daemon.engine_process import ENGINE_COMMAND

MAX_WORKERS = 64
"""Worker numbers stand in one byte of the wire format; beyond this many a PoP wants a second machine."""

DEFAULT_DRAIN_S = 30.0

DEFAULT_CERTIFICATE_S = 90 * 86_400.0
"""As `l4proxy pki issue` makes them."""


DEFAULT_HISTORY_MIB = 64
"""For recorded links: weeks of a small fleet, some days of 330 PoPs."""


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """Where metrics are served over TCP. `is_required`: it was asked for, so that a port in use is an error."""

    address: str
    port: int
    is_required: bool = True


DEFAULT_METRICS = MetricsAddress("127.0.0.1", 9469, is_required=False)
"""Loopback. A second daemon on the machine goes without, and says so."""


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """One daemon. `fleet` None: one PoP alone, without tunnels."""

    apps: tuple[Path, ...]
    socket: Path
    state_dir: Path
    workers: int
    overlay_memory_mib: int | None = None
    """What the tunnels of one worker may hold; None: `default_overlay_memory_mib`."""
    fleet: Path | None = None
    pop: str | None = None
    identity: Path | None = None
    ca: Path | None = None
    """Folder of the CA and its key, at the issuer."""
    revoked: Path | None = None
    """The list of what is revoked; None: `revoked` in the folder of the identity."""
    certificate_lifetime_s: float = DEFAULT_CERTIFICATE_S
    """How long certificates are valid that this PoP signs as the issuer."""
    metrics: MetricsAddress | None = None
    drain_timeout_s: float = DEFAULT_DRAIN_S
    flow_log: str | None = None
    history_mib: int = DEFAULT_HISTORY_MIB
    """What the recorded history of links may take in the state directory; 0: nothing is recorded."""
    name_servers: tuple[NameServer, ...] = ()
    """Asked for the names of origins instead of those in resolv.conf."""
    engine_command: tuple[str, ...] = ENGINE_COMMAND

    @property
    def runtime_dir(self) -> Path:
        """Where this daemon's sockets are; one daemon per directory."""
        return self.socket.parent


def default_workers() -> int:
    """Return one worker per core that this process may use."""
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


MIN_OVERLAY_MEMORY_MIB = 64
"""With less, a handful of fast flows would be slower than their paths."""

_MAX_DEFAULT_MIB = 1024
"""More is seldom used: thirteen flows at full speed."""


def default_overlay_memory_mib(workers: int) -> int:
    """Return a quarter of the host's memory, shared by `workers` workers, within bounds: what each one's tunnels may hold."""
    total_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return min(max(total_mib // 4 // workers, MIN_OVERLAY_MEMORY_MIB), _MAX_DEFAULT_MIB)
