"""How well the slow estimate follows labelled level shifts: recorded round trips in, detections and false moves out. No clock, no output.

The traces are `tests/data/ripe_atlas_labelled` (its README says where they come from and what a column means).
"""

import csv
import io
import lzma
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median

from l4proxy.core.estimate.level import RULES, LevelRules, LevelTracker

MINUTE_NS = 60_000_000_000

MIN_SHIFT_MS, MIN_SHIFT_RATIO = 2.0, 0.05
"""A label is a level shift if the medians of the stretches before and after it differ by more than max(2 ms, 5 %): what a route is moved for."""

MIN_STRETCH = 3
"""And if the new level lasts for three answered samples, 12 minutes: what is over before is a spike, and is not to be followed."""

IN_TIME = 2
"""Samples after the labelled one by which a shift must be detected."""

NEAR = 5
"""A move within so many samples of a label, 20 minutes, is not false."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One series: (ns, round trip in ms, whether a hand has marked it as the first of a new level). Lost samples are left out."""

    name: str
    samples: tuple[tuple[int, float, bool], ...]

    @property
    def days(self) -> float:
        """How long it lasts."""
        return (self.samples[-1][0] - self.samples[0][0]) / (1_440 * MINUTE_NS)


@dataclass(frozen=True, slots=True)
class Shift:
    """A labelled level shift: place of its first sample, and by how much the level changed, ms."""

    at: int
    change_ms: float


@dataclass(frozen=True, slots=True)
class Score:
    """What became of one trace."""

    name: str
    days: float
    shifts: int
    detected: int
    false_moves: int
    error_ms: float
    """Mean distance of the estimate before a sample from that sample."""
    smoothed_error_ms: float
    """The same of a smoothed round trip (weight 1/8), which follows everything slowly."""


def read_traces(path: Path) -> list[Trace]:
    """Read `traces.csv.xz`; a sample that is not labelled lost keeps its label, a lost one hands it to the next."""
    text = lzma.decompress(path.read_bytes()).decode()
    rows = csv.DictReader(io.StringIO(text), delimiter=";")
    return [Trace(name, tuple(_answered(found))) for name, found in groupby(rows, lambda row: row["trace"])]


def _answered(rows: Iterable[dict[str, str]]) -> Iterable[tuple[int, float, bool]]:
    pending = False
    for row in rows:
        pending = pending or row["cp"] == "1"
        if not row["rtt_ms"]:
            continue
        yield int(row["minute"]) * MINUTE_NS, float(row["rtt_ms"]), pending
        pending = False


def labels(trace: Trace) -> list[int]:
    """Return the places of all labels."""
    return [place for place, (_, _, is_label) in enumerate(trace.samples) if is_label and place > 0]


def shifts(
    trace: Trace, min_ms: float = MIN_SHIFT_MS, min_ratio: float = MIN_SHIFT_RATIO
) -> list[Shift]:
    """Return the labels that are level shifts."""
    bounds = [0, *labels(trace), len(trace.samples)]
    stretches = [[rtt for _, rtt, _ in trace.samples[start:end]] for start, end in pairwise(bounds)]
    found = []
    for place, (before, after) in zip(bounds[1:-1], pairwise(stretches), strict=True):
        change = median(after) - median(before)
        if len(after) >= MIN_STRETCH and abs(change) > max(min_ms, min_ratio * median(before)):
            found.append(Shift(place, change))
    return found


def moves(trace: Trace, rules: LevelRules = RULES) -> tuple[list[Shift], float, float]:
    """Run the tracker over a trace; return its moves, and the mean errors of its level and of a smoothed round trip."""
    tracker = LevelTracker(rules)
    found = []
    smoothed = trace.samples[0][1]
    error = smoothed_error = 0.0
    for place, (at_ns, rtt_ms, _) in enumerate(trace.samples):
        before = tracker.level_ms if tracker.level_ms is not None else rtt_ms
        error += abs(rtt_ms - before)
        smoothed_error += abs(rtt_ms - smoothed)
        smoothed += rules.weight * (rtt_ms - smoothed)
        if tracker.handle_value(at_ns, rtt_ms) and tracker.level_ms is not None:
            found.append(Shift(place, tracker.level_ms - before))
    return found, error / len(trace.samples), smoothed_error / len(trace.samples)


def score(trace: Trace, rules: LevelRules = RULES, wanted: Sequence[Shift] | None = None) -> Score:
    """Compare the moves with the labels. A shift is detected by a move of its sign from `IN_TIME` samples before the label to `IN_TIME` after."""
    made, error, smoothed_error = moves(trace, rules)
    wanted = shifts(trace) if wanted is None else wanted
    detected = sum(
        any(abs(move.at - shift.at) <= IN_TIME and move.change_ms * shift.change_ms > 0 for move in made)
        for shift in wanted
    )
    marks = labels(trace)
    false = sum(all(abs(move.at - mark) > NEAR for mark in marks) for move in made)
    return Score(trace.name, trace.days, len(wanted), detected, false, error, smoothed_error)
