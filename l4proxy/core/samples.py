"""What measurements say, as they come in: one probe of a link, one check of an origin, what a route handle does. No state."""

from dataclasses import dataclass
from typing import Literal

from l4proxy.core.ids import AppName, Id32, LinkName, PopName

Refusal = Literal["negative", "below_light", "too_long"]
"""Why a sample cannot be: less than nothing, faster than light in fibre between the two places, longer than any path on Earth."""

CheckKind = Literal["tcp", "icmp", "app"]
"""How an origin was checked: by connecting, by a ping, or as its app asks."""


@dataclass(frozen=True, slots=True)
class LinkSample:
    """The result of one probe; the fields are those of `samples` in docs/engine-protocol.md."""

    link: LinkName
    sequence: int
    sent_ns: int
    """When the request left, wall clock of this PoP."""
    rtt_ns: int | None
    """Round trip without the time at the responder; None: lost."""
    received_ns: int | None = None
    """When the request arrived, wall clock of the peer."""
    peer_received: int | None = None
    """Requests that the peer has received on this link so far."""


@dataclass(frozen=True, slots=True)
class OriginSample:
    """The result of one check of an origin from this PoP."""

    app: AppName
    origin: str
    """As written in the app file."""
    rtt_ms: float | None
    """None: it did not answer."""
    failure: str | None = None
    kind: CheckKind = "tcp"


@dataclass(frozen=True, slots=True)
class HandleUse:
    """What the engine says of one route handle, once a second: which path it takes, and whether traffic did in the last 10 s."""

    peer: PopName
    policy: str
    active_path: Id32 | None
    is_in_use: bool
    is_alive: bool
    """Hellos over the active path are heard: it is watched 20 times a second."""
