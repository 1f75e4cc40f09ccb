"""Whether smart routing pays for one app and protocol: raw costs of what it takes, or would take, beside those of what `off` takes.

Nothing is chosen here, and no estimate of round trips is read: the values are those of `raw`, with the origin's behind both. Which paths
they were does not matter, so a proof is of smart routing itself, with all its changes.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from l4proxy.core.routing.guard import GuardRules, is_clearly_worse, refused
from l4proxy.core.routing.links import FloatArray
from l4proxy.core.routing.raw import INTERVALS

LEAST_PROOF = 30
"""Intervals before anything is proved, five minutes: a gain must outlast what fills a queue."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Medians and 95th percentiles of both, in ms of cost, over `intervals` of ten seconds. None while there is none."""

    intervals: int
    smart_ms_p50: float | None = None
    smart_ms_p95: float | None = None
    off_ms_p50: float | None = None
    off_ms_p95: float | None = None


@dataclass(slots=True)
class Proof:
    """The last quarter of an hour of one app and protocol."""

    is_proved: bool = False
    """From the interval on in which a gain is proved, until smart routing has done harm or gains nothing any more."""
    _smart_ms: deque[float] = field(default_factory=lambda: deque(maxlen=INTERVALS))
    _off_ms: deque[float] = field(default_factory=lambda: deque(maxlen=INTERVALS))

    def add(self, smart_ms: float, off_ms: float) -> None:
        """Take one interval; an interval in which one of both is not known (NaN) says nothing."""
        if not (np.isfinite(smart_ms) and np.isfinite(off_ms)):
            return
        self._smart_ms.append(smart_ms)
        self._off_ms.append(off_ms)
        if len(self._smart_ms) < LEAST_PROOF:
            return
        smart, off = np.array(self._smart_ms), np.array(self._off_ms)
        does_harm = bool(refused(smart[:, None], off[:, None], GuardRules())[0])
        if self.is_proved:
            gains = quantiles(off) - quantiles(smart)
            self.is_proved = not does_harm and bool((gains > 0).any())
        else:
            self.is_proved = not does_harm and bool(is_clearly_worse(quantiles(off), quantiles(smart)).any())

    def gain(self) -> Gain:
        """Return the figures."""
        if not self._smart_ms:
            return Gain(0)
        smart, off = (quantiles(np.array(values)).tolist() for values in (self._smart_ms, self._off_ms))
        return Gain(len(self._smart_ms), *smart, *off)


def quantiles(values: FloatArray) -> FloatArray:
    """Median and 95th percentile, by nearest rank."""
    found: FloatArray = np.quantile(values, (0.5, 0.95), method="inverted_cdf")
    return found
