"""The part of one PoP's engine that decides which path a handle takes between two snapshots (docs/protocol.md section 6).

Hellos are not sent one by one. A path that stops passing them is dead when six intervals and the way of a report have gone by, one that
passes them again is alive after a second without a gap, longer each time that it dies again. Hellos of paths that lose much are thrown one
by one, because it is chance that makes six in a row.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import isfinite

from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.samples import HandleUse
from l4proxy.core.snapshot import PathSpec, Snapshot
from l4proxy.lab.simulate.timeline import MS, S

INTERVAL_NS = 50 * MS
DEAD_NS = 6 * INTERVAL_NS
UNKNOWN_NS = 1 * S
"""A path that was never reported is dead after this long."""
ALIVE_NS = 1 * S
PROBATION_WINDOW_NS = 120 * S
PROBATION_MOST = 6
"""1, 3, 7 … s more before a path that keeps dying counts again: 2ⁿ − 1, at most 63 s here (60 s in the protocol)."""
GREY_LOST, GREY_CLEAR = 20, 5
GREY_SECONDS = 5
"""100 hellos."""
CLEAR_SECONDS = 10
HELLOS_A_SECOND = 20
LOSSY_FROM = 0.05
"""Below this neither six lost in a row nor 20 in 100 happen once in years: 0.05⁶ · 20 Hz is once in a month of a hundred paths."""

Handle = tuple[PopName, str]


@dataclass(slots=True)
class Watch:
    """What hellos say of one path."""

    since_ns: int
    is_dead: bool = False
    is_grey: bool = False
    is_passing: bool = True
    changed_ns: int = 0
    """When it began or stopped to pass."""
    died_ns: int = -(1 << 62)
    deaths: int = 0
    in_a_row: int = 0
    gaps: int = 0
    lost: list[int] = field(default_factory=list)
    """Hellos lost in each of the last seconds."""
    clear_s: int = 0


@dataclass(slots=True)
class Engine:
    """One engine. `passes` says whether a path passes full packets now, `round_trip_ns` how long a report takes to come."""

    pop: PopName
    passes: Callable[[PathSpec], bool]
    round_trip_ns: Callable[[PathSpec], float]
    later: Callable[[int, Callable[[], None]], None]
    """Do something after so many ns."""
    labels: dict[int, LinkName] = field(default_factory=dict)
    handles: dict[Handle, tuple[PathSpec, ...]] = field(default_factory=dict)
    active: dict[Handle, PathSpec] = field(default_factory=dict)
    watches: dict[PathSpec, Watch] = field(default_factory=dict)
    on_change: Callable[[Handle], None] = lambda _handle: None

    def handle_snapshot(self, now_ns: int, snapshot: Snapshot) -> bool:
        """Put a snapshot into force; whether the labels that others send over changed."""
        labels = {link.label: link.name for link in snapshot.links if link.label}
        is_other = labels != self.labels
        self.labels = labels
        self.handles = {(handle.peer, handle.policy): handle.paths for handle in snapshot.handles}
        before = self.watches
        self.watches = {}
        for paths in self.handles.values():
            for spec in paths:
                if spec not in self.watches:
                    self.watches[spec] = before.get(spec) or self._watch(now_ns, spec)
        for handle in [handle for handle in self.active if handle not in self.handles]:
            del self.active[handle]
        for handle in self.handles:
            self._point(handle)
        return is_other

    def handle_passing(self, now_ns: int) -> None:
        """Links or PoPs changed what they pass: look at every path again."""
        for spec, watch in self.watches.items():
            if (is_passing := self.passes(spec)) != watch.is_passing:
                watch.is_passing, watch.changed_ns = is_passing, now_ns
                self._expect(now_ns, spec, watch)

    def handle_second(self, now_ns: int, lost: Callable[[PathSpec], list[bool] | None]) -> None:
        """A second has passed: count the hellos of paths that lose many. `lost`: which of this second's; None: the path loses few."""
        for spec, watch in list(self.watches.items()):
            if not watch.is_passing:
                continue
            hellos = lost(spec)
            # One that is dead of chance alone comes back only by being counted.
            if hellos is not None or watch.lost or watch.is_dead:
                self._count(now_ns, spec, watch, hellos or [])

    def uses(self) -> list[HandleUse]:
        """Return what the engine says of its handles; each carries traffic."""
        found = []
        for (peer, policy), spec in self.active.items():
            found.append(HandleUse(peer, policy, spec.id, True, not self.watches[spec].is_dead))
        return found

    def _watch(self, now_ns: int, spec: PathSpec) -> Watch:
        watch = Watch(now_ns, changed_ns=now_ns, is_passing=self.passes(spec))
        if not watch.is_passing:
            self._expect(now_ns, spec, watch)
        return watch

    def _expect(self, now_ns: int, spec: PathSpec, watch: Watch) -> None:
        """Decide when hellos will have said so, if it stays as it is."""
        way_ns = self.round_trip_ns(spec)
        if not isfinite(way_ns):
            way_ns = 0.0
        if watch.is_passing:
            wait_ns = ALIVE_NS + self._probation_ns(now_ns, watch) + round(way_ns)
        else:
            is_new = watch.since_ns == now_ns
            wait_ns = UNKNOWN_NS if is_new else DEAD_NS + round(way_ns / 2)
        since_ns = watch.changed_ns

        def then() -> None:
            if self.watches.get(spec) is watch and watch.changed_ns == since_ns:
                self._settle(now_ns + wait_ns, spec, watch)

        self.later(wait_ns, then)

    def _probation_ns(self, now_ns: int, watch: Watch) -> int:
        if now_ns - watch.died_ns > PROBATION_WINDOW_NS or watch.deaths < 2:
            return 0
        return ((1 << min(PROBATION_MOST, watch.deaths - 1)) - 1) * S

    def _settle(self, now_ns: int, spec: PathSpec, watch: Watch) -> None:
        if watch.is_passing and watch.is_dead:
            watch.is_dead, watch.lost, watch.in_a_row, watch.gaps = False, [], 0, 0
            self._repoint(spec)
        elif not watch.is_passing and not watch.is_dead:
            self._die(now_ns, spec, watch)

    def _die(self, now_ns: int, spec: PathSpec, watch: Watch) -> None:
        if now_ns - watch.died_ns > PROBATION_WINDOW_NS:
            watch.deaths = 0
        watch.deaths += 1
        watch.is_dead, watch.died_ns = True, now_ns
        self._repoint(spec)

    def _count(self, now_ns: int, spec: PathSpec, watch: Watch, hellos: list[bool]) -> None:
        for is_lost in hellos:
            watch.in_a_row = watch.in_a_row + 1 if is_lost else 0
            if watch.in_a_row == DEAD_NS // INTERVAL_NS and not watch.is_dead:
                self._die(now_ns, spec, watch)
        watch.lost = [*watch.lost, sum(hellos)][-GREY_SECONDS:]
        if watch.is_dead:
            self._revive(now_ns, spec, watch, hellos)
        total = sum(watch.lost)
        watch.clear_s = watch.clear_s + 1 if total <= GREY_CLEAR else 0
        was_grey = watch.is_grey
        watch.is_grey = total >= GREY_LOST or (watch.is_grey and watch.clear_s < CLEAR_SECONDS)
        if not hellos and not watch.is_grey and not any(watch.lost):
            watch.lost = []
        if watch.is_grey != was_grey:
            self._repoint(spec)

    def _revive(self, now_ns: int, spec: PathSpec, watch: Watch, hellos: list[bool]) -> None:
        """19 of 20 heard, for a second and for the probation."""
        watch.gaps = watch.gaps + 1 if sum(hellos) <= 1 else 0
        if watch.gaps * S >= ALIVE_NS + self._probation_ns(now_ns, watch):
            watch.is_dead, watch.gaps, watch.in_a_row = False, 0, 0
            self._repoint(spec)

    def _repoint(self, spec: PathSpec) -> None:
        for handle, paths in self.handles.items():
            if spec in paths:
                self._point(handle)

    def _point(self, handle: Handle) -> None:
        paths = self.handles[handle]
        if not paths:
            self.active.pop(handle, None)
            return
        # Alive and not grey, then grey, then dead ones that are heard again, then the first.
        best = min(range(len(paths)), key=lambda number: (*self._rank(paths[number]), number))
        if self.active.get(handle) != paths[best]:
            self.active[handle] = paths[best]
            self.on_change(handle)

    def _rank(self, spec: PathSpec) -> tuple[bool, bool, bool]:
        watch = self.watches[spec]
        return watch.is_dead, watch.is_dead and not watch.is_passing, watch.is_grey


def lossy(ratios: Iterable[float]) -> bool:
    """Whether a path over links that lose so much needs its hellos thrown one by one."""
    passed = 1.0
    for ratio in ratios:
        passed *= 1 - ratio
    return 1 - passed >= LOSSY_FROM
