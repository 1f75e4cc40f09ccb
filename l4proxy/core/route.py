"""Routes by measurement: the path that each route handle means, as decided by `routing.switching`, with backups and the reason in words.

`off` is direct; it never detours for gain, but a dead path is repaired. Which egress an app's new flows take is in `egress`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isinf

from l4proxy.core.app import App, Protocol, TrafficClass
from l4proxy.core.ids import PopName
from l4proxy.core.paths import Path
from l4proxy.core.routing.choosing import RULES, Round
from l4proxy.core.routing.switching import WORDS, Verdict
from l4proxy.core.routing.ways import Ways

BACKUPS_KEPT_NS = 10_000_000_000
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
    ways: Ways, policy: Policy, repair: Ways, found: Round, previous: Handles, now_ns: int, *, is_calm: bool
) -> dict[PopName, HandleRoute]:
    """Return what the handles of a policy mean, by what was decided of their rows.

    `ways`: those within the policy. `repair`: all that there are, for peers that the policy leaves none to. `is_calm` as in `off_routes`.
    """
    routes, repaired, text = [], [], policy.text
    chosen = ways.named(found.rows)
    for peer in _peers(ways):
        direct, before = ways.direct.get(peer), previous.get(peer)
        path = chosen.get(peer)
        if path is None:
            around = repair.best.get(peer)
            reason = (
                "no path is alive"
                if around is None
                else "no path within the policy is alive, repaired outside it"
            )
            repaired.append(_route(peer, text, around, direct, reason, before, now_ns))
            continue
        reason = _words(found, ways, peer, policy.min_gain_ms)
        routes.append(_route(peer, text, path, direct, reason, before, now_ns))
    kept_from = previous if is_calm else {}
    return _with_backups(ways, routes, kept_from, now_ns) | _with_backups(repair, repaired, kept_from, now_ns)


def _words(found: Round, ways: Ways, peer: PopName, min_gain_ms: float) -> str:
    """The verdict on a row, with the numbers that decided."""
    row = ways.table.pop_number(peer)
    verdict = Verdict(int(found.verdicts[row]))
    best, offer = ways.best.get(peer), found.offer
    direct_ms, best_ms = float(offer.direct_cost.slow_ms[row]), float(offer.best_cost.slow_ms[row])
    if best is None:
        return WORDS[verdict]
    gain_ms = direct_ms - best_ms
    if verdict == Verdict.MIN_GAIN:
        return f"min_gain: {_pops(best)} would gain {gain_ms:.1f} ms, less than {min_gain_ms:g} ms"
    if verdict in (Verdict.BEST, Verdict.FIRST, Verdict.MOVED, Verdict.REPAIRED):
        if isinf(direct_ms):
            gain = "the direct path is not available"
        else:
            gain = "direct" if best.is_direct else f"gains {gain_ms:.1f} ms over direct"
        return f"{WORDS[verdict]}; {gain}"
    if verdict in (Verdict.REFUSED, Verdict.GUARDED):
        return f"{WORDS[verdict]} ({_pops(best)})"
    saved = f"{_pops(best)} would save {found.saved_ms[row]:.1f} ms, ± {found.offer.doubt_ms[row]:.1f} ms"
    if verdict == Verdict.NOT_YET_WORTH:
        return f"{WORDS[verdict]}: {saved}; {100 * found.owed_ms[row] / RULES.price_ms:.0f} % of that so far"
    return f"{WORDS[verdict]}: {saved}"


def _peers(ways: Ways) -> list[PopName]:
    return [pop for pop in ways.table.pops if pop != ways.source]


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
