"""How well the slow estimate follows labelled level shifts: recorded round trips in, detections and false moves out. No clock, no output.

The traces are `tests/data/ripe_atlas_labelled` (its README says where they come from and what a column means).
"""

import csv
import io
import lzma
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median

from l4proxy.core.estimate.level import RULES, LevelRules, LevelTracker

MINUTE_NS = 60_000_000_000

MIN_SHIFT_MS, MIN_SHIFT_RATIO = 2.0, 0.05
"""A label is a level shift if the medians before and after it differ by more than max(2 ms, 5 %): what a route is moved for."""

AROUND = 15
"""Samples before and after a label, an hour, that say from which level to which; fewer where the next label is nearer."""

MIN_STRETCH = 3
"""A level lasts for three answered samples, 12 minutes, on either side: what is over before is a spike, and is not to be followed."""

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
    level_ms: float = 0.0
    """The level after it; of labels 0."""


@dataclass(frozen=True, slots=True)
class Score:
    """What became of one trace."""

    name: str
    days: float
    shifts: int
    detected: int
    false_moves: int
    lasting: int
    """Of the false moves, those to a level near which the next three samples stayed: changes that the hand did not mark."""
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
    trace: Trace, min_ms: float = MIN_SHIFT_MS, min_ratio: float = MIN_SHIFT_RATIO, *, is_clear: bool = False
) -> list[Shift]:
    """Return the labels that are level shifts: the median changes by more than the least.

    `is_clear`: and by so much that the middle halves of the samples before and after do not overlap; else the noise may have changed.
    """
    bounds = [0, *labels(trace), len(trace.samples)]
    found = []
    for start, place, end in zip(bounds, bounds[1:], bounds[2:], strict=False):
        before = sorted(rtt for _, rtt, _ in trace.samples[max(start, place - AROUND) : place])
        after = sorted(rtt for _, rtt, _ in trace.samples[place : min(end, place + AROUND)])
        if min(len(before), len(after)) < MIN_STRETCH:
            continue
        change = median(after) - median(before)
        is_large = abs(change) > max(min_ms, min_ratio * median(before))
        if is_large and not (is_clear and _overlap(before, after)):
            found.append(Shift(place, change))
    return found


def _overlap(one: list[float], other: list[float]) -> bool:
    """Whether the middle halves of two ordered series have a value in common."""
    halves = [(values[len(values) // 4], values[-1 - len(values) // 4]) for values in (one, other)]
    return halves[0][0] <= halves[1][1] and halves[1][0] <= halves[0][1]


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
            found.append(Shift(place, tracker.level_ms - before, tracker.level_ms))
    return found, error / len(trace.samples), smoothed_error / len(trace.samples)


def score(trace: Trace, rules: LevelRules = RULES, wanted: Sequence[Shift] | None = None) -> Score:
    """Compare the moves with the labels. A shift is detected by a move of its sign within `IN_TIME` samples of the label, either way."""
    made, error, smoothed_error = moves(trace, rules)
    wanted = shifts(trace) if wanted is None else wanted
    detected = sum(
        any(abs(move.at - shift.at) <= IN_TIME and move.change_ms * shift.change_ms > 0 for move in made)
        for shift in wanted
    )
    marks = labels(trace)
    false = [move for move in made if all(abs(move.at - mark) > NEAR for mark in marks)]
    lasting = sum(_lasts(trace, move) for move in false)
    return Score(trace.name, trace.days, len(wanted), detected, len(false), lasting, error, smoothed_error)


def _lasts(trace: Trace, move: Shift) -> bool:
    following = [rtt for _, rtt, _ in trace.samples[move.at + 1 : move.at + 4]]
    return bool(following) and abs(median(following) - move.level_ms) < abs(move.change_ms) / 2
