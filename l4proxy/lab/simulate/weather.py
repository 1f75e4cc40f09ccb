"""What happens to links by itself: shifts of level, runs of loss. The figures are those of the RIPE Atlas traces.

A line is one link and its reverse: a shift changes the delay of one direction or of both, and a run of loss is of one direction.
"""

from dataclasses import dataclass
from math import exp, log
from random import Random

from l4proxy.core.ids import LinkName
from l4proxy.lab.simulate.network import Effect, Network
from l4proxy.lab.simulate.timeline import S, Timeline

SHIFTS_A_DAY = 1.1
"""Labelled changes of level a day and path, mean."""

SHIFT_MS_MEDIAN = 9.0
SHIFT_SPREAD = log(40.0 / SHIFT_MS_MEDIAN) / 1.2816
"""Sizes of shifts: median 9 ms, ninth decile 40 ms, as a lognormal (its ninth decile is 1.2816 deviations above the median)."""

RETURNS_RATIO = 0.5
"""Shifts that go back to the level before, so that levels do not wander off."""

RUNS_A_DAY = 2.0
"""Runs of loss a day and path: with the mean length (860 s) and loss below they make the measured mean of 0.19 %, most of it in few."""

RUN_S_LEAST, RUN_S_MOST, RUN_TAIL = 30.0, 50_400.0, 0.7
"""How long a run lasts: Pareto, 85 % below the 4 minutes between two samples of the traces, the longest 14 hours."""

RUN_LOSS_MEAN, RUN_LOSS_MOST = 0.09, 0.3


@dataclass(slots=True)
class Weather:
    """Keeps changing a network, by the seed. It never stops a link; what each link shows depends on nothing that happens to others."""

    network: Network
    timeline: Timeline
    seed: int

    def start(self) -> None:
        """Begin with every line at its usual level."""
        for name in self.network.lines:
            link = self.network.fleet.links[name]
            dice = Random(f"{self.seed} weather {name}")
            if name < link.reverse_name:
                self._next_shift(name, dice, [])
            self._next_run(name, dice, 0)

    def _next_shift(self, name: LinkName, dice: Random, before: list[float]) -> None:
        wait_ns = round(dice.expovariate(SHIFTS_A_DAY / 86_400) * S)
        self.timeline.at(self.timeline.now_ns + wait_ns, lambda: self._shift(name, dice, before))

    def _shift(self, name: LinkName, dice: Random, before: list[float]) -> None:
        line = self.network.lines[name]
        back = self.network.lines[self.network.fleet.links[name].reverse_name]
        round_trip_ms = SHIFT_MS_MEDIAN * exp(dice.gauss(0.0, SHIFT_SPREAD))
        if before and dice.random() < RETURNS_RATIO:
            here, there = before.pop(), before.pop()
        else:
            before[:] = [back.level_ms, line.level_ms]
            share = dice.choice((0.0, 0.5, 1.0))
            here = line.level_ms + round_trip_ms * share
            there = back.level_ms + round_trip_ms * (1 - share)
            if line.level_ms + back.level_ms > 4 * SHIFT_MS_MEDIAN:
                here, there = 0.0, 0.0
        line.level_ms, back.level_ms = here, there
        self._next_shift(name, dice, before)

    def _next_run(self, name: LinkName, dice: Random, number: int) -> None:
        wait_ns = round(dice.expovariate(RUNS_A_DAY / 86_400) * S)
        self.timeline.at(self.timeline.now_ns + wait_ns, lambda: self._run(name, dice, number))

    def _run(self, name: LinkName, dice: Random, number: int) -> None:
        lasts_s = min(RUN_S_MOST, RUN_S_LEAST * (1 - dice.random()) ** (-1 / RUN_TAIL))
        loss = min(RUN_LOSS_MOST, dice.expovariate(1 / RUN_LOSS_MEAN))
        key = f"weather {number}"
        self.network.put(key, [name], Effect(loss_ratio=loss))
        self.timeline.at(
            self.timeline.now_ns + round(lasts_s * S), lambda: self._end(key, name, dice, number)
        )

    def _end(self, key: str, name: LinkName, dice: Random, number: int) -> None:
        self.network.take(key, [name])
        self._next_run(name, dice, number + 1)
