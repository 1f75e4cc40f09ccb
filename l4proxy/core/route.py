"""Routes by measurement: the path that each route handle means, and the egress that each app's new flows take. One small function a rule.

Order of rules: alive, policy, cost, `min_gain` before `off` is left, hysteresis before anything changes again. `off` is local if this
PoP may dial, else direct to the admitted egress with the lowest direct cost; it never detours for gain, but a dead path is repaired.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from l4proxy.core.app import App, Protocol, TrafficClass
from l4proxy.core.cost import HOP_COST_MS
from l4proxy.core.ids import AppName, PopName
from l4proxy.core.paths import MAX_LINKS, Edge, Graph, Path, backups, best_paths

MARGIN_RATIO = 0.1
MARGIN_MS = 1.0
"""A change must save more than a tenth and a millisecond: on recorded matrices that costs half a point and saves 95 % of the changes."""

HOLD_DOWN_NS = 10_000_000_000
"""After a change for gain the next one waits this long. A dead path is left at once."""

OFF = "off"
"""The policy that never detours."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a route handle may do. Its text names it among PoPs: equal texts mean equal paths."""

    traffic: TrafficClass
    min_gain_ms: float
    max_transits: int
    avoid: frozenset[str]

    @classmethod
    def of(cls, app: App, protocol: Protocol) -> "Policy":
        """Return the policy of an app's flows."""
        traffic = app.tcp_class if protocol == "tcp" else app.udp_class
        return cls(traffic, app.routing.min_gain_ms, app.routing.max_transits, app.routing.avoid)

    @property
    def text(self) -> str:
        """Its name."""
        avoid = "+".join(sorted(self.avoid))
        return f"{self.traffic},min_gain={self.min_gain_ms:g},max_transits={self.max_transits},avoid={avoid}"


@dataclass(frozen=True, slots=True)
class HandleRoute:
    """What the handle (peer, policy) means: primary path, backups, and why. `direct` is what `off` has."""

    peer: PopName
    policy: str
    primary: Path | None
    backups: tuple[Path, ...]
    direct: Path | None
    reason: str
    changed_ns: int
    watched: tuple[Path, ...] = ()
    """While no path is alive: those that were best before, for the engine to find the first that lives again."""

    @property
    def cost_ms(self) -> float | None:
        """Cost of the primary path; None while there is none."""
        return None if self.primary is None else self.primary.cost_ms


def admitted(graph: Graph, avoid: frozenset[str], source: PopName) -> Graph:
    """Return the graph without the PoPs and transits that a policy avoids; the source itself stays."""
    if not avoid:
        return graph

    def may_use(edge: Edge) -> bool:
        link = edge.link
        ends = {f"{link.from_pop}/{link.from_transit}", f"{link.to_pop}/{link.to_transit}", str(link.to_pop)}
        return not ends & avoid and (link.from_pop == source or link.from_pop not in avoid)

    return {pop: tuple(edge for edge in edges if may_use(edge)) for pop, edges in graph.items()}


def direct_path(graph: Graph, source: PopName, peer: PopName) -> Path | None:
    """Return the cheapest single link to a peer."""
    return best_paths(graph, source, max_links=1).get(peer)


def off_route(
    graph: Graph, source: PopName, peer: PopName, previous: HandleRoute | None, now_ns: int
) -> HandleRoute:
    """Return what the handle `off` means: the best direct link, or any way around while there is none."""
    direct = direct_path(graph, source, peer)
    around = best_paths(graph, source).get(peer)
    primary, reason = (
        (direct, "off: direct") if direct else (around, "off: the direct path is dead, repaired around it")
    )
    if primary is None:
        reason = "no path is alive"
    return _route(graph, peer, OFF, primary, direct, reason, previous, now_ns, MAX_LINKS)


def smart_route(
    graph: Graph, source: PopName, peer: PopName, policy: Policy, previous: HandleRoute | None, now_ns: int
) -> HandleRoute:
    """Return what a handle with a policy means: the cheapest path that gains enough over the direct one."""
    allowed = admitted(graph, policy.avoid, source)
    max_links = policy.max_transits + 1
    direct = direct_path(allowed, source, peer)
    best = best_paths(allowed, source, max_links).get(peer)
    if best is None:
        repaired = best_paths(graph, source).get(peer)
        reason = (
            "no path is alive"
            if repaired is None
            else "no path within the policy is alive, repaired outside it"
        )
        return _route(graph, peer, policy.text, repaired, direct, reason, previous, now_ns, MAX_LINKS)
    chosen, reason = _worth_a_detour(best, direct, policy.min_gain_ms)
    kept = _keep(allowed, chosen, previous, now_ns)
    if kept is not None:
        chosen, reason = kept, f"hysteresis: {_pops(chosen)} is not better by enough, for long enough"
    return _route(allowed, peer, policy.text, chosen, direct, reason, previous, now_ns, max_links)


def _worth_a_detour(best: Path, direct: Path | None, min_gain_ms: float) -> tuple[Path, str]:
    if direct is None:
        return best, "lowest cost; the direct path is not available"
    gain = direct.cost_ms - best.cost_ms
    if best.is_direct:
        return best, "lowest cost: direct"
    if gain < min_gain_ms:
        return direct, f"min_gain: {_pops(best)} would gain {gain:.1f} ms, less than {min_gain_ms:g} ms"
    return best, f"lowest cost: gains {gain:.1f} ms over direct"


def _keep(graph: Graph, chosen: Path, previous: HandleRoute | None, now_ns: int) -> Path | None:
    """The current path at its present cost, if it stays; None if the chosen one takes over."""
    if previous is None or previous.primary is None or previous.primary.names == chosen.names:
        return None
    current = priced(graph, previous.primary)
    if current is None:
        return None
    saved = current.cost_ms - chosen.cost_ms
    is_enough = saved > max(MARGIN_MS, MARGIN_RATIO * current.cost_ms)
    is_held = now_ns - previous.changed_ns < HOLD_DOWN_NS
    return None if is_enough and not is_held else current


def priced(graph: Graph, path: Path) -> Path | None:
    """Return a path with its present cost; None if one of its links cannot be used."""
    edges = {edge.link.name: edge for edges in graph.values() for edge in edges}
    total: Path | None = None
    for number, name in enumerate(path.names):
        edge = edges.get(name)
        if edge is None or (number > 0 and not edge.is_labelled):
            return None
        extra = edge.cost_ms if total is None else total.cost_ms + edge.cost_ms + HOP_COST_MS
        total = Path((*(total.links if total else ()), edge.link), extra)
    return total


def _route(
    graph: Graph,
    peer: PopName,
    policy: str,
    primary: Path | None,
    direct: Path | None,
    reason: str,
    previous: HandleRoute | None,
    now_ns: int,
    max_links: int,
) -> HandleRoute:
    others = () if primary is None else backups(graph, primary, max_links if max_links > 1 else MAX_LINKS)
    before = previous.primary.names if previous is not None and previous.primary is not None else None
    is_same = primary is not None and before == primary.names
    changed_ns = previous.changed_ns if previous is not None and is_same else now_ns
    return HandleRoute(peer, policy, primary, others, direct, reason, changed_ns)


def _pops(path: Path) -> str:
    return ">".join(path.pops)


@dataclass(frozen=True, slots=True)
class Choice:
    """One egress that an app's flows could take from this PoP."""

    egress: PopName
    path: tuple[PopName, ...]
    links: tuple[str, ...]
    path_cost_ms: float | None
    origin_cost_ms: float | None
    backups: tuple[Path, ...]
    policy: str | None
    """Policy of the handle; None: local."""
    removed: str = ""
    """Why the disqualifier has removed it; empty: it has not."""

    @property
    def cost_ms(self) -> float | None:
        """Path and origin together; None: cannot be used."""
        if self.path_cost_ms is None or self.origin_cost_ms is None or self.removed:
            return None
        return self.path_cost_ms + self.origin_cost_ms


@dataclass(frozen=True, slots=True)
class AppRoute:
    """The table's answer for an app and protocol at this PoP: choices in order of preference, and why the first is the first."""

    app: AppName
    protocol: Protocol
    ingress: PopName
    mode: str
    choices: tuple[Choice, ...]
    off: Choice | None
    reason: str
    changed_ns: int

    @property
    def chosen(self) -> Choice | None:
        """What new flows take."""
        return self.choices[0] if self.choices and self.choices[0].cost_ms is not None else None


def app_route(
    app: App,
    protocol: Protocol,
    ingress: PopName,
    mode: str,
    off_choices: tuple[Choice, ...],
    smart_choices: tuple[Choice, ...],
    previous: AppRoute | None,
    now_ns: int,
) -> AppRoute:
    """Choose the egress: what `off` would take, or what smart routing finds better by enough."""
    off = _off_choice(off_choices)
    if mode == OFF:
        ranked = _ranked(off_choices, off)
        reason = "smart routing is off: " + ("local" if off is not None and off.policy is None else "direct")
        chosen = off
    else:
        chosen, reason = _smart_choice(smart_choices, off, app.routing.min_gain_ms, previous, now_ns)
        ranked = _ranked(smart_choices, chosen)
    if chosen is None:
        reason = "no egress can reach the origin"
    before = previous.chosen if previous is not None else None
    is_same = before is not None and chosen is not None and before.egress == chosen.egress
    changed_ns = previous.changed_ns if previous is not None and is_same else now_ns
    return AppRoute(app.name, protocol, ingress, mode, ranked, off, reason, changed_ns)


def _off_choice(choices: tuple[Choice, ...]) -> Choice | None:
    usable = [choice for choice in choices if choice.cost_ms is not None]
    local = [choice for choice in usable if choice.policy is None]
    if local:
        return local[0]
    direct = [choice for choice in usable if len(choice.links) == 1]
    return min(direct or usable, key=_by_cost, default=None)


def _smart_choice(
    choices: tuple[Choice, ...],
    off: Choice | None,
    min_gain_ms: float,
    previous: AppRoute | None,
    now_ns: int,
) -> tuple[Choice | None, str]:
    usable = [choice for choice in choices if choice.cost_ms is not None]
    best = min(usable, key=_by_cost, default=None)
    if best is None or best.cost_ms is None:
        return None, ""
    same_as_off = next((c for c in usable if off is not None and c.egress == off.egress), None)
    if same_as_off is not None and same_as_off.cost_ms is not None and same_as_off.egress != best.egress:
        gain = same_as_off.cost_ms - best.cost_ms
        if gain < min_gain_ms:
            return (
                same_as_off,
                f"min_gain: egress {best.egress} would gain {gain:.1f} ms, less than {min_gain_ms:g} ms",
            )
    before = previous.chosen if previous is not None and previous.mode != OFF else None
    current = next((c for c in usable if before is not None and c.egress == before.egress), None)
    if (
        current is not None
        and current.cost_ms is not None
        and current.egress != best.egress
        and previous is not None
    ):
        is_enough = current.cost_ms - best.cost_ms > max(MARGIN_MS, MARGIN_RATIO * current.cost_ms)
        if not is_enough or now_ns - previous.changed_ns < HOLD_DOWN_NS:
            return current, f"hysteresis: egress {best.egress} is not better by enough, for long enough"
    return best, "lowest cost of path and origin"


def _by_cost(choice: Choice) -> tuple[float, PopName]:
    return (choice.cost_ms if choice.cost_ms is not None else float("inf"), choice.egress)


def _ranked(choices: tuple[Choice, ...], first: Choice | None) -> tuple[Choice, ...]:
    return tuple(sorted(choices, key=lambda choice: (choice is not first, *_by_cost(choice))))


def costs_by_link(graph: Graph) -> Mapping[str, float]:
    """Return the cost of each usable link, for explanations."""
    return {edge.link.name: edge.cost_ms for edges in graph.values() for edge in edges}
