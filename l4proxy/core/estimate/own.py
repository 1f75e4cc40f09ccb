"""All outgoing links of one PoP: which sample belongs to which estimator, and what links to one peer say of each other."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from l4proxy.core.estimate.light import light_rtt_ms
from l4proxy.core.estimate.link import LinkEstimate, LinkEstimator
from l4proxy.core.estimate.one_way import OneWayDifferences
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.samples import LinkSample
from l4proxy.core.topology import Fleet, Link


@dataclass(slots=True)
class OwnLinks:
    """Estimators of the links that begin here, in name order."""

    estimators: dict[LinkName, LinkEstimator] = field(default_factory=dict)
    unknown: int = 0
    """Samples of links that do not begin here."""
    newest_ms: dict[LinkName, float] = field(default_factory=dict)
    """The newest round trip of each link as it was measured, since `take_newest`."""
    _peers: dict[LinkName, PopName] = field(default_factory=dict)
    _pairs: dict[PopName, OneWayDifferences] = field(default_factory=dict)
    """Only of peers that two links or more lead to: one alone has nothing to be compared with."""

    def handle_fleet(self, pop: PopName, fleet: Fleet) -> None:
        """Follow the fleet file: what stays keeps what is known of it."""
        links = {link.name: link for link in fleet.links_from(pop)}
        self.estimators = {
            name: self.estimators.get(name) or _estimator(fleet, link) for name, link in links.items()
        }
        self._peers = {name: link.to_pop for name, link in links.items()}
        parallel = {
            peer: frozenset(name for name, link in links.items() if link.to_pop == peer)
            for peer in sorted(set(self._peers.values()))
        }
        self._pairs = {
            peer: self._pairs.get(peer) or OneWayDifferences()
            for peer, names in parallel.items()
            if len(names) > 1
        }
        for peer, pair in self._pairs.items():
            pair.keep(parallel[peer])

    def handle_samples(self, now_ns: int, samples: Iterable[LinkSample]) -> bool:
        """Take results of probes; whether a link came up or went down."""
        has_turned = False
        for sample in samples:
            estimator = self.estimators.get(sample.link)
            if estimator is None:
                self.unknown += 1
                continue
            was_up = estimator.is_up
            self._handle_sample(now_ns, estimator, sample)
            has_turned = has_turned or estimator.is_up != was_up
        return has_turned

    def _handle_sample(self, now_ns: int, estimator: LinkEstimator, sample: LinkSample) -> None:
        shifts, refused = estimator.level.shifts, estimator.refused
        stepped = estimator.handle_sample(now_ns, sample)
        if sample.rtt_ns is not None and estimator.refused == refused:
            self.newest_ms[sample.link] = sample.rtt_ns / 1e6
        pair = self._pairs.get(self._peers[sample.link])
        if pair is None or estimator.refused != refused:
            return
        if stepped:
            pair.handle_step()
        if estimator.level.shifts != shifts:
            pair.handle_shift(sample.link)
        if sample.rtt_ns is not None and sample.received_ns is not None:
            least_ns = estimator.least_rtt_ns
            transit_ns = sample.received_ns - sample.sent_ns
            pair.handle_sample(now_ns, sample.link, transit_ns, sample.rtt_ns, least_ns)

    def take_newest(self) -> dict[LinkName, float]:
        """Return the newest round trip of each link that had one since this was asked last."""
        newest, self.newest_ms = self.newest_ms, {}
        return newest

    def handle_heard(self, now_ns: int, link: LinkName) -> None:
        """Something that is no probe has passed a link."""
        if link in self.estimators:
            self.estimators[link].handle_heard(now_ns)

    def handle_time(self, now_ns: int) -> None:
        """Notice silence."""
        for estimator in self.estimators.values():
            estimator.handle_time(now_ns)

    def estimates(self, now_ns: int) -> dict[LinkName, LinkEstimate]:
        """Return what is known of every link now."""
        corrections: dict[LinkName, float] = {}
        for pair in self._pairs.values():
            corrections |= pair.corrections_ms(now_ns)
        return {
            name: estimator.estimate(now_ns, corrections.get(name, 0.0))
            for name, estimator in self.estimators.items()
        }

    def estimates_for_record(self, now_ns: int) -> dict[LinkName, LinkEstimate]:
        """Return what the other PoPs are told: without one-way corrections, and of links without news a moment old."""
        return {name: estimator.recent_estimate(now_ns) for name, estimator in self.estimators.items()}

    def refusals(self) -> dict[tuple[str, str], int]:
        """Return how many samples of each link were refused or began something anew, by reason."""
        found: dict[tuple[str, str], int] = {}
        for name, estimator in self.estimators.items():
            reasons = {str(reason): count for reason, count in estimator.refused_by_reason.items()}
            reasons |= {
                "clock_step": estimator.clock_steps,
                "count_restart": estimator.loss.restarts,
                "window_full": estimator.window_full,
            }
            found |= {(name, reason): count for reason, count in sorted(reasons.items()) if count}
        return found


def _estimator(fleet: Fleet, link: Link) -> LinkEstimator:
    here, there = (fleet.pops[pop].location for pop in (link.from_pop, link.to_pop))
    return LinkEstimator(floor_ms=light_rtt_ms(here, there) if here and there else 0.0)
