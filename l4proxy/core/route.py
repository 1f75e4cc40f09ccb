"""Routes by measurement: the path that each route handle means, and the egress that each app's new flows take. One small function a rule.

Order of rules: alive, policy, cost, `min_gain` before `off` is left, hysteresis before anything changes again. `off` is local if this
PoP may dial, else direct to the admitted egress with the lowest direct cost; it never detours for gain, but a dead path is repaired.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from l4proxy.core.app import App, Protocol, TrafficClass
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.paths import Path
from l4proxy.core.routing.ways import Ways

MARGIN_RATIO = 0.1
MARGIN_MS = 1.0
"""A change must save more than a tenth and a millisecond: on recorded matrices that costs half a point and saves 95 % of the changes."""

HOLD_DOWN_NS = 10_000_000_000
"""After a change for gain the next one waits this long. A dead path is left at once."""

BACKUPS_KEPT_NS = HOLD_DOWN_NS
"""While no link comes or goes, backups of a path stay for as long: noise must not tell the engine of new ones with every table."""

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
    backups_ns: int = 0
    """When the backups were chosen."""
    watched: tuple[Path, ...] = ()
    """While no path is alive: those that were best before, for the engine to find the first that lives again."""

    @property
    def cost_ms(self) -> float | None:
        """Cost of the primary path; None while there is none."""
        return None if self.primary is None else self.primary.cost_ms


Handles = Mapping[PopName, HandleRoute]
"""What the handles of one policy mean, by peer."""


def off_routes(ways: Ways, previous: Handles, now_ns: int, *, is_calm: bool) -> dict[PopName, HandleRoute]:
    """Return what the handles `off` mean: the best direct link, or any way around while there is none.

    `is_calm`: no link has come or gone since the table before.
    """
    found = []
    for peer in _peers(ways):
        direct, around = ways.direct.get(peer), None
        reason = "off: direct"
        if direct is None:
            around = ways.best.get(peer)
            reason = (
                "no path is alive" if around is None else "off: the direct path is dead, repaired around it"
            )
        found.append(_route(peer, OFF, direct or around, direct, reason, previous.get(peer), now_ns))
    return _with_backups(ways, found, previous if is_calm else {}, now_ns)


def smart_routes(
    ways: Ways, policy: Policy, repair: Ways, previous: Handles, now_ns: int, *, is_calm: bool
) -> dict[PopName, HandleRoute]:
    """Return what the handles of a policy mean: the cheapest path that gains enough over the direct one.

    `ways`: those within the policy. `repair`: all that there are, for peers that the policy leaves none to. `is_calm` as in `off_routes`.
    """
    found, repaired, text = [], [], policy.text
    for peer in _peers(ways):
        direct, best, before = ways.direct.get(peer), ways.best.get(peer), previous.get(peer)
        if best is None:
            around = repair.best.get(peer)
            reason = (
                "no path is alive"
                if around is None
                else "no path within the policy is alive, repaired outside it"
            )
            repaired.append(_route(peer, text, around, direct, reason, before, now_ns))
            continue
        # A direct path over a full link is no alternative to one that is not: what is gained is room.
        is_open = direct is not None and (ways.has_room(direct) or not ways.has_room(best))
        chosen, reason = _worth_a_detour(best, direct if is_open else None, policy.min_gain_ms)
        kept = _keep(ways, chosen, before, now_ns)
        if kept is not None:
            chosen, reason = kept, f"hysteresis: {_pops(chosen)} is not better by enough, for long enough"
        found.append(_route(peer, text, chosen, direct, reason, before, now_ns))
    kept_from = previous if is_calm else {}
    found_backups = _with_backups(ways, found, kept_from, now_ns)
    return found_backups | _with_backups(repair, repaired, kept_from, now_ns)


def _peers(ways: Ways) -> list[PopName]:
    return [pop for pop in ways.table.pops if pop != ways.source]


def _worth_a_detour(best: Path, direct: Path | None, min_gain_ms: float) -> tuple[Path, str]:
    if direct is None:
        return best, "lowest cost; the direct path is not available"
    gain = direct.cost_ms - best.cost_ms
    if best.is_direct:
        return best, "lowest cost: direct"
    if gain < min_gain_ms:
        return direct, f"min_gain: {_pops(best)} would gain {gain:.1f} ms, less than {min_gain_ms:g} ms"
    return best, f"lowest cost: gains {gain:.1f} ms over direct"


def _keep(ways: Ways, chosen: Path, previous: HandleRoute | None, now_ns: int) -> Path | None:
    """The current path at its present cost, if it stays; None if the chosen one takes over."""
    if previous is None or previous.primary is None or previous.primary.names == chosen.names:
        return None
    current = ways.priced(previous.primary)
    if current is None:
        return None
    saved = current.cost_ms - chosen.cost_ms
    is_enough = saved > max(MARGIN_MS, MARGIN_RATIO * current.cost_ms)
    is_held = now_ns - previous.changed_ns < HOLD_DOWN_NS
    return None if is_enough and not is_held else current


def _route(
    peer: PopName,
    policy: str,
    primary: Path | None,
    direct: Path | None,
    reason: str,
    previous: HandleRoute | None,
    now_ns: int,
) -> HandleRoute:
    before = previous.primary.names if previous is not None and previous.primary is not None else None
    is_same = primary is not None and before == primary.names
    changed_ns = previous.changed_ns if previous is not None and is_same else now_ns
    return HandleRoute(peer, policy, primary, (), direct, reason, changed_ns)


def _with_backups(
    ways: Ways, routes: list[HandleRoute], previous: Handles, now_ns: int
) -> dict[PopName, HandleRoute]:
    """Return routes with backups: those of before where they may stay, else new ones."""
    kept = {route.peer: _kept_backups(ways, route, previous.get(route.peer), now_ns) for route in routes}
    wanted = {
        route.peer: route.primary
        for route in routes
        if route.primary is not None and kept[route.peer] is None
    }
    found = ways.backups(wanted) if wanted else {}
    return {
        route.peer: kept[route.peer] or replace(route, backups=found.get(route.peer, ()), backups_ns=now_ns)
        for route in routes
    }


def _kept_backups(
    ways: Ways, route: HandleRoute, previous: HandleRoute | None, now_ns: int
) -> HandleRoute | None:
    """The route with the backups of before at their present cost, if they stay: its path is the same, and they are not old."""
    if previous is None or previous.primary is None or route.primary is None:
        return None
    is_old = now_ns - previous.backups_ns >= BACKUPS_KEPT_NS
    if is_old or previous.primary.names != route.primary.names:
        return None
    backups = tuple(priced for path in previous.backups if (priced := ways.priced(path)) is not None)
    if len(backups) < len(previous.backups):
        return None
    return replace(route, backups=backups, backups_ns=previous.backups_ns)


def _pops(path: Path) -> str:
    return ">".join(path.pops)


@dataclass(frozen=True, slots=True)
class Choice:
    """One egress that an app's flows could take from this PoP."""

    egress: PopName
    path: tuple[PopName, ...]
    links: tuple[LinkName, ...]
    path_cost_ms: float | None
    origin_cost_ms: float | None
    backups: tuple[Path, ...]
    policy: str | None
    """Policy of the handle; None: local."""

    @property
    def cost_ms(self) -> float | None:
        """Path and origin together; None: cannot be used."""
        if self.path_cost_ms is None or self.origin_cost_ms is None:
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
