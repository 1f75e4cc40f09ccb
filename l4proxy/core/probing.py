"""Which link is probed how often, within a budget of bytes: a pure function of what each link is for and of what else is heard of it.

What comes of probes is `estimate`'s business, and sending them the engine's (`rust_ext/crates/proto/src/probe`), which asks again at once
after an answer that was missing or came back, so that a seldom probe says within two seconds more whether a link is dead.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from l4proxy.core.ids import LinkName

PROBE_BYTES = 2 * (48 + 8 + 40)
"""A request and its reply on the wire: 48 bytes each (docs/protocol.md section 7), UDP and IPv6; over IPv4 40 less."""

DEFAULT_BUDGET_BYTES_S = 60_000
"""312 probes a second: every link once a second in fleets of up to 100 PoPs with three links each. 330 PoPs × 3 links are swept for a
tenth of it, and with the hellos of 40 watched paths (2.5 Mbit/s) they stay below 3 Mbit/s a PoP."""

FAST_MS = 200
"""On links that carry traffic while nothing else is heard of them: five samples in the shortest window of loss, 1 s."""

STEADY_MS = 1_000
"""On links that a path is installed over, and on those that carry traffic and are heard by hellos 20 times a second besides:
three losses in a row are then a dead link after three seconds."""

SWEEP_MS = 30_000
"""On every link, at least: ten samples in the longest window of loss, 300 s. What the budget leaves over goes to these as well, up to
`STEADY_MS`."""

MAPPING_MS = 15_000
"""The same where a NAT must keep its mapping (docs/protocol.md section 7): they live 30 s and more, and one probe may be lost."""

LONGEST_MS = 300_000
"""Where the budget does not pay for a sweep in `SWEEP_MS`: beyond the longest window of loss nobody would call a link measured."""

FRESH_MS = 2_500
"""What was heard within this is still heard: the engine says once a second what it hears."""

USED_FOR_MS = 60_000
"""A link counts as carrying traffic for this long after it did, and as heard if it was then, so that flows that come and go do not change
the plan each time."""

STEPS = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0)
"""Intervals are rounded up to these times a power of ten (preferred numbers, ISO 3, R10), so that small changes make no new snapshot."""


class Use(IntEnum):
    """What a link is for, the least first."""

    NONE = 0
    INSTALLED = 1
    """A primary or backup path begins with it."""
    TRAFFIC = 2
    """A path that flows use begins with it."""


@dataclass(frozen=True, slots=True)
class ProbedLink:
    """An outgoing link as the plan sees it."""

    link: LinkName
    use: Use = Use.NONE
    passive_age_ms: float | None = None
    """Since something that is no probe was heard of it, a hello of a path over it, as of when it carried traffic last; None: never."""
    keeps_mapping: bool = False
    """One of its ends is behind NAT."""


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """Milliseconds between two probes of each link, and what that costs, bytes a second there and back."""

    intervals_ms: Mapping[LinkName, int]
    bytes_s: float
    is_over: bool
    """The least that can be done costs more than the budget."""


def plan_probes(links: Iterable[ProbedLink], budget_bytes_s: float) -> ProbePlan:
    """Return how often to probe. The budget is kept as long as it pays for one probe of each link in `LONGEST_MS`.

    First every link gets its sweep; then those with traffic get what they want, then those with a path installed, then the rest. The
    group that the budget does not suffice for shares what is left, equally, and nobody after it gets more than the sweep.
    """
    links = tuple(links)
    intervals = _sweep(links, budget_bytes_s)
    groups = (
        (
            [one.link for one in links if one.use == use and _is_fresh(one) == passive],
            _wanted_ms(use, passive),
        )
        for use in sorted(Use, reverse=True)
        for passive in (False, True)
    )
    for group, wanted_ms in groups:
        if not _raise(intervals, group, wanted_ms, budget_bytes_s):
            break
    cost = cost_bytes_s(intervals)
    return ProbePlan(intervals, cost, cost > budget_bytes_s)


def cost_bytes_s(intervals_ms: Mapping[LinkName, int]) -> float:
    """Return what probes at these intervals cost, bytes a second, requests and replies."""
    return sum(PROBE_BYTES * 1_000 / interval for interval in intervals_ms.values())


def least_budget_bytes_s(links: int, mappings: int) -> float:
    """Return the least budget that a PoP with so many links can keep, of which so many hold the mapping of a NAT."""
    return PROBE_BYTES * 1_000 * ((links - mappings) / LONGEST_MS + mappings / MAPPING_MS)


def round_up_ms(interval_ms: float) -> int:
    """Return the next interval that is not shorter, of the preferred numbers."""
    scale = 1
    while STEPS[-1] * scale < interval_ms:
        scale *= 10
    return next((round(step * scale) for step in STEPS if round(step * scale) >= interval_ms), 10 * scale)


def _is_fresh(link: ProbedLink) -> bool:
    return link.passive_age_ms is not None and link.passive_age_ms <= FRESH_MS


def _wanted_ms(use: Use, passive: bool) -> int:
    """What passes by itself takes the place of probes: a link that is heard gets as many as one that carries nothing, or only its sweep."""
    if use == Use.TRAFFIC:
        return STEADY_MS if passive else FAST_MS
    return SWEEP_MS if passive else STEADY_MS


def _sweep(links: tuple[ProbedLink, ...], budget_bytes_s: float) -> dict[LinkName, int]:
    """The least for every link: mappings are kept whatever it costs, the others share what is left of the budget."""
    kept = sum(one.keeps_mapping for one in links)
    others = len(links) - kept
    left_bytes_s = budget_bytes_s - kept * PROBE_BYTES * 1_000 / MAPPING_MS
    needed_ms = PROBE_BYTES * 1_000 * others / left_bytes_s if left_bytes_s > 0 else LONGEST_MS
    sweep_ms = SWEEP_MS if needed_ms <= SWEEP_MS else min(LONGEST_MS, round_up_ms(min(needed_ms, LONGEST_MS)))
    return {one.link: MAPPING_MS if one.keeps_mapping else sweep_ms for one in links}


def _raise(
    intervals: dict[LinkName, int], group: list[LinkName], wanted_ms: int, budget_bytes_s: float
) -> bool:
    """Probe a group as often as it wants, or as the rest of the budget pays for, never less often than before; whether it got all."""
    spent = cost_bytes_s(intervals)
    group = [link for link in group if intervals[link] > wanted_ms]
    while group:
        own = sum(PROBE_BYTES * 1_000 / intervals[link] for link in group)
        affordable = (budget_bytes_s - spent + own) / len(group)
        needed_ms = PROBE_BYTES * 1_000 / affordable if affordable > 0 else LONGEST_MS
        if needed_ms >= LONGEST_MS:
            return False
        interval_ms = wanted_ms if needed_ms <= wanted_ms else round_up_ms(needed_ms)
        slower = [link for link in group if intervals[link] > interval_ms]
        if len(slower) == len(group):
            for link in group:
                intervals[link] = interval_ms
            return interval_ms == wanted_ms
        # Those that are probed more often already, to keep a mapping, take no part; each round there are fewer.
        group = slower
        if not group:
            return False
    return True
