"""What a flow of each pair of PoPs would have got: when nothing passed although there was a way, and what it cost beside direct."""

from dataclasses import dataclass, field

from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.routing.rows import MAX_LINKS
from l4proxy.lab.simulate.fleet import MessageFleet
from l4proxy.lab.simulate.network import DATA, HELLO
from l4proxy.lab.simulate.timeline import S

HOP_MS = 1.0
"""What a transit PoP costs."""

Pair = tuple[PopName, PopName]


@dataclass(slots=True)
class PairState:
    """One ordered pair."""

    broken_ns: int | None = None
    """Since when nothing passes although there is a way; None: it passes, or there is none."""
    worse_ns: int | None = None
    """Since when the path is clearly worse than direct."""
    cost_ms: float | None = None
    direct_ms: float | None = None


@dataclass(slots=True)
class Tally:
    """Sums over all pairs and time."""

    possible_ns: int = 0
    """Time of pairs between which there was a way."""
    broken_ns: int = 0
    repairs_ns: list[int] = field(default_factory=list)
    """How long each interruption lasted."""
    compared: int = 0
    path_ms: float = 0.0
    direct_ms: float = 0.0
    better: int = 0
    worse: int = 0
    longest_worse_ns: int = 0


@dataclass
class Flows:
    """Follows every pair. `look` after each change, `compare` each second."""

    fleet: MessageFleet
    tally: Tally = field(default_factory=Tally)
    pairs: dict[Pair, PairState] = field(default_factory=dict)
    _way: dict[PopName, frozenset[PopName]] = field(default_factory=dict)
    _way_version: int = -1
    _looked_ns: int = 0

    def __post_init__(self) -> None:
        pops = list(self.fleet.fleet.pops)
        self.pairs = {(a, b): PairState() for a in pops for b in pops if a != b}
        self.directs: dict[Pair, list[LinkName]] = {pair: [] for pair in self.pairs}
        for name, link in self.fleet.fleet.links.items():
            if link.enabled:
                self.directs[link.from_pop, link.to_pop].append(name)
        self._looked_ns = self.fleet.timeline.now_ns

    def look(self) -> None:
        """Note what passes now."""
        now_ns = self.fleet.timeline.now_ns
        self._pass_time(now_ns)
        if self._way_version != self.fleet.network.version:
            self._way_version = self.fleet.network.version
            self._way = self._ways()
        for (source, end), state in self.pairs.items():
            if end not in self._way.get(source, ()):
                # Nobody can repair what has no way; what is broken when a way comes back counts from there.
                state.broken_ns = None
                continue
            spec = self.fleet.active(source, end)
            if spec is not None and self.fleet.passes(spec):
                if state.broken_ns is not None and now_ns > state.broken_ns:
                    self.tally.repairs_ns.append(now_ns - state.broken_ns)
                state.broken_ns = None
            elif state.broken_ns is None:
                state.broken_ns = now_ns

    def _pass_time(self, now_ns: int) -> None:
        elapsed_ns = now_ns - self._looked_ns
        self._looked_ns = now_ns
        if elapsed_ns:
            self.tally.possible_ns += elapsed_ns * sum(len(ends) for ends in self._way.values())
            self.tally.broken_ns += elapsed_ns * sum(
                state.broken_ns is not None for state in self.pairs.values()
            )

    def _ways(self) -> dict[PopName, frozenset[PopName]]:
        """Which PoPs each can reach with at most four links that pass."""
        network = self.fleet.network
        next_to: dict[PopName, set[PopName]] = {pop: set() for pop in self.fleet.fleet.pops}
        for name, link in self.fleet.fleet.links.items():
            if link.enabled and network.passes(name, HELLO | DATA):
                next_to[link.from_pop].add(link.to_pop)
        found = {}
        for source in next_to:
            reached = edge = {source}
            for _ in range(MAX_LINKS):
                edge = {end for pop in edge for end in next_to[pop]} - reached
                reached = reached | edge
            found[source] = frozenset(reached - {source})
        return found

    def compare(self, worse_ratio: float, worse_ms: float) -> None:
        """Compare each pair's path with the best direct link, as the network truly is."""
        network, now_ns = self.fleet.network, self.fleet.timeline.now_ns
        costs = {name: network.cost_ms(name, now_ns) for name in network.lines}
        passing = {name for name in costs if network.passes(name, HELLO | DATA)}
        tally = self.tally
        for (source, end), state in self.pairs.items():
            spec = self.fleet.active(source, end)
            links = self.fleet.walk(spec) if spec is not None else None
            direct = min((costs[name] for name in self.directs[source, end] if name in passing), default=None)
            if links is None or direct is None or not all(name in passing for name in links):
                state.cost_ms = state.direct_ms = state.worse_ns = None
                continue
            cost = sum(costs[name] for name in links) + HOP_MS * (len(links) - 1)
            state.cost_ms, state.direct_ms = cost, direct
            tally.compared += 1
            tally.path_ms += cost
            tally.direct_ms += direct
            tally.better += cost < direct - worse_ms
            if cost > direct + max(worse_ms, worse_ratio * direct):
                tally.worse += 1
                state.worse_ns = now_ns if state.worse_ns is None else state.worse_ns
                tally.longest_worse_ns = max(tally.longest_worse_ns, now_ns - state.worse_ns)
            else:
                state.worse_ns = None


def seconds(duration_ns: int) -> float:
    """Return seconds, to the millisecond."""
    return round(duration_ns / S, 3)
