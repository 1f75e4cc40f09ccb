"""The round trip that routes are made of: it follows a shift of level at once, drifts with the hours, and does not look at spikes.

A run is the latest samples, three at least and ten seconds at least. If two thirds of it, the newest among them, lie above or below what
was usual before, the level has shifted, and becomes the median of the later half of those. What was usual is a band, from the samples
before the run: without the tenth of them at either end, and with a margin of two thirds of the least shift that a route is moved for. So
a noisy link needs a larger shift than a quiet one, and nobody says how noisy. What delays comes on top: so when a noisy time ends,
nothing lies below what was usual, but all of the run in its lowest quarter; that is a shift too, if the level falls by the margin.
Between shifts the level moves as TCP smooths round trips, by samples that are cut off at the band: a spike of any height weighs no more
than the usual highest sample.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LevelRules:
    """The constants of the detector; `bench/level_shifts.py` shows what each does, halved and doubled."""

    run: int = 3
    """Samples of a run, at least: one is a spike, and of three the third decides."""
    run_ns: int = 10 * S
    """And for how long, when samples come faster: a queue that fills and drains within seconds is no shift. At one sample a second eight of
    eleven must agree, which spikes of one sample in ten do once in two weeks; two of three would move the level a thousand times a day."""
    share: float = 2 / 3
    """Of a run, that must lie on one side: two of three, because the first sample of a new level is often between both."""
    reference: int = 30
    """Samples that say what is usual: a minute at one sample in 2 s, and enough for a tail of one in ten to hold three."""
    reference_every_ns: int = 2 * S
    """At most one of them in this time, so that they span a minute whatever the rate of probes."""
    tail: float = 0.1
    """Share of samples that may usually lie above the band, and below it: spikes of one in ten."""
    calm: float = 0.25
    """Where all of a run must lie, from the lowest sample up, when a noisy time ends: three samples do so by chance once in 64, eleven
    never, and the level must fall by the margin."""
    margin_ms: float = 4 / 3
    """Two thirds of 2 ms, below which a route is not moved and no record sent (`records.SIGNIFICANT_MS`): a shift just above it is still
    told where samples vary by a third of it."""
    margin_ratio: float = 1 / 30
    """Two thirds of the 5 % that go with the 2 ms."""
    weight: float = 1 / 8
    """Of a sample in the smoothed level, one a second or fewer: RFC 6298's alpha."""
    weight_every_ns: int = S
    """Samples that come faster weigh less: together as one in this time."""
    settled: int = 5
    """Samples after a shift before their own spread is believed: fewer say little. Until then that of before holds, if it was wider."""


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
    _usual_now: tuple[float, float, float, float] | None = None
    """Of the reference; None: it has changed."""
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
        if values := self._shifted():
            self._shift(values)
            return True
        low, _, middle, high = self._usual()
        margin = self._margin(middle)
        weight = self.rules.weight * min(1.0, since_ns / self.rules.weight_every_ns)
        self.level_ms += weight * (min(max(rtt_ms, low - margin), high + margin) - self.level_ms)
        return False

    def _shorten_run(self) -> None:
        """Keep the shortest run that is long enough; what leaves it becomes part of what is usual."""
        rules, run = self.rules, self._run
        while len(run) > rules.run and run[-1][0] - run[1][0] >= rules.run_ns:
            at_ns, value = run.popleft()
            if self._reference_at_ns is None or at_ns - self._reference_at_ns >= rules.reference_every_ns:
                self._reference_at_ns = at_ns
                self._reference.append(value)
                self._usual_now = None
                if len(self._reference) > rules.reference:
                    self._reference.popleft()

    def _usual(self) -> tuple[float, float, float, float]:
        """Of the samples before the run: the band's lower end, the upper end of the lowest quarter, the middle, the band's upper end."""
        if self._usual_now is None:
            ordered = sorted(self._reference)
            last = len(ordered) - 1
            out = int(self.rules.tail * len(ordered))
            middle = (ordered[last // 2] + ordered[(last + 1) // 2]) / 2
            low, high = min(middle, ordered[min(out, last)]), max(middle, ordered[max(0, last - out)])
            if len(ordered) < self.rules.settled:
                low, high = (
                    min(low, middle - self._spread_before[0]),
                    max(high, middle + self._spread_before[1]),
                )
            quarter = ordered[min(last, int(self.rules.calm * len(ordered)))]
            self._usual_now = (low, quarter, middle, high)
        return self._usual_now

    def _margin(self, middle: float) -> float:
        return max(self.rules.margin_ms, self.rules.margin_ratio * middle)

    def _shifted(self) -> list[float]:
        """Return the samples of the run that make a new level; none if there is none."""
        rules, run = self.rules, self._run
        if len(run) < rules.run or run[-1][0] - run[0][0] < rules.run_ns:
            return []
        low, quarter, middle, high = self._usual()
        margin = self._margin(middle)
        newest = run[-1][1]
        if newest > high + margin:
            beyond = [value for _, value in run if value > high + margin]
        elif newest < low - margin:
            beyond = [value for _, value in run if value < low - margin]
        else:
            beyond = []
        if beyond and len(beyond) >= rules.share * len(run) - 1e-9:
            return beyond
        values = [value for _, value in run]
        if max(values) <= quarter and median(values) < middle - margin:
            return values
        return []

    def _shift(self, values: list[float]) -> None:
        low, _, middle, high = self._usual()
        self._spread_before = (middle - low, high - middle)
        # The later half: the first may still lie between both levels.
        self.level_ms = median(values[len(values) // 2 :])
        self.shifts += 1
        self._usual_now = None
        self._reference.clear()
        self._reference.extend(values[-self.rules.run :])
        # A new level is judged from the next sample on, by what is known of it: itself.
        while len(self._reference) < self.rules.run:
            self._reference.append(self.level_ms)
        self._reference_at_ns = self._run[-1][0]
        self._run.clear()
