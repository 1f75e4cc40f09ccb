"""Jitter and loss of links by slices, and what a link costs with them. Loss counts as far as it cannot be chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l4proxy.core.app import TrafficClass
from l4proxy.core.routing.cost import cost_ms

FloatArray = NDArray[np.float64]

LOSS_PROBES = 300
"""What a slice's loss is taken to be counted from: ten minutes at a probe every two seconds."""

CERTAIN = 1.64
"""Deviations of a count that its mean is taken to be less by: 95 % of counts are not further above the truth."""

WEIGHT = 0.2
"""Of a new value, once there are many, as for levels of RTTs (`history`)."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Means of n links by the slices so far."""

    jitter_ms: FloatArray
    loss_ratio: FloatArray
    seen: NDArray[np.int32]

    @classmethod
    def of(cls, links: int) -> "Quality":
        """Return what is known of links that were never measured: no jitter, no loss."""
        return cls(np.zeros(links), np.zeros(links), np.zeros(links, np.int32))

    def observed(
        self, jitter_ms: FloatArray | None, loss_ratio: FloatArray | None, known: NDArray[np.bool_]
    ) -> "Quality":
        """Return what is known after one more slice. `known`: links that answered; NaN and None: none was told, which counts as none."""
        seen = self.seen + known.astype(np.int32)
        share = np.where(known, np.maximum(1.0 / np.maximum(seen, 1), WEIGHT), 0.0)

        def moved(before: FloatArray, values: FloatArray | None) -> FloatArray:
            return before if values is None else before + share * (np.nan_to_num(values.reshape(-1)) - before)

        return Quality(moved(self.jitter_ms, jitter_ms), moved(self.loss_ratio, loss_ratio), seen)

    def costs(self, rtt_ms: FloatArray, traffic: TrafficClass) -> FloatArray:
        """Return the cost of each link with these RTTs, in ms-equivalents; NaN where the RTT is."""
        probes = LOSS_PROBES * np.clip(self.seen, 1, 1 / WEIGHT)
        certain = np.maximum(0.0, self.loss_ratio - CERTAIN * np.sqrt(self.loss_ratio / probes))
        return cost_ms(traffic, rtt_ms, self.jitter_ms, certain)
