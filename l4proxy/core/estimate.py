"""Samples of one link → what is known of it: RTT, jitter, loss, up or down. What that costs is decided in `cost`.

Two speeds are kept apart: `is_up` turns on three samples, for detection; the numbers that routes are made of move slowly.
"""

from collections import deque
from dataclasses import dataclass, field
from math import asin, cos, radians, sin, sqrt

from l4proxy.core.samples import LinkSample

SRTT_WEIGHT = 1 / 8
"""RFC 6298 section 2.3: SRTT <- (1 - alpha) * SRTT + alpha * R' with alpha = 1/8."""

JITTER_WEIGHT = 1 / 16
"""RFC 3550 section 6.4.1: J += (|D| - J) / 16."""

DOWN_AFTER = 3
"""Probes lost in a row: one is chance, two are a burst, three at the usual loss happen once in years."""

UP_AFTER = 3
"""Probes answered in a row before a link that was down is used again, so that one lucky probe moves nothing."""

SILENT_NS = 3_000_000_000
"""A link from which no sample came for this long is down, whatever its last samples said."""

WINDOW_NS = 300_000_000_000
"""Loss and minimum are those of five minutes: at one probe a second they miss 2.5 % loss once in 2,000 windows, one minute once in 5."""

MAX_WINDOW_SAMPLES = 2_048
"""Bound of the window: five minutes at 5 Hz are 1,500 samples."""

LIGHT_IN_FIBRE_KM_PER_MS = 200.0
"""Two thirds of the speed of light in vacuum, in kilometres a millisecond."""

EARTH_RADIUS_KM = 6_371.0

LOCATION_SLACK_MS = 1.0
"""What coordinates may be wrong by: two PoPs in one city are often declared at one point."""


def light_rtt_ms(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the least possible RTT between two (latitude, longitude) in degrees, by the great circle in fibre."""
    (lat_a, lon_a), (lat_b, lon_b) = ((radians(x), radians(y)) for x, y in (a, b))
    half = sin((lat_b - lat_a) / 2) ** 2 + cos(lat_a) * cos(lat_b) * sin((lon_b - lon_a) / 2) ** 2
    return 2 * 2 * EARTH_RADIUS_KM * asin(min(1.0, sqrt(half))) / LIGHT_IN_FIBRE_KM_PER_MS


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """What is known of a link now. `loss_ratio` is one-way, 0 to 1; `age_ms` since the last sample, None: never."""

    is_up: bool
    rtt_ms: float | None
    rtt_ms_min: float | None
    rtt_ms_last: float | None
    jitter_ms: float
    loss_ratio: float
    samples: int
    age_ms: float | None


UNKNOWN = LinkEstimate(False, None, None, None, 0.0, 0.0, 0, None)
"""Of a link that was never measured."""


@dataclass(slots=True)
class LinkEstimator:
    """State of one outgoing link. `floor_ms` is the least RTT that is possible at all; smaller values are refused and counted."""

    floor_ms: float = 0.0
    is_up: bool = False
    samples: int = 0
    refused: int = 0
    rtt_ms: float | None = None
    rtt_ms_last: float | None = None
    jitter_ms: float = 0.0
    _good: int = 0
    _lost: int = 0
    _last_at_ns: int | None = None
    _last_transit_ns: int | None = None
    _window: deque[tuple[int, float | None, int, int | None]] = field(
        default_factory=lambda: deque(maxlen=MAX_WINDOW_SAMPLES)
    )

    def handle_sample(self, now_ns: int, sample: LinkSample) -> None:
        """Take one sample; impossible ones change nothing but `refused`."""
        rtt_ms = None if sample.rtt_ns is None else sample.rtt_ns / 1e6
        if rtt_ms is not None and (rtt_ms < 0 or rtt_ms < self.floor_ms - LOCATION_SLACK_MS):
            self.refused += 1
            return
        self.samples += 1
        self._last_at_ns = now_ns
        self._window.append((now_ns, rtt_ms, sample.sequence, sample.peer_received))
        self._forget(now_ns)
        if rtt_ms is None:
            self._good, self._lost = 0, self._lost + 1
            if self._lost >= DOWN_AFTER:
                self.is_up = False
            return
        self._good, self._lost = self._good + 1, 0
        if self._good >= UP_AFTER and not self.is_up:
            self.is_up = True
            self._forget_outage()
        self.rtt_ms_last = rtt_ms
        self.rtt_ms = rtt_ms if self.rtt_ms is None else self.rtt_ms + SRTT_WEIGHT * (rtt_ms - self.rtt_ms)
        if sample.received_ns is not None:
            self._on_transit(sample.received_ns - sample.sent_ns)

    def _on_transit(self, transit_ns: int) -> None:
        """RFC 3550: the clocks' offset is in both transit times and cancels in their difference."""
        if self._last_transit_ns is not None:
            difference_ms = abs(transit_ns - self._last_transit_ns) / 1e6
            if difference_ms < 10_000:  # a step of a clock, not jitter
                self.jitter_ms += JITTER_WEIGHT * (difference_ms - self.jitter_ms)
        self._last_transit_ns = transit_ns

    def handle_time(self, now_ns: int) -> None:
        """Notice silence, and forget what is older than the window."""
        self._forget(now_ns)
        if self._last_at_ns is not None and now_ns - self._last_at_ns >= SILENT_NS:
            self.is_up, self._good = False, 0

    def _forget(self, now_ns: int) -> None:
        while self._window and self._window[0][0] < now_ns - WINDOW_NS:
            self._window.popleft()

    def _forget_outage(self) -> None:
        """What was lost while the link was down was no loss of the link that is up again: the routes have avoided it then."""
        while len(self._window) > UP_AFTER:
            self._window.popleft()

    def estimate(self, now_ns: int) -> LinkEstimate:
        """Return what is known now."""
        answered = [rtt for _, rtt, _, _ in self._window if rtt is not None]
        return LinkEstimate(
            is_up=self.is_up,
            rtt_ms=self.rtt_ms,
            rtt_ms_min=min(answered, default=None),
            rtt_ms_last=self.rtt_ms_last,
            jitter_ms=self.jitter_ms,
            loss_ratio=self._loss_ratio(),
            samples=self.samples,
            age_ms=None if self._last_at_ns is None else max(0.0, (now_ns - self._last_at_ns) / 1e6),
        )

    def _loss_ratio(self) -> float:
        """Loss on the way there: what the peer's count says; without two answers, the share of probes that stayed without one."""
        counted = [(sequence, received) for _, _, sequence, received in self._window if received is not None]
        if len(counted) >= 2:
            sent = (counted[-1][0] - counted[0][0]) & 0xFFFF_FFFF
            got = (counted[-1][1] - counted[0][1]) & 0xFFFF_FFFF
            if 0 < sent < 1 << 20 and got <= sent:
                return 1 - got / sent
        lost = sum(rtt is None for _, rtt, _, _ in self._window)
        return lost / len(self._window) if self._window else 0.0
