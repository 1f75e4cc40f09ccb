"""What the engine's traffic says of own links and of paths without a probe: load, round trip, loss. Bounded, no clock. Decides nothing."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.outcomes import Outcomes, PathReport

FRESH_NS = 10_000_000_000
"""What was not said again for so long is not so any more: a handle that carried nothing for 10 s is not in use."""

WEIGHT = 0.25
"""Of the newest second: half of a change is seen after two or three."""

MAX_PATHS = 4_096
"""Paths that are known at a time: more than forty each to a hundred peers."""

PathKey = tuple[PopName, tuple[LinkName, ...]]


@dataclass(frozen=True, slots=True)
class PathQuality:
    """What tunnel connections saw of a path in use. The round trip includes waiting in queues behind own traffic."""

    rtt_ms: float
    loss_ratio: float
    """Packets that QUIC declared lost, of those sent, smoothed over some seconds. 0 to 1."""
    bits_s_out: float
    bits_s_in: float
    packets: int
    """Sent in the latest second."""
    at_ns: int
    """When it was said last, wall clock."""


@dataclass(slots=True)
class Passive:
    """What is known now. `path_quality` and `link_load_bits_s` are for everybody to read."""

    path_quality: dict[PathKey, PathQuality] = field(default_factory=dict)
    link_load_bits_s: dict[LinkName, float] = field(default_factory=dict)
    full: int = 0
    """Paths that found the table full."""
    _load_ns: int = 0

    def handle_outcomes(self, now_ns: int, outcomes: Outcomes, own_links: Set[LinkName]) -> None:
        """Take a message of the engine. Links that are not this PoP's own any more are passed over."""
        if outcomes.elapsed_ms <= 0:
            return
        seconds = outcomes.elapsed_ms / 1e3
        self._load_ns = now_ns
        self.link_load_bits_s = {
            name: carried * 8 / seconds for name, carried in outcomes.links.items() if name in own_links
        }
        for (peer, links), reports in _by_path(outcomes.paths).items():
            self._note(now_ns, (peer, links), reports, seconds)

    def handle_time(self, now_ns: int) -> None:
        """Forget what is not so any more."""
        self.path_quality = {
            key: known for key, known in self.path_quality.items() if now_ns - known.at_ns <= FRESH_NS
        }
        if now_ns - self._load_ns > FRESH_NS:
            self.link_load_bits_s = {}

    def _note(self, now_ns: int, key: PathKey, reports: list[PathReport], seconds: float) -> None:
        before = self.path_quality.get(key)
        if before is None and len(self.path_quality) >= MAX_PATHS:
            self.full += 1
            return
        packets = sum(report.packets for report in reports)
        if packets == 0:
            return
        # What is lost of the packets of a second may be declared in the next.
        loss = min(1.0, sum(report.lost for report in reports) / packets)
        self.path_quality[key] = PathQuality(
            rtt_ms=sum(report.rtt_ms * report.packets for report in reports) / packets,
            loss_ratio=loss if before is None else before.loss_ratio + WEIGHT * (loss - before.loss_ratio),
            bits_s_out=sum(report.bytes_out for report in reports) * 8 / seconds,
            bits_s_in=sum(report.bytes_in for report in reports) * 8 / seconds,
            packets=packets,
            at_ns=now_ns,
        )


def _by_path(paths: tuple[PathReport, ...]) -> Mapping[PathKey, list[PathReport]]:
    """Handles that take the same path are one."""
    found: dict[PathKey, list[PathReport]] = {}
    for report in paths:
        found.setdefault((report.peer, report.links), []).append(report)
    return found
