"""Checks of one origin from this PoP → what is known of it: up or down, and how far it is. Each way of checking by itself.

A connect over TCP takes the same round trip as a ping and what the origin needs to accept; so the two are never mixed.
"""

from collections import Counter
from dataclasses import dataclass, field

from l4proxy.core.confidence import wilson
from l4proxy.core.estimate.level import LevelTracker
from l4proxy.core.estimate.windows import CountWindow, ValueWindow
from l4proxy.core.samples import CheckKind, OriginSample, Refusal

S = 1_000_000_000

ORIGIN_DOWN_AFTER = 2
"""Checks of an origin that fail in a row before it is avoided; it is still tried last."""

SMOOTHED_WEIGHT = 1 / 8
"""As RFC 6298 smooths round trips."""

JITTER_WEIGHT = 1 / 16
"""As RFC 3550 section 6.4.1 smooths differences; of whole round trips here, because an origin stamps nothing."""

WINDOW_NS = 600 * S
"""Ten minutes: 120 checks 5 s apart. Checks are rarer than probes of links, and origins move less."""

MAX_WINDOW_CHECKS = 1_024
"""Bound of the window; ten minutes at one check a second are 600."""

STALE_NS = 60 * S
"""Checks are made every 5 s; a kind of which nothing came for a minute while another did is made no more."""

MAX_RTT_MS = 60_000.0
"""The longest that a check may be told to wait."""

TAIL = 0.95

PREFERRED: tuple[CheckKind, ...] = ("tcp", "app", "icmp")
"""Which kind says how far an origin is: the connect is what flows wait for."""


@dataclass(frozen=True, slots=True)
class OriginEstimate:
    """What one kind of check says, times in ms. `failure_ratio` of the last ten minutes, 0 to 1, with its upper bound (95 %, Wilson)."""

    rtt_ms: float | None
    rtt_ms_smoothed: float | None
    rtt_ms_min: float | None
    rtt_ms_p95: float | None
    jitter_ms: float
    checks: int
    failure_ratio: float
    failure_ratio_upper: float
    age_ms: float


@dataclass(slots=True)
class _Series:
    """One kind of check."""

    level: LevelTracker = field(default_factory=LevelTracker)
    smoothed_ms: float | None = None
    last_ms: float | None = None
    jitter_ms: float = 0.0
    failed_in_a_row: int = 0
    last_at_ns: int = 0
    values: ValueWindow = field(default_factory=lambda: ValueWindow(WINDOW_NS, MAX_WINDOW_CHECKS))
    counts: CountWindow = field(default_factory=lambda: CountWindow(WINDOW_NS))

    def handle(self, now_ns: int, rtt_ms: float | None) -> None:
        self.last_at_ns = now_ns
        self.counts.add(now_ns, 1, int(rtt_ms is None))
        if rtt_ms is None:
            self.failed_in_a_row += 1
            return
        self.failed_in_a_row = 0
        if self.last_ms is not None:
            self.jitter_ms += JITTER_WEIGHT * (abs(rtt_ms - self.last_ms) - self.jitter_ms)
        smoothed = self.smoothed_ms
        self.smoothed_ms = rtt_ms if smoothed is None else smoothed + SMOOTHED_WEIGHT * (rtt_ms - smoothed)
        self.last_ms = rtt_ms
        self.values.add(now_ns, rtt_ms)
        self.level.handle_value(now_ns, rtt_ms)

    def estimate(self, now_ns: int) -> OriginEstimate:
        self.values.forget(now_ns)
        self.counts.forget(now_ns)
        sent, lost = self.counts.sent, self.counts.lost
        return OriginEstimate(
            rtt_ms=self.level.level_ms,
            rtt_ms_smoothed=self.smoothed_ms,
            rtt_ms_min=self.values.least,
            rtt_ms_p95=self.values.quantile(TAIL),
            jitter_ms=self.jitter_ms,
            checks=sent,
            failure_ratio=lost / sent if sent else 0.0,
            failure_ratio_upper=wilson(lost, sent)[1],
            age_ms=(now_ns - self.last_at_ns) / 1e6,
        )


@dataclass(slots=True)
class OriginEstimator:
    """What this PoP measured of one origin. An origin is down when the checks of the kind that flows resemble most fail."""

    failure: str | None = None
    """What the last check failed for; None: it did not."""
    refused_by_reason: Counter[Refusal] = field(default_factory=Counter)
    _series: dict[CheckKind, _Series] = field(default_factory=dict)
    _now_ns: int = 0

    def handle_sample(self, now_ns: int, sample: OriginSample) -> None:
        """Take the result of one check; an impossible one changes nothing but its count."""
        self._now_ns = max(self._now_ns, now_ns)
        rtt_ms = sample.rtt_ms
        if rtt_ms is not None and not 0 <= rtt_ms <= MAX_RTT_MS:
            self.refused_by_reason["negative" if rtt_ms < 0 else "too_long"] += 1
            return
        self.failure = sample.failure if rtt_ms is None else None
        self._series.setdefault(sample.kind, _Series()).handle(self._now_ns, rtt_ms)

    @property
    def kind(self) -> CheckKind | None:
        """The kind of check that speaks for the origin: the first in order of preference that was made of late; None: there was none."""
        return next(iter(self._fresh()), None)

    @property
    def rtt_ms(self) -> float | None:
        """How far it is, ms: the level of the kind that speaks for it, else of another; None: it never answered."""
        levels = (
            self._series[kind].level.level_ms for kind in (*self._fresh(), *PREFERRED) if kind in self._series
        )
        return next((level for level in levels if level is not None), None)

    def _fresh(self) -> list[CheckKind]:
        """Kinds of check within a window of the latest: one that the app is no longer checked by says nothing."""
        newest_ns = max((series.last_at_ns for series in self._series.values()), default=0)
        return [
            kind
            for kind in PREFERRED
            if kind in self._series and newest_ns - self._series[kind].last_at_ns <= STALE_NS
        ]

    @property
    def failures(self) -> int:
        """Checks in a row that failed."""
        kind = self.kind
        return 0 if kind is None else self._series[kind].failed_in_a_row

    @property
    def is_up(self) -> bool:
        """Whether it answers, as far as is known."""
        return self.failures < ORIGIN_DOWN_AFTER

    def estimates(self, now_ns: int) -> dict[CheckKind, OriginEstimate]:
        """Return what each kind of check says."""
        self._now_ns = max(self._now_ns, now_ns)
        return {kind: series.estimate(self._now_ns) for kind, series in sorted(self._series.items())}
