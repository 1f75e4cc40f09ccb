"""The round trip that routes are made of: it follows a shift of level at once, drifts with the hours, and does not look at spikes.

A run is the latest samples, three at least and a second and a half at least. If (nearly) all of it lies on one side of what was usual before, beyond
a margin, the level has shifted, and becomes the median of the run. What was usual is the band between two quantiles of the samples before
the run, each side by itself, because delay varies upwards: so a noisy link needs a larger shift than a quiet one, and nobody says how noisy.
Between shifts the level moves as TCP smooths round trips, by samples that are cut off at the band, so that a spike of any height weighs
no more than the usual highest sample.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LevelRules:
    """The constants of the detector; `bench/level_shifts.py` shows what each does, halved and doubled."""

    run: int = 3
    """Samples that must agree: one is a spike, two are a burst (as `DOWN_AFTER` and `UP_AFTER`)."""
    run_ns: int = 1_500_000_000
    """And for how long, when samples come faster than one a second: a queue that fills and drains within a second is no shift. Between the
    second and the third of three a second apart, so that those suffice however unevenly they come."""
    exceptions: float = 0.25
    """Share of a run that may lie elsewhere: none of 3, two of the 9 that a second and a half has at 5 Hz."""
    reference: int = 30
    """Samples that say what is usual: a minute at one sample in 2 s, and enough for a tail of one in ten to hold three."""
    reference_every_ns: int = 2 * S
    """At most one of them in this time, so that they span a minute whatever the rate of probes."""
    tail: float = 0.1
    """Share of samples on each side that is unusual. Three such in a row are chance once in 1,000 runs, without the margin."""
    margin_ms: float = 1.0
    """Half of what a route is moved for at all (max(5 %, 2 ms), `records.SIGNIFICANT_MS`): a shift is told by its nearer half."""
    margin_ratio: float = 0.025
    """Half of the 5 %."""
    weight: float = 1 / 8
    """Of a sample in the smoothed level, one a second or fewer: RFC 6298's alpha."""
    weight_every_ns: int = S
    """Samples that come faster weigh less: together as one in this time."""
    settled: int = 10
    """Samples after a shift before their own spread is believed: a tail of one in ten holds one. Until then, that of before if it was wider."""


RULES = LevelRules()


@dataclass(slots=True)
class LevelTracker:
    """Level of one series of round trips, in ms."""

    rules: LevelRules = RULES
    level_ms: float | None = None
    shifts: int = 0
    """How often the level was moved at once."""
    _run: deque[tuple[int, float]] = field(default_factory=deque)
    _reference: deque[float] = field(default_factory=deque)
    _reference_at_ns: int | None = None
    _last_at_ns: int | None = None
    _spread_before: tuple[float, float] = (0.0, 0.0)

    def handle_value(self, now_ns: int, rtt_ms: float) -> bool:
        """Take one sample, finite; `now_ns` never goes back. Whether the level shifted."""
        since_ns = 0 if self._last_at_ns is None else now_ns - self._last_at_ns
        self._last_at_ns = now_ns
        self._run.append((now_ns, rtt_ms))
        self._shorten_run()
        if self.level_ms is None or len(self._reference) < self.rules.run:
            self.level_ms = median(value for _, value in (*self._run, *((0, v) for v in self._reference)))
            return False
        low, high = self._band()
        if self._has_shifted(low, high):
            self._shift(low, high)
            return True
        weight = self.rules.weight * min(1.0, since_ns / self.rules.weight_every_ns)
        self.level_ms += weight * (min(max(rtt_ms, low), high) - self.level_ms)
        return False

    def _shorten_run(self) -> None:
        """Keep the shortest run that is long enough; what leaves it becomes part of what is usual."""
        rules, run = self.rules, self._run
        while len(run) > rules.run and run[-1][0] - run[1][0] >= rules.run_ns:
            at_ns, value = run.popleft()
            if self._reference_at_ns is None or at_ns - self._reference_at_ns >= rules.reference_every_ns:
                self._reference_at_ns = at_ns
                self._reference.append(value)
                if len(self._reference) > rules.reference:
                    self._reference.popleft()

    def _band(self) -> tuple[float, float]:
        """What is usual: from one tail to the other, around the middle, with the margin."""
        assert self.level_ms is not None
        ordered = sorted(self._reference)
        out = int(self.rules.tail * len(ordered))
        low, middle, high = ordered[out], median(ordered), ordered[-1 - out]
        if len(ordered) < self.rules.settled:
            low, high = min(low, middle - self._spread_before[0]), max(high, middle + self._spread_before[1])
        margin = max(self.rules.margin_ms, self.rules.margin_ratio * middle)
        return low - margin, high + margin

    def _has_shifted(self, low: float, high: float) -> bool:
        rules, run = self.rules, self._run
        if len(run) < rules.run or run[-1][0] - run[0][0] < rules.run_ns:
            return False
        may_differ = int(rules.exceptions * len(run))
        above = sum(value > high for _, value in run)
        below = sum(value < low for _, value in run)
        return max(above, below) >= len(run) - may_differ

    def _shift(self, low: float, high: float) -> None:
        middle = median(self._reference)
        margin = max(self.rules.margin_ms, self.rules.margin_ratio * middle)
        self._spread_before = (middle - low - margin, high - margin - middle)
        values = [value for _, value in self._run]
        self.level_ms = median(values)
        self.shifts += 1
        self._reference.clear()
        self._reference.extend(values[-self.rules.run :])
        self._reference_at_ns = self._run[-1][0]
        self._run.clear()
