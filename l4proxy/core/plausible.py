"""How far what others say of their links is believed: not below light in fibre, and not below what the PoP at the other end measures.

A link is measured by the PoP that it leaves. The link back over the same two transits is measured by the other end, and its round trip is
the same one: there and back. So a PoP cannot make itself near by saying so. Loss and jitter are one-way and have no second witness, a PoP
may always say that it is far, and whether a link is up is its owner's word: what a path is worth in the end its hellos tell. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from l4proxy.core.bus import LinkState, Record
from l4proxy.core.estimate import LOCATION_SLACK_MS, light_rtt_ms
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.records import SIGNIFICANT_MS, SIGNIFICANT_RATIO
from l4proxy.core.topology import Fleet

THRESHOLDS = 2
"""Each end says a new value when its own has moved by more than the threshold of records, so two honest ends may be one threshold apart
each way; the other end's jitter, of which a smoothed round trip keeps a part, comes on top."""

REPORT_AFTER_NS = 60_000_000_000
"""A disagreement that lasts so long is reported. Honest ends agree again within 40 s of any change: five times the eight samples after
which a smoothed round trip has followed by two thirds."""

Reason = Literal["below_light", "below_neighbour"]


def allowed_difference_ms(rtt_ms: float, jitter_ms: float) -> float:
    """Return by how much an honest end may be below the other, which says this round trip and jitter."""
    return THRESHOLDS * max(SIGNIFICANT_MS, SIGNIFICANT_RATIO * rtt_ms) + jitter_ms


def judged(
    claim: LinkState, floor_ms: float, back: LinkState | None
) -> tuple[LinkState | None, Reason | None]:
    """Return what counts of a claim, None: nothing; and what is wrong with it. `back`: what the other end says of the link back."""
    if not claim.is_up and claim.rtt_ms <= 0:
        return claim, None
    if claim.rtt_ms <= 0 or claim.rtt_ms < floor_ms - LOCATION_SLACK_MS:
        return None, "below_light"
    if back is None or back.rtt_ms - claim.rtt_ms <= allowed_difference_ms(back.rtt_ms, back.jitter_ms):
        return claim, None
    least_ms = max(claim.rtt_ms_min, min(back.rtt_ms_min, back.rtt_ms))
    return replace(claim, rtt_ms=back.rtt_ms, rtt_ms_min=least_ms), "below_neighbour"


@dataclass(frozen=True, slots=True)
class Doubt:
    """A claim that is not believed."""

    link: LinkName
    owner: PopName
    other: PopName
    """The PoP at the other end."""
    reason: Reason
    since_ns: int


@dataclass(slots=True)
class Claims:
    """What counts of all that others say of the links of a fleet; kept up with the records, of which only what changed is judged anew."""

    fleet: Fleet
    doubts: dict[LinkName, Doubt] = field(default_factory=dict)
    _seen: dict[PopName, Record] = field(default_factory=dict)
    _claimed: dict[PopName, dict[LinkName, LinkState]] = field(default_factory=dict)
    _counted: dict[LinkName, LinkState] = field(default_factory=dict)
    _floors: dict[LinkName, float] = field(default_factory=dict)

    def follow(
        self,
        now_ns: int,
        own: PopName,
        measured: Mapping[LinkName, LinkState],
        records: Mapping[PopName, Record],
    ) -> dict[LinkName, LinkState]:
        """Return what counts of the links of others. `measured`: what this PoP itself finds of its own links."""
        changed = self._changed(own, measured)
        for owner in [owner for owner in self._seen if owner not in records]:
            del self._seen[owner]
            changed |= self._claimed.pop(owner).keys()
        for owner, record in records.items():
            if owner != own and self._seen.get(owner) is not record:
                self._seen[owner] = record
                changed |= self._changed(owner, {state.link: state for state in record.links})
        links = self.fleet.links
        again = changed | {links[name].reverse_name for name in changed if name in links}
        for name in again:
            if name in links and links[name].from_pop != own:
                self._judge(now_ns, name)
        return dict(self._counted)

    def _changed(self, owner: PopName, said: Mapping[LinkName, LinkState]) -> set[LinkName]:
        before = self._claimed.get(owner, {})
        self._claimed[owner] = dict(said)
        # A delta leaves the states that it does not change as they are.
        changed = {name for name, state in said.items() if before.get(name) is not state}
        return changed | (before.keys() - said.keys())

    def _judge(self, now_ns: int, name: LinkName) -> None:
        link = self.fleet.links[name]
        claim = self._claimed.get(link.from_pop, {}).get(name)
        counted, reason = None, None
        if claim is not None:
            back = self._claimed.get(link.to_pop, {}).get(link.reverse_name)
            counted, reason = judged(claim, self._floor_ms(name), back)
        if counted is None:
            self._counted.pop(name, None)
        else:
            self._counted[name] = counted
        if reason is None:
            self.doubts.pop(name, None)
        elif name not in self.doubts or self.doubts[name].reason != reason:
            self.doubts[name] = Doubt(name, link.from_pop, link.to_pop, reason, now_ns)

    def _floor_ms(self, name: LinkName) -> float:
        if name not in self._floors:
            link = self.fleet.links[name]
            here, there = (self.fleet.pops[pop].location for pop in (link.from_pop, link.to_pop))
            self._floors[name] = light_rtt_ms(here, there) if here and there else 0.0
        return self._floors[name]

    def suspects(self, now_ns: int) -> list[tuple[PopName, tuple[PopName, ...]]]:
        """Return who is likely to be wrong, and whom each disagrees with, the one with most first; () where it is light that disagrees.

        Of two that disagree one lies. Who disagrees with more PoPs than each of them does is it; of two alone the one that says less.
        """
        lasting = [doubt for doubt in self.doubts.values() if now_ns - doubt.since_ns >= REPORT_AFTER_NS]
        against_light = {doubt.owner for doubt in lasting if doubt.reason == "below_light"}
        found: list[tuple[PopName, tuple[PopName, ...]]] = [(pop, ()) for pop in sorted(against_light)]
        pairs = {
            (doubt.owner, doubt.other) for doubt in lasting if not against_light & {doubt.owner, doubt.other}
        }
        while pairs:
            others: dict[PopName, set[PopName]] = {}
            for owner, other in pairs:
                others.setdefault(owner, set()).add(other)
                others.setdefault(other, set()).add(owner)
            below = {owner for owner, _ in pairs}
            worst = min(others, key=lambda pop: (-len(others[pop]), pop not in below, pop))
            found.append((worst, tuple(sorted(others[worst]))))
            pairs = {pair for pair in pairs if worst not in pair}
        return found
