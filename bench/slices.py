"""Sequences of slices for bench/routing.py: recorded ones, traces of RIPE Atlas laid over a matrix, several kinds of made-up noise. Seeded.

A fleet that is made up stands in a few towns of the globe; its pairs go detours of log-normal length, and an eighth of them long ones.
What is laid over it is meant to differ in kind, not to be likely: a rule that is good on one of them alone was tuned to it.
"""

import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l4proxy.config.slices import read_slices
from l4proxy.core.replay_policies import Slice

Matrix = NDArray[np.float64]
ROOT = Path(__file__).parent.parent
RUNS = ROOT / "l4proxy/lab/data/slices"
MATRIX = ROOT / "l4proxy/lab/data/pairs.csv"
TRACES = ROOT / "tests/data/ripe_atlas_labelled/traces.csv.xz"
SLICES = 18
SAMPLE_S, INTERVAL_S = 240, 600


def recorded() -> list[Slice]:
    """The four runs of one hosting provider, 10 to 30 minutes apart."""
    return list(read_slices(sorted(RUNS.glob("*.csv"))).slices())


def lossy_pairs() -> NDArray[np.bool_]:
    """Pairs between India and Los Angeles or Sydney, of the recorded runs, by their numbers."""
    pops = read_slices(sorted(RUNS.glob("*.csv"))).pops
    india, far = [[pop in names for pop in pops] for names in (("blr", "bom", "del"), ("lax", "syd"))]
    one_way = np.outer(india, far)
    return (one_way | one_way.T).reshape(-1)


def still(count: int = 4) -> list[Slice]:
    """One matrix that never changes."""
    (only,) = read_slices([MATRIX]).slices()
    return [only] * count


def traced(count: int, seed: int) -> list[Slice]:
    """A measured matrix, on each pair the residuals of a recorded trace from a random moment: noise, spikes and shifts as they were."""
    (base,) = read_slices([MATRIX]).slices()
    dice = np.random.default_rng(seed)
    residuals = [trace - np.nanpercentile(trace, 10) for trace in _traces()]
    n = len(base.rtt_ms)
    series = np.empty((count, n, n))
    for a in range(n):
        for b in range(a + 1, n):
            residual = residuals[dice.integers(len(residuals))]
            at = dice.integers(len(residual)) + np.arange(count) * INTERVAL_S // SAMPLE_S
            values = residual[at % len(residual)]
            own = 1 + 0.002 * dice.standard_normal((2, count))
            series[:, a, b] = (base.rtt_ms[a, b] + values) * own[0]
            series[:, b, a] = (base.rtt_ms[b, a] + values) * own[1]
    return [_slice(matrix) for matrix in series]


def _traces() -> list[NDArray[np.float64]]:
    found: dict[str, list[float]] = {}
    with lzma.open(TRACES, "rt") as text:
        next(text)
        for line in text:
            name, _, rtt_ms, _ = line.split(";")
            found.setdefault(name, []).append(float(rtt_ms) if rtt_ms else np.nan)
    return [np.array(values) for values in found.values()]


def world(pops: int, seed: int, spread: float) -> Matrix:
    """RTTs between PoPs in towns of the globe; pairs go detours whose logarithm has this deviation."""
    dice = np.random.default_rng(seed)
    towns = max(5, pops // 8)
    places = np.c_[np.degrees(np.arcsin(dice.uniform(-0.6, 0.9, towns))), dice.uniform(-180, 180, towns)]
    town = dice.choice(towns, pops, p=dice.dirichlet(np.full(towns, 0.7)))
    latitude, longitude = np.radians(places[town] + dice.normal(0, 3, (pops, 2))).T
    half = np.sin((latitude[:, None] - latitude) / 2) ** 2
    half += np.cos(latitude[:, None]) * np.cos(latitude) * np.sin((longitude[:, None] - longitude) / 2) ** 2
    km = 2 * 6371 * np.arcsin(np.sqrt(np.minimum(1, half)))
    detour = _same(np.maximum(1, 1.1 * np.exp(dice.normal(0, spread, (pops, pops)))))
    is_long = _same(dice.random((pops, pops))) < 0.12
    detour *= np.where(is_long, 1 + _same(dice.exponential(0.8, (pops, pops))), 1)
    access = dice.exponential(1.0, pops)
    return km / 100 * 1.35 * detour + access[:, None] + access + 0.5


def _same(values: Matrix) -> Matrix:
    """Both directions of a pair have one value."""
    upper = np.triu(values, 1)
    return upper + upper.T


def noisy(
    base: Matrix,
    count: int,
    seed: int,
    *,
    sample: float = 0.005,
    wild: float = 0.0,
    spike_share: float = 0.0,
    spike_ratio: float = 0.3,
    busy_share: float = 0.0,
    busy_ms: float = 5.0,
    shift_share: float = 0.0,
    daily_ratio: float = 0.0,
) -> list[Slice]:
    """Lay noise over a matrix.

    `sample`: deviation of the logarithm of each value. `wild`: the same, upwards only, times a factor of the pair that is 1 in the median
    and has heavy tails. `spike_share`, `spike_ratio`: how often a pair is much slower, by a Pareto-distributed multiple of this ratio; a
    few pairs have most. `busy_share`, `busy_ms`: how often a PoP is busy, which all its pairs feel. `shift_share`: how often a pair's
    level moves for good, 9 ms in the median. `daily_ratio`: swing of a third of the pairs over 12 slices.
    """
    dice = np.random.default_rng(seed)
    n = len(base)
    factor = _same(np.exp(dice.normal(0, 1, (n, n))))
    chance = _same(dice.beta(0.3, 0.3 / spike_share - 0.3, (n, n))) if spike_share else np.zeros((n, n))
    busy = busy_ms * dice.exponential(1, n) ** 2
    shift, phase, swings = np.zeros((n, n)), dice.uniform(0, 2 * np.pi, n), _same(dice.random((n, n))) < 1 / 3
    slices = []
    for at in range(count):
        matrix = base * np.exp(dice.normal(0, sample, (n, n)))
        matrix *= np.exp(wild * factor * np.abs(dice.normal(0, 1, (n, n))))
        matrix += np.where(dice.random((n, n)) < chance, spike_ratio * base * dice.pareto(1.5, (n, n)), 0)
        now = np.where(dice.random(n) < busy_share, busy * dice.exponential(1, n), 0)
        matrix += now[:, None] + now
        moved = _same(dice.random((n, n))) < shift_share
        size = _same(np.exp(dice.normal(np.log(9), 1.1, (n, n))))
        shift = np.where(moved, np.where(shift > 0, 0, size), shift)
        swing = daily_ratio * (1 + np.sin(2 * np.pi * at / 12 + phase)) / 2
        matrix += shift + np.where(swings, base * (swing[:, None] + swing) / 2, 0)
        slices.append(_slice(np.minimum(matrix, 4000)))
    return slices


def _slice(matrix: Matrix) -> Slice:
    rtt_ms = matrix.copy()
    np.fill_diagonal(rtt_ms, np.nan)
    return Slice(rtt_ms)


# The four named `planetlab-…` were drawn until the simple policies did on them what they are known to do on the PlanetLab matrices
# (last slice 3.1 % regret with 31 % changes, EWMA 2.4 % with 10 %, with hysteresis 2.7 % with 1.4 %, direct 14.5 %): four kinds of noise
# that are alike by those figures and by nothing else.
MADE: dict[str, Callable[[], list[Slice]]] = {
    "planetlab-wild": lambda: noisy(
        world(150, 1, 0.05),
        SLICES,
        21,
        sample=0.0009,
        wild=0.0188,
        spike_share=0.056,
        spike_ratio=0.176,
        busy_share=0.064,
        busy_ms=8.3,
    ),
    "planetlab-spikes": lambda: noisy(
        world(150, 2, 0.05),
        SLICES,
        22,
        sample=0.0074,
        wild=0.028,
        spike_share=0.021,
        spike_ratio=0.44,
        busy_share=0.078,
        busy_ms=4.4,
    ),
    "planetlab-many-spikes": lambda: noisy(
        world(150, 5, 0.1),
        SLICES,
        23,
        sample=0.0023,
        wild=0.0266,
        spike_share=0.086,
        spike_ratio=0.059,
        busy_share=0.078,
        busy_ms=10.6,
    ),
    "planetlab-busy": lambda: noisy(
        world(150, 1, 0.05),
        SLICES,
        24,
        sample=0.0048,
        wild=0.005,
        spike_share=0.069,
        spike_ratio=0.04,
        busy_share=0.267,
        busy_ms=4.9,
        shift_share=0.0034,
    ),
    "log-normal": lambda: noisy(world(90, 4, 0.1), SLICES, 31, sample=0.03),
    "spikes": lambda: noisy(world(90, 4, 0.1), SLICES, 32, spike_share=0.02, spike_ratio=1.0),
    "shifts": lambda: noisy(world(90, 4, 0.1), SLICES, 33, shift_share=0.01),
    "daily": lambda: noisy(world(90, 4, 0.1), SLICES, 34, daily_ratio=0.1),
}
"""Sequences by name."""
