"""What a client's record means: round trips, loss, gaps, resets, between two moments. Pure."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

NS_PER_MS = 1e6


@dataclass(slots=True)
class FlowRecord:
    """Everything that happened on one flow of a client. Times are ns of CLOCK_MONOTONIC."""

    sent: dict[int, int] = field(default_factory=dict)
    """When each message was sent, by number."""
    received: dict[int, int] = field(default_factory=dict)
    """When its echo came first."""
    arrivals: list[int] = field(default_factory=list)
    """When anything came, in order: echoes, or bytes of a download."""
    duplicates: int = 0
    bytes_received: int = 0
    local_port: int | None = None
    ends: list[tuple[int, str]] = field(default_factory=list)
    """When and why it ended by itself: a reset, a close, bytes out of place. Empty: it never did."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a flow got between two moments."""

    sent: int
    received: int
    rtt_ms_p50: float | None
    rtt_ms_p99: float | None
    longest_gap_ms: float
    """Longest time in which nothing came."""
    resets: int

    @property
    def lost(self) -> int:
        """Messages sent whose echo never came."""
        return self.sent - self.received

    @property
    def loss_ratio(self) -> float:
        """Share of messages lost, there or back."""
        return self.lost / self.sent if self.sent else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the figures as the demo's report has them."""
        return {
            "sent": self.sent, "received": self.received, "lost": self.lost, "loss_ratio": round(self.loss_ratio, 4),
            "rtt_ms_p50": self.rtt_ms_p50, "rtt_ms_p99": self.rtt_ms_p99,
            "longest_gap_ms": self.longest_gap_ms, "resets": self.resets,
        }  # fmt: skip


def read(lines: Iterable[str]) -> dict[str, FlowRecord]:
    """Read a record by flow (`tcp`, `udp`, `bulk`). A last line that is cut short is left out."""
    flows: dict[str, FlowRecord] = {}
    for line in lines:
        if not line.endswith("\n"):
            break
        event = json.loads(line)
        flow = flows.setdefault(event["flow"], FlowRecord())
        _apply(flow, event)
    return flows


def _apply(flow: FlowRecord, event: dict[str, Any]) -> None:
    match event["event"]:
        case "open":
            flow.local_port = event["local_port"]
        case "sent":
            flow.sent[event["number"]] = event["sent_ns"]
        case "received":
            flow.arrivals.append(event["at_ns"])
            if event["number"] in flow.received:
                flow.duplicates += 1
            flow.received.setdefault(event["number"], event["at_ns"])
        case "bytes":
            flow.arrivals.append(event["at_ns"])
            flow.bytes_received = event["received"]
        case "ended":
            flow.ends.append((event["at_ns"], event["reason"]))
        case "corrupt":
            flow.ends.append(
                (event["at_ns"], f"message {event['number']} came instead of {event['expected']}")
            )


def figures(flow: FlowRecord, start_ns: int, end_ns: int) -> Figures:
    """Return what the messages sent from `start_ns` until before `end_ns` met, and the longest silence meanwhile."""
    sent = [number for number, at in flow.sent.items() if start_ns <= at < end_ns]
    rtts = sorted((flow.received[n] - flow.sent[n]) / NS_PER_MS for n in sent if n in flow.received)
    return Figures(
        sent=len(sent),
        received=len(rtts),
        rtt_ms_p50=percentile(rtts, 0.50),
        rtt_ms_p99=percentile(rtts, 0.99),
        longest_gap_ms=longest_gap_ms(flow.arrivals, start_ns, end_ns),
        resets=sum(start_ns <= at < end_ns for at, _ in flow.ends),
    )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest value that `share` of all values do not exceed (nearest rank), to 0.1; None without values."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1)


def longest_gap_ms(arrivals: Sequence[int], start_ns: int, end_ns: int) -> float:
    """Return the longest silence between the two moments, which count as its ends if nothing came nearer."""
    marks = [start_ns, *(at for at in arrivals if start_ns <= at < end_ns), end_ns]
    return round(max(b - a for a, b in pairwise(marks)) / NS_PER_MS, 1)
