"""What must never be, whatever fails: each a small function over a fleet at one moment. None of them knows how routes are made."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from l4proxy.core.ids import LinkName, PopName
from l4proxy.lab.simulate.fleet import MessageFleet
from l4proxy.lab.simulate.flows import Flows
from l4proxy.lab.simulate.network import EVERYTHING
from l4proxy.lab.simulate.timeline import S

SETTLED_NS = 15 * S
"""A PoP that has just started knows nothing: five seconds to learn, ten until the first digest."""

REPAIR_NS = 12 * S
"""Longest interruption while there is a way: three probes a second apart, one second until each is given up, a table of the next second,
one more until hellos know the new path, and as much again where the first repair leads into another broken link."""

DETECTION_NS = 12 * S
"""After this long no table has a link for its primary path that passes nothing, probes neither."""

ENGINE_NS = 3 * S
"""After this long an engine has left a path that passes nothing, if another of the handle passes."""

WORSE_RATIO, WORSE_MS = 0.2, 10.0
"""Worse than direct: by more than hysteresis allows (a tenth), and what two ends may be apart by (a twentieth each)."""

WORSE_NS = 420 * S
"""And for how long: loss that has ended is charged until its windows of 60 s and 300 s are clean, and the change is held down."""

MOVES_MOST = 40
MOVES_WITHIN_NS = 60 * S
"""Changes of one handle in a minute: two flapping paths of 1 s each way are held by probation to fewer."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be was."""

    invariant: str
    at_s: float
    source: PopName
    end: PopName
    what: str


@dataclass
class Check:
    """What all invariants look at. `dead_since`: links that pass nothing at all; `stuck_since`: handles on a path that does not pass."""

    fleet: MessageFleet
    flows: Flows
    dead_since: dict[LinkName, int] = field(default_factory=dict)
    stuck_since: dict[tuple[PopName, PopName], int] = field(default_factory=dict)

    @property
    def now_ns(self) -> int:
        """The moment that is looked at."""
        return self.fleet.timeline.now_ns

    def follow(self) -> None:
        """Note which links are dead, and since when."""
        network = self.fleet.network
        for name, line in network.lines.items():
            link = self.fleet.fleet.links[name]
            is_on = network.places[link.from_pop].is_on and network.places[link.to_pop].is_on
            if is_on and line.stops != EVERYTHING:
                self.dead_since.pop(name, None)
            else:
                self.dead_since.setdefault(name, self.now_ns)

    def is_informed(self, pop: PopName) -> bool:
        """Whether a PoP's table can be right: its daemon runs, has had time to learn, and hears the others."""
        place = self.fleet.network.places[pop]
        return (
            pop in self.fleet.controllers
            and self.now_ns - self.fleet.started_ns[pop] >= SETTLED_NS
            and not place.is_deaf
        )


Found = Iterator[tuple[PopName, PopName, str]]
Invariant = Callable[[Check], Found]


def no_loop(check: Check) -> Found:
    """No path passes a PoP twice, as its links say and as the labels in force lead."""
    links = check.fleet.fleet.links
    for source, engine in check.fleet.engines.items():
        for (peer, _), specs in engine.handles.items():
            for spec in specs:
                for names in (spec.links, check.fleet.walk(spec) or ()):
                    passed = [links[name].to_pop for name in names]
                    if source in passed or len(set(passed)) < len(passed):
                        yield source, peer, f"path {' '.join(names)} has a loop"


def labels_lead_where_paths_say(check: Check) -> Found:
    """A label means the link that the source believes, or nothing."""
    for source, engine in check.fleet.engines.items():
        for (peer, _), spec in engine.active.items():
            names = check.fleet.walk(spec)
            if names is not None and names != spec.links:
                yield source, peer, f"path {' '.join(spec.links)} really is {' '.join(names)}"


def no_removed_link(check: Check) -> Found:
    """No path uses a link that the fleet file does not have, or has disabled."""
    links = check.fleet.fleet.links
    for source, engine in check.fleet.engines.items():
        for (peer, _), specs in engine.handles.items():
            for name in [name for spec in specs for name in spec.links]:
                if name not in links or not links[name].enabled:
                    yield source, peer, f"path over {name}, which is disabled or not there"


def no_dead_link(check: Check) -> Found:
    """No table goes on using a link that is dead for longer than finding out takes, unless there is no other way."""
    for source, controller in check.fleet.controllers.items():
        if controller.plan is None or not check.is_informed(source):
            continue
        for (peer, policy), route in controller.plan.handles.items():
            if route.primary is None:
                continue
            for name in route.primary.names:
                since_ns = check.dead_since.get(name)
                if since_ns is not None and check.now_ns - since_ns > DETECTION_NS:
                    seconds = (check.now_ns - since_ns) / S
                    yield source, peer, f"{policy}: primary path over {name}, dead for {seconds:.1f} s"


def engines_leave_dead_paths(check: Check) -> Found:
    """No engine stays on a path that passes nothing while another one of its handle passes."""
    for source, peer in check.flows.pairs:
        spec = check.fleet.active(source, peer)
        others = check.fleet.handle_of(source, peer)
        is_stuck = (
            spec is not None
            and check.fleet.network.places[source].is_on
            and check.fleet.network.places[peer].is_on
            and not check.fleet.passes(spec)
            and any(check.fleet.passes(other) for other in others)
        )
        if not is_stuck:
            check.stuck_since.pop((source, peer), None)
            continue
        since_ns = check.stuck_since.setdefault((source, peer), check.now_ns)
        # Another one that passes only from time to time is in its probation, and rightly.
        steady = [other for other in others if check.fleet.passes(other)]
        watches = [check.fleet.engines[source].watches[other] for other in steady]
        is_steady = any(not watch.is_dead for watch in watches)
        if is_steady and check.now_ns - since_ns > ENGINE_NS:
            yield source, peer, f"the engine stays on {' '.join(spec.links if spec else ())}, which is dead"


def reachable(check: Check) -> Found:
    """Nobody is unreachable for longer than repair takes while there is a way."""
    for (source, end), state in check.flows.pairs.items():
        if state.broken_ns is None or not check.is_informed(source) or not check.is_informed(end):
            continue
        lasts_ns = check.now_ns - max(
            state.broken_ns, check.fleet.started_ns[source] + SETTLED_NS, check.fleet.started_ns[end] + SETTLED_NS
        )  # fmt: skip
        if lasts_ns > REPAIR_NS:
            spec = check.fleet.active(source, end)
            path = " ".join(spec.links) if spec is not None else "no path"
            yield source, end, f"nothing passes for {lasts_ns / S:.1f} s although there is a way ({path})"


def never_worse_than_direct_for_long(check: Check) -> Found:
    """No path is clearly worse than the direct one for longer than it takes to be sure."""
    for (source, end), state in check.flows.pairs.items():
        if (
            state.worse_ns is not None
            and check.now_ns - state.worse_ns > WORSE_NS
            and check.is_informed(source)
        ):
            spec = check.fleet.active(source, end)
            path = " ".join(spec.links) if spec is not None else "no path"
            lasts = (check.now_ns - state.worse_ns) / S
            yield (
                source,
                end,
                f"{path} costs {state.cost_ms:.1f} ms, direct {state.direct_ms:.1f} ms, for {lasts:.0f} s",
            )


def changes_bounded(check: Check) -> Found:
    """No handle changes its path more often than probation and hold-down let it."""
    for (source, end), moves in check.fleet.moves.items():
        recent = [at_ns for at_ns in moves[-MOVES_MOST - 1 :] if check.now_ns - at_ns <= MOVES_WITHIN_NS]
        if len(recent) > MOVES_MOST:
            yield source, end, f"more than {MOVES_MOST} changes of path in a minute"


AT_CHANGES: tuple[Invariant, ...] = (no_loop, labels_lead_where_paths_say, no_removed_link, changes_bounded)
"""Looked at after everything that changes a path."""

EACH_SECOND: tuple[Invariant, ...] = (
    no_dead_link, engines_leave_dead_paths, reachable, never_worse_than_direct_for_long,
)  # fmt: skip
"""Looked at each second: what may be for a while."""


def first_violation(check: Check, invariants: tuple[Invariant, ...], start_ns: int) -> Violation | None:
    """Return the first thing that must not be; None: all is well."""
    for invariant in invariants:
        for source, end, what in invariant(check):
            return Violation(invariant.__name__, round((check.now_ns - start_ns) / S, 3), source, end, what)
    return None
