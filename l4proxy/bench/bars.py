"""How good a figure has to be, and whether it is. Pure: figures in, verdicts out. Smaller is better everywhere but for `at_least`."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

OURS = "l4proxy"
LOSS_THAT_COUNTS = 0.01
"""A peer that loses more is no measure for the others: what it drops it has not paid for."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One arm's values of one row, a value a repeat."""

    values: Sequence[float]
    machine: Sequence[float] = ()
    """The same of the whole machine, where it means something."""
    loss: Sequence[float] = ()
    """The share that was lost, where something can be."""

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)

    @property
    def loss_median(self) -> float:
        """The median of the loss; 0 where nothing can be lost."""
        return statistics.median(self.loss) if self.loss else 0.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A bound on our median: a multiple of somebody's, or with `of` "" an absolute value in the row's unit."""

    limit: float
    of: str
    """`best` (the best of the peers that are given), the name of an arm, `row:KEY` (our own figure there), or nothing."""
    stretch: bool = False
    """Wished for, not asked for."""
    at_least: bool = False

    @property
    def text(self) -> str:
        """How the bar is written."""
        sign = "≥" if self.at_least else "≤"
        if not self.of:
            return f"{sign} {self.limit:g}"
        name = {"best": "the best peer"}.get(self.of, self.of.removeprefix("row:"))
        return f"{sign} {self.limit:.2f} × {name}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a bar. `met` None: nothing to hold our figure against, `why` says what is missing."""

    bar: Bar
    ratio: float | None
    met: bool | None
    against: str = ""
    """Whose figure it was held against."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """A row's verdicts. `met` holds when every bar that could be judged is met, and is None when none could."""

    verdicts: Sequence[Verdict] = ()
    met: bool | None = None
    stretch_met: bool | None = None
    why: str = field(default="")


def best_peer(arms: Mapping[str, Figures], peers: Sequence[str]) -> str | None:
    """Return the peer with the lowest median among those that deliver what they are given; None without any."""
    fair = [name for name in peers if name in arms and arms[name].loss_median <= LOSS_THAT_COUNTS]
    return min(fair, key=lambda name: arms[name].median, default=None)


def judge(
    bars: Sequence[Bar],
    arms: Mapping[str, Figures],
    ours_elsewhere: Mapping[str, float],
    peers: Sequence[str] = (),
) -> Judged:
    """Hold our figure against every bar. `ours_elsewhere` has our medians of the other rows, `peers` whom `best` means."""
    if OURS not in arms:
        return Judged(why="l4proxy was not measured here")
    verdicts = [_verdict(bar, arms, ours_elsewhere, peers) for bar in bars]
    asked = [verdict.met for verdict in verdicts if not verdict.bar.stretch]
    wished = [verdict.met for verdict in verdicts if verdict.bar.stretch]
    why = "; ".join(dict.fromkeys(verdict.why for verdict in verdicts if verdict.why))
    return Judged(verdicts, _all(asked), _all(wished), why)


def _all(met: Sequence[bool | None]) -> bool | None:
    known = [one for one in met if one is not None]
    return all(known) if known else None


def _verdict(
    bar: Bar, arms: Mapping[str, Figures], ours_elsewhere: Mapping[str, float], peers: Sequence[str]
) -> Verdict:
    ours = arms[OURS].median
    if not bar.of:
        return Verdict(bar, None, ours >= bar.limit if bar.at_least else ours <= bar.limit)
    against = best_peer(arms, peers) if bar.of == "best" else bar.of
    if bar.of.startswith("row:"):
        other = ours_elsewhere.get(bar.of.removeprefix("row:"))
    else:
        other = arms[against].median if against is not None and against in arms else None
    if other is None or against is None:
        return Verdict(
            bar,
            None,
            None,
            against or "",
            f"{against} was not measured here" if against else "no peer was measured here",
        )
    if other <= 0:
        return Verdict(bar, None, None, against, f"{against} costs nothing that can be measured here")
    ratio = ours / other
    return Verdict(bar, ratio, ratio >= bar.limit if bar.at_least else ratio <= bar.limit, against)
