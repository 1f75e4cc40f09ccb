"""Samples of one outgoing link → what is known of it: up or down, and the numbers that routes are made of.

The pieces stand in modules of their own; this joins them, refuses what cannot be, and says everything at once as a `LinkEstimate`.
"""

from collections import Counter
from dataclasses import dataclass, field

from l4proxy.core.estimate.level import LevelTracker
from l4proxy.core.estimate.light import LOCATION_SLACK_MS
from l4proxy.core.estimate.loss import LossCounter, LossWindow, for_routes
from l4proxy.core.estimate.transit import TransitTracker
from l4proxy.core.estimate.windows import ValueWindow
from l4proxy.core.samples import LinkSample, Refusal

S = 1_000_000_000

SRTT_WEIGHT = 1 / 8
"""RFC 6298 section 2.3: SRTT <- (1 - alpha) * SRTT + alpha * R' with alpha = 1/8."""

DOWN_AFTER = 3
"""Probes lost in a row: one is chance, two are a burst, three at the usual loss happen once in years."""

UP_AFTER = 3
"""Probes answered in a row before a link that was down is used again, so that one lucky probe moves nothing."""

RUN_NS = 1_500_000_000
"""And for how long, when probes are faster than one a second: a burst of loss lasts a time, not a number of probes (at 10 Hz three would be
missed some 300 times a day). Between the second and the third of three a second apart. Paths in use are left by hellos meanwhile."""

SILENT_NS = 3 * S
"""A link of which nothing was heard for this long, or for `SILENT_INTERVALS` of its probes, is down, whatever its last samples said."""

SILENT_INTERVALS = 3
"""A lost probe is a sample too, so it is the engine that is silent: three intervals are as many probes as a loss takes."""

WINDOW_NS = 300 * S
"""Least value and quantiles are those of five minutes, as the longest window of loss."""

MAX_WINDOW_SAMPLES = 2_048
"""Bound of the window: five minutes at 5 Hz are 1,500 samples."""

RECENT_NS = S
"""What leaves a window in this time changes no record: windows are minutes, records are compared by classes of loss."""

MAX_RTT_MS = 60_000.0
"""The engine gives a probe up after a second; a minute is no round trip on Earth but a wrong message."""

TAIL = 0.95


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """What is known of a link now. Times in ms, ratios 0 to 1. `age_ms` since anything was heard of it, None: never.

    `rtt_ms` is the slow one, of which routes are made: it follows a shift of level at once and a spike not. `rtt_ms_smoothed`,
    `rtt_ms_last` and `rtt_ms_p95` are what the probes say. `loss_ratio` is one way, over five minutes.
    """

    is_up: bool
    rtt_ms: float | None
    rtt_ms_min: float | None
    rtt_ms_last: float | None
    jitter_ms: float
    loss_ratio: float
    samples: int
    age_ms: float | None
    rtt_ms_smoothed: float | None = None
    rtt_ms_p95: float | None = None
    loss_ratio_upper: float | None = None
    """What routes are to be charged with (`loss.for_routes`); None: `loss_ratio` is that already, because another PoP said it."""
    loss_windows: tuple[LossWindow, ...] = ()
    """One-way loss of the last 1, 10, 60 and 300 s."""
    one_way_ms: float = 0.0
    """To be added to the round trip where a route is chosen for this direction alone (`one_way`)."""

    @property
    def route_loss_ratio(self) -> float:
        """One-way loss that a route is charged with, 0 to 1."""
        return self.loss_ratio if self.loss_ratio_upper is None else self.loss_ratio_upper

    @property
    def rtt_ms_there(self) -> float | None:
        """The round trip as this direction is to be judged: links of one pair differ in it by twice their times on the way there."""
        return None if self.rtt_ms is None else self.rtt_ms + self.one_way_ms


UNKNOWN = LinkEstimate(False, None, None, None, 0.0, 0.0, 0, None)
"""Of a link that was never measured."""


def _values() -> ValueWindow:
    return ValueWindow(WINDOW_NS, MAX_WINDOW_SAMPLES)


@dataclass(slots=True)
class LinkEstimator:
    """State of one outgoing link. `floor_ms` is the least RTT that is possible at all; smaller values are refused and counted."""

    floor_ms: float = 0.0
    interval_ns: int = S
    """Between two probes of it, as planned; `handle_interval` changes it."""
    is_up: bool = False
    samples: int = 0
    refused_by_reason: Counter[Refusal] = field(default_factory=Counter)
    rtt_ms_smoothed: float | None = None
    rtt_ms_last: float | None = None
    level: LevelTracker = field(default_factory=LevelTracker)
    transit: TransitTracker = field(default_factory=TransitTracker)
    loss: LossCounter = field(default_factory=LossCounter)
    _values: ValueWindow = field(default_factory=_values)
    _good: int = 0
    _lost: int = 0
    _run_since_ns: int = 0
    _was_down: bool = False
    _now_ns: int = 0
    _heard_at_ns: int | None = None
    _interval_since_ns: int = 0
    _recent: tuple[tuple[int, bool], int, LinkEstimate] | None = None

    @property
    def refused(self) -> int:
        """Samples that could not be, for whatever reason."""
        return self.refused_by_reason.total()

    @property
    def jitter_ms(self) -> float:
        """One-way jitter (RFC 3550), ms."""
        return self.transit.jitter_ms

    @property
    def rtt_ms(self) -> float | None:
        """The round trip that routes are made of, ms."""
        return self.level.level_ms

    @property
    def clock_steps(self) -> int:
        """Times that our clock or the peer's was set, as this link saw it."""
        return self.transit.steps

    @property
    def window_full(self) -> int:
        """Round trips that left the window before their time, because it was full."""
        return self._values.full

    @property
    def least_rtt_ns(self) -> int:
        """Least round trip of the window, ns; 0 before the first."""
        return round((self._values.least or 0.0) * 1e6)

    def handle_sample(self, now_ns: int, sample: LinkSample) -> bool:
        """Take one sample; impossible ones change nothing but their count. Whether a clock stepped since the one before."""
        now_ns = self._pass(now_ns)
        reason = self._why_impossible(sample)
        if reason is not None:
            self.refused_by_reason[reason] += 1
            return False
        self.samples += 1
        self._heard_at_ns = now_ns
        if sample.rtt_ns is None:
            self._on_lost(now_ns, sample)
            return False
        self._on_answer(now_ns, sample, sample.rtt_ns / 1e6)
        if sample.received_ns is None:
            return False
        return self.transit.handle_sample(now_ns, sample.received_ns - sample.sent_ns, sample.rtt_ns)

    def handle_heard(self, now_ns: int) -> None:
        """Something else has passed the link, of which no round trip is known: a hello of a path over it. It is not silent."""
        self._heard_at_ns = self._pass(now_ns)

    def handle_interval(self, now_ns: int, interval_ns: int) -> None:
        """It is probed at another interval from now on. It was not silent because it was probed less often before."""
        if interval_ns != self.interval_ns:
            self.interval_ns, self._interval_since_ns = interval_ns, self._pass(now_ns)

    def handle_time(self, now_ns: int) -> None:
        """Notice silence, and forget what is older than the window."""
        now_ns = self._pass(now_ns)
        self._values.forget(now_ns)
        self.loss.forget(now_ns)
        silent_ns = max(SILENT_NS, SILENT_INTERVALS * self.interval_ns)
        heard_at_ns = self._heard_at_ns
        if heard_at_ns is not None and now_ns - max(heard_at_ns, self._interval_since_ns) >= silent_ns:
            self._go_down()
            self._good = 0

    def estimate(self, now_ns: int, one_way_ms: float = 0.0) -> LinkEstimate:
        """Return what is known now."""
        now_ns = self._pass(now_ns)
        self._values.forget(now_ns)
        windows = self.loss.windows(now_ns)
        heard_at_ns = self._heard_at_ns
        rtt_ms = self.rtt_ms
        return LinkEstimate(
            is_up=self.is_up,
            rtt_ms=rtt_ms,
            rtt_ms_min=self._values.least,
            rtt_ms_last=self.rtt_ms_last,
            jitter_ms=self.jitter_ms,
            loss_ratio=windows[-1].ratio,
            samples=self.samples,
            age_ms=None if heard_at_ns is None else (now_ns - heard_at_ns) / 1e6,
            rtt_ms_smoothed=self.rtt_ms_smoothed,
            rtt_ms_p95=self._values.quantile(TAIL),
            loss_ratio_upper=for_routes(windows),
            loss_windows=windows,
            one_way_ms=0.0 if rtt_ms is None else max(one_way_ms, min(0.0, self.floor_ms - rtt_ms)),
        )

    def recent_estimate(self, now_ns: int) -> LinkEstimate:
        """Return what is known, as it was worked out last if nothing has come since and it is not older than `RECENT_NS`."""
        now_ns = self._pass(now_ns)
        key = (self.samples, self.is_up)
        recent = self._recent
        if recent is None or recent[0] != key or now_ns - recent[1] >= RECENT_NS:
            recent = self._recent = (key, now_ns, self.estimate(now_ns))
        return recent[2]

    def _pass(self, now_ns: int) -> int:
        """Time never goes back here, whatever the caller's does."""
        self._now_ns = max(self._now_ns, now_ns)
        return self._now_ns

    def _why_impossible(self, sample: LinkSample) -> Refusal | None:
        if sample.rtt_ns is None:
            return None
        rtt_ms = sample.rtt_ns / 1e6
        if rtt_ms < 0:
            return "negative"
        if rtt_ms < self.floor_ms - LOCATION_SLACK_MS:
            return "below_light"
        # Written so that what is no number is refused as well.
        return None if rtt_ms <= MAX_RTT_MS else "too_long"

    def _on_lost(self, now_ns: int, sample: LinkSample) -> None:
        if self._lost == 0:
            self._run_since_ns = now_ns
        self._good, self._lost = 0, self._lost + 1
        self.loss.handle_lost(now_ns, sample.sequence)
        if self._lost >= DOWN_AFTER and now_ns - self._run_since_ns >= RUN_NS:
            self._go_down()

    def _on_answer(self, now_ns: int, sample: LinkSample, rtt_ms: float) -> None:
        if self._good == 0:
            self._run_since_ns = now_ns
        self._good, self._lost = self._good + 1, 0
        self.loss.handle_answer(now_ns, sample.sequence, sample.peer_received)
        is_long_enough = not self._was_down or now_ns - self._run_since_ns >= RUN_NS
        if self._good >= UP_AFTER and is_long_enough and not self.is_up:
            self.is_up, self._was_down = True, False
            self.loss.forget_outage(now_ns, self._good)
        self.rtt_ms_last = rtt_ms
        smoothed = self.rtt_ms_smoothed
        self.rtt_ms_smoothed = rtt_ms if smoothed is None else smoothed + SRTT_WEIGHT * (rtt_ms - smoothed)
        self._values.add(now_ns, rtt_ms)
        self.level.handle_value(now_ns, rtt_ms)

    def _go_down(self) -> None:
        self._was_down = self._was_down or self.is_up
        self.is_up = False
