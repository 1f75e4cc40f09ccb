"""What flows really got, as the engine sums it: by app and way, by path, and how much each own link carried. Values only, no state."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from l4proxy.core.ids import AppName, Id32, LinkName, PopName


@dataclass(frozen=True, slots=True)
class FlowOutcomes:
    """What became of flows of one app over one way, since it was said last. All are counts of flows, or of attempts to reach an origin."""

    app: AppName
    egress: PopName
    """The PoP that dialled the origin; this PoP itself where that was here."""
    links: tuple[LinkName, ...]
    """The path at the time; empty where the origin was dialled here."""
    tried: int = 0
    connected: int = 0
    """The origin was reached; of UDP through another PoP: that PoP has a session for the flow."""
    refused: int = 0
    unreachable: int = 0
    timed_out: int = 0
    reset_early: int = 0
    """The origin reset before it had sent a byte."""
    no_tunnel: int = 0
    egress_refused: int = 0
    """The egress PoP would not: it drains, has no room, or does not know the app."""
    failed: int = 0
    origin_reset: int = 0
    path_lost: int = 0
    answered: int = 0
    """UDP flows that heard their first answer."""
    silent: int = 0
    """UDP flows that ended, had sent, and never heard anything."""


@dataclass(frozen=True, slots=True)
class PathReport:
    """What the tunnel connections of one route handle saw of the path that they took."""

    peer: PopName
    policy: str
    path: Id32
    links: tuple[LinkName, ...]
    rtt_ms: float
    """QUIC's smoothed round trip, each connection by the packets that it sent. Includes waiting in queues behind own traffic."""
    packets: int
    """Sent by QUIC in the time that the report is about."""
    lost: int
    """Of all that were sent, those that QUIC declared lost in that time."""
    bytes_out: int
    bytes_in: int


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One message of the engine. `elapsed_ms` 0: links and paths are not in it."""

    elapsed_ms: int
    links: Mapping[LinkName, int] = field(default_factory=dict)
    """Bytes sent over each own link that carried any: flows of this PoP, of others on their way, and what keeps the overlay alive."""
    paths: tuple[PathReport, ...] = ()
    flows: tuple[FlowOutcomes, ...] = ()
