"""Samples → what is known of links and origins. What that costs is decided in `cost`, what is chosen in `route`. Time is an argument.

Fast and slow are kept apart: whether a link is up turns on a run of samples (`link`), what routes are made of moves on evidence
(`level`, `loss`).

`light`    the least that is possible at all          `windows`  values and counts of the last seconds
`level`    the round trip that routes are made of: follows a shift at once, a spike not
`loss`     one way, by the peer's count, over four windows with their bounds
`transit`  jitter, and the steps of clocks            `one_way`  what parallel links of two PoPs differ by, each direction
`link`     one link: all of these, up or down         `own`      all links of one PoP
`origin`   one origin, checked by connecting or pinging
"""

from l4proxy.core.confidence import wilson
from l4proxy.core.estimate.light import (
    EARTH_RADIUS_KM,
    LIGHT_IN_FIBRE_KM_PER_MS,
    LOCATION_SLACK_MS,
    light_rtt_ms,
)
from l4proxy.core.estimate.link import DOWN_AFTER, UNKNOWN, UP_AFTER, LinkEstimate, LinkEstimator
from l4proxy.core.estimate.loss import LossWindow
from l4proxy.core.estimate.one_way import OneWayDifferences
from l4proxy.core.estimate.origin import ORIGIN_DOWN_AFTER, OriginEstimate, OriginEstimator
from l4proxy.core.estimate.own import OwnLinks

__all__ = [
    "DOWN_AFTER",
    "EARTH_RADIUS_KM",
    "LIGHT_IN_FIBRE_KM_PER_MS",
    "LOCATION_SLACK_MS",
    "ORIGIN_DOWN_AFTER",
    "UNKNOWN",
    "UP_AFTER",
    "LinkEstimate",
    "LinkEstimator",
    "LossWindow",
    "OneWayDifferences",
    "OriginEstimate",
    "OriginEstimator",
    "OwnLinks",
    "light_rtt_ms",
    "wilson",
]
