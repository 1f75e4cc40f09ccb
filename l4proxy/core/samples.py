"""What measurements say, as they come in: one probe of a link, one check of an origin. No state."""

from dataclasses import dataclass

from l4proxy.core.ids import AppName, LinkName


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
