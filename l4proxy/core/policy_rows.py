"""All handles of one PoP for one plan: the search that policies share, what is decided of their rows, and what those cost at this moment.

What is decided is in `routing.choosing`; what a handle is, in `route`. Made anew for every plan; the memories go from plan to plan.
"""

from collections.abc import Mapping
from math import isfinite

import numpy as np

from l4proxy.core.app import TrafficClass
from l4proxy.core.ids import PopName
from l4proxy.core.route import OFF, HandleRoute, Policy, off_routes, smart_routes
from l4proxy.core.routing.choosing import Memory, Round, Seen, decide, link_variance
from l4proxy.core.routing.cost import link_costs
from l4proxy.core.routing.declared import DeclaredLinks
from l4proxy.core.routing.ground import Ground
from l4proxy.core.routing.links import FloatArray, LinkTable
from l4proxy.core.routing.raw import RawWindows
from l4proxy.core.routing.rows import MAX_LINKS, price
from l4proxy.core.routing.ways import Ways


class PolicyRows:
    """What the handles of this PoP mean. Policies that allow the same paths share one search."""

    def __init__(
        self,
        pop: PopName,
        raw: RawWindows | None,
        declared: DeclaredLinks,
        table: LinkTable,
        costs: Mapping[TrafficClass, FloatArray],
        memories: Mapping[str, Memory],
        now_ns: int,
    ) -> None:
        self.rounds: dict[str, Round] = {}
        self.memories: dict[str, Memory] = {}
        self._pop, self._raw = pop, raw
        self._declared, self._table, self._costs = declared, table, costs
        self._costs_now = {traffic: link_costs(table, traffic, current=True) for traffic in costs}
        self._before = memories
        self._now_ns = now_ns
        self._ways: dict[tuple[TrafficClass, int, frozenset[str]], Ways] = {}
        self._paths: dict[str, tuple[FloatArray, FloatArray]] = {}

    def handles(
        self,
        policies: tuple[Policy, ...],
        previous: Mapping[tuple[PopName, str], HandleRoute],
        *,
        is_calm: bool,
    ) -> dict[tuple[PopName, str], HandleRoute]:
        """Return what each handle means."""
        before: dict[str, dict[PopName, HandleRoute]] = {}
        for (peer, text), route in previous.items():
            before.setdefault(text, {})[peer] = route
        off = self._within("rtt", MAX_LINKS, frozenset())
        found = {OFF: off_routes(off, before.get(OFF, {}), self._now_ns, is_calm=is_calm)}
        for policy in policies:
            within = self._within(policy.traffic, policy.max_transits + 1, policy.avoid)
            all_ways = self._within(policy.traffic, MAX_LINKS, frozenset())
            text, now_ns = policy.text, self._now_ns
            memory, decided = decide(
                within,
                self._costs_now[policy.traffic],
                policy.min_gain_ms,
                self._before.get(text),
                now_ns,
                self._seen(policy.traffic),
            )
            self.memories[text], self.rounds[text] = memory, decided
            last = before.get(text, {})
            found[text] = smart_routes(within, policy, all_ways, decided, last, now_ns, is_calm=is_calm)
        return {(peer, text): route for text, routes in found.items() for peer, route in routes.items()}

    def now_and_doubt(self, policy: Policy, peer: PopName) -> tuple[float | None, float]:
        """Return what the path to a peer costs by this moment's round trips, and the standard error of its cost; None: there is none."""
        if policy.text not in self.rounds:
            return None, 0.0
        if policy.text not in self._paths:
            rows = self.rounds[policy.text].rows
            variance = link_variance(self._table, self._table.pop_number(self._pop))
            now_ms = price(rows, self._costs_now[policy.traffic])
            self._paths[policy.text] = (now_ms, np.sqrt(price(rows, variance, 0.0)))
        number = self._table.pop_number(peer)
        now, doubt = (float(values[number]) for values in self._paths[policy.text])
        return (now, doubt) if isfinite(now) else (None, 0.0)

    def ground_of(self, policy: Policy) -> Ground:
        """Return what the paths of a policy are searched on, from wherever."""
        return self._within(policy.traffic, policy.max_transits + 1, policy.avoid).ground

    def _within(self, traffic: TrafficClass, max_links: int, avoid: frozenset[str]) -> Ways:
        key = (traffic, max_links, avoid)
        if key not in self._ways:
            banned = self._declared.avoided(avoid, self._table.pop_number(self._pop))
            self._ways[key] = Ways(
                self._declared, self._table, self._costs[traffic], self._pop, max_links, banned
            )
        return self._ways[key]

    def _seen(self, traffic: TrafficClass) -> Seen | None:
        raw, table = self._raw, self._table
        return None if raw is None else lambda rows: raw.costs(rows, table, traffic)
