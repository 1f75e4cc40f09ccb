"""What flows really got → which egress of an app, and which links, must not be used for a while. It can only remove.

It is code and data of its own: it sees what became of connects, and what tunnel connections saw of their paths, and knows nothing of
how routes are built or what probes say of a link's cost. So it finds what those are blind to: an origin that one egress cannot reach, and
a link over which probes pass and data dies. No clock: time is an argument, wall-clock nanoseconds.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from l4proxy.core.confidence import wilson
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.outcomes import FlowOutcomes, PathReport

WINDOW_NS = 10_000_000_000
"""What is older says nothing: a TCP connect that is lost is repeated after 1, 3 and 7 s (RFC 6298), so 10 s hold all of one."""

BAD_SHARE = 0.5
"""An egress is left when at least half of its connects fail. A full listen queue refuses some and serves the rest."""

SILENT_FLOWS = 5
"""UDP flows that never heard anything, while others of the app did elsewhere: one or two of them are clients that went away."""

JUDGED_PACKETS = 50
"""Of fewer packets a share is a guess, whatever its bounds: they come in bursts."""

LOSS_BAD = 0.2
"""QUIC's own sending loses a few per cent at a full queue and backs off; a fifth is a link that does not carry. It must be so much with
95 % confidence: of 53 packets of a link that loses one in ten, 12 are lost now and then, and such a link is for cost to judge."""

LOSS_GOOD = 0.05
"""Links of a path that loses less than this are not to blame for another path's loss."""

DEAD_PACKETS = 20
"""Sent and nothing heard, not even an acknowledgement: more than the probes of QUIC's timer make in the window (RFC 9002: 6 or so)."""

SLOW_RATIO = 2.0
SLOW_MS = 50.0
"""Data that takes twice as long as probes and 50 ms more is held up where probes are not; less is acknowledgement delay."""

LIGHT_BYTES_S = 125_000
"""A path that carries more than 1 Mbit/s may wait in its own queue: its round trip says nothing against it."""

FIRST_QUIET_NS = 10_000_000_000
"""How long what was removed stays out the first time: as long as it takes to be sure, since the window empties."""

MAX_QUIET_NS = 300_000_000_000
"""It doubles with every time, up to this: what fails all day costs one flow in five minutes."""

FORGET_NS = 600_000_000_000
"""After this long the next removal is the first again: twice the longest quiet time, so that a doubling is not forgotten within."""

TRIAL_GOOD = 3
"""Connects that must succeed, none failing, before all flows go there again."""

TRIAL_NS = 30_000_000_000
"""A trial that saw nothing bad ends well after this: an app with few flows has no three to spare."""

LINKS_SHARE = 1 / 3
"""More than this part of a PoP's links do not fail together: then the PoP that sees it is the sick one."""

MAX_WATCHED = 4_096
"""Apps × egresses, and paths, that are watched at a time."""

_BAD = {
    "refused": "refused",
    "unreachable": "unreachable",
    "timed_out": "timed out",
    "reset_early": "reset before the first byte",
    "no_tunnel": "without a tunnel",
    "egress_refused": "refused by the egress PoP",
}
"""What speaks against an egress, in words. Not `failed`: a certificate or a source address is wrong wherever it is dialled."""

Way = tuple[AppName, PopName]
_Key = TypeVar("_Key")
_Seen = TypeVar("_Seen")


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that must not be used, why in words, and since when (wall clock, ns). `on_trial`: one flow in some tests it again."""

    reason: str
    since_ns: int
    until_ns: int
    on_trial: bool = False


@dataclass(slots=True)
class _Case:
    """What is known against one egress of an app, or one link."""

    since_ns: int = 0
    until_ns: int = 0
    quiet_ns: int = 0
    reason: str = ""
    is_removed: bool = False
    trial_since_ns: int | None = None

    def convict(self, now_ns: int, reason: str) -> None:
        """Remove it, for longer than the last time unless that is forgotten."""
        is_again = self.quiet_ns > 0 and now_ns - self.until_ns < FORGET_NS
        self.quiet_ns = min(MAX_QUIET_NS, self.quiet_ns * 2) if is_again else FIRST_QUIET_NS
        if not self.is_removed:
            self.since_ns = now_ns
        self.until_ns = now_ns + self.quiet_ns
        self.reason, self.is_removed, self.trial_since_ns = reason, True, None

    def acquit(self, now_ns: int) -> None:
        """Use it again, and remember how long it was out."""
        self.until_ns = min(self.until_ns, now_ns)
        self.is_removed, self.trial_since_ns = False, None

    def removal(self) -> Removal:
        return Removal(self.reason, self.since_ns, self.until_ns, self.trial_since_ns is not None)


@dataclass(slots=True)
class Disqualifier:
    """The one of a PoP. Feed it with `handle_outcomes` and `handle_time`; read `egresses`, `links` and `problems`."""

    full: int = 0
    """What was not watched because the tables were full."""
    _flows: dict[Way, deque[tuple[int, FlowOutcomes]]] = field(default_factory=dict)
    _paths: dict[tuple[LinkName, ...], deque[tuple[int, PathReport, float]]] = field(default_factory=dict)
    _probed_ms: Mapping[LinkName, float] = field(default_factory=dict)
    _cases: dict[Way, _Case] = field(default_factory=dict)
    _link_cases: dict[LinkName, _Case] = field(default_factory=dict)
    _hopeless_ns: dict[AppName, int] = field(default_factory=dict)
    """Apps of which every egress failed, and when that was seen last."""
    _problems: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def egresses(self) -> Mapping[Way, Removal]:
        """What must not be used for an app, by app and egress (this PoP itself: dialling from here)."""
        return {way: case.removal() for way, case in sorted(self._cases.items()) if case.is_removed}

    @property
    def links(self) -> Mapping[LinkName, Removal]:
        """Links that must not be used for anything."""
        return {name: case.removal() for name, case in sorted(self._link_cases.items()) if case.is_removed}

    def problems(self) -> list[tuple[str, int, str]]:
        """Return what an operator should know: what, since when, and what to do about it."""
        return [(what, since_ns, fix) for what, (fix, since_ns) in sorted(self._problems.items())]

    def handle_outcomes(
        self,
        now_ns: int,
        flows: Iterable[FlowOutcomes],
        paths: Iterable[PathReport] = (),
        elapsed_ms: int = 0,
        probed_ms: Mapping[LinkName, float] | None = None,
    ) -> None:
        """Take what the engine has seen; `probed_ms`: what probes say of the round trip of each link that is up, as far as it is known."""
        if probed_ms is not None:
            self._probed_ms = probed_ms
        for outcome in flows:
            self._note(self._flows, (outcome.app, outcome.egress), (now_ns, outcome))
        for report in paths:
            if report.links and elapsed_ms > 0:
                self._note(self._paths, report.links, (now_ns, report, elapsed_ms / 1e3))

    def handle_time(
        self, now_ns: int, egresses: Mapping[AppName, frozenset[PopName]], own_links: frozenset[LinkName]
    ) -> bool:
        """Judge. `egresses`: what each app could use, this PoP included where it may dial; `own_links`: own links that are up.

        Returns whether what is removed, or on trial, has changed.
        """
        before = (self._marks(), self._link_marks())
        self._trim(now_ns, egresses)
        problems: dict[str, str] = {}
        for app, usable in egresses.items():
            self._judge_app(now_ns, app, usable, problems)
        self._judge_links(now_ns, own_links, problems)
        self._problems = {
            what: (fix, self._problems[what][1] if what in self._problems else now_ns)
            for what, fix in problems.items()
        }
        return before != (self._marks(), self._link_marks())

    # Egresses

    def _judge_app(
        self, now_ns: int, app: AppName, usable: frozenset[PopName], problems: dict[str, str]
    ) -> None:
        if self._is_hopeless(now_ns, app, usable):
            problems[_hopeless(app)] = _HOPELESS_FIX
            return
        bad = {egress: said for egress in usable if (said := self._against((app, egress)))}
        for egress, said in sorted(bad.items()):
            case = self._cases.setdefault((app, egress), _Case())
            # What has been removed fails on: flows that had no other way. Only a trial says something new.
            if not case.is_removed or case.trial_since_ns is not None:
                case.convict(now_ns, said)
                self._flows.pop((app, egress), None)
        out = [
            egress
            for egress in usable
            if (app, egress) in self._cases and self._cases[app, egress].is_removed
        ]
        if usable and len(out) == len(usable):
            # Never the last one. When all fail it is the origin, and none of them is worse than another.
            if len(usable) > 1:
                problems[_hopeless(app)] = _HOPELESS_FIX
                self._hopeless_ns[app] = now_ns
            for egress in usable:
                del self._cases[app, egress]
            return
        for egress in out:
            self._go_on(now_ns, (app, egress))

    def _is_hopeless(self, now_ns: int, app: AppName, usable: frozenset[PopName]) -> bool:
        """Whether all egresses failed of late and none did better since. Then none is removed: routes would go round in circles."""
        since_ns = self._hopeless_ns.get(app)
        if since_ns is None:
            return False
        is_better = any(o.connected for egress in usable for _, o in self._flows.get((app, egress), ()))
        if is_better or now_ns - since_ns > WINDOW_NS:
            del self._hopeless_ns[app]
            # The failures before were the origin's.
            for egress in usable:
                if (app, egress) in self._flows:
                    good = (seen for seen in self._flows[app, egress] if seen[1].connected)
                    self._flows[app, egress] = deque(good)
            return False
        if any((app, egress) in self._flows and self._against((app, egress)) for egress in usable):
            self._hopeless_ns[app] = max(since_ns, self._latest(app, usable))
        return True

    def _latest(self, app: AppName, usable: frozenset[PopName]) -> int:
        return max(seen[-1][0] for egress in usable if (seen := self._flows.get((app, egress))))

    def _against(self, way: Way) -> str:
        """Why an egress must not be used for an app, in words; empty: nothing speaks against it."""
        seen = [outcome for _, outcome in self._flows.get(way, ())]
        counts = {name: sum(getattr(outcome, name) for outcome in seen) for name in _BAD}
        if not self._has_elsewhere(way, "connected"):
            # A client can bring an origin to that with a few wrong bytes: alone it must not move the others.
            counts["reset_early"] = 0
        failed = sum(counts.values())
        # On trial nothing may fail.
        case = self._cases.get(way)
        is_on_trial = case is not None and case.trial_since_ns is not None
        # A flow that was reset before the first byte had been connected, or had not: either way it is no good one.
        good = max(0, sum(outcome.connected for outcome in seen) - counts["reset_early"])
        if failed and (is_on_trial or failed >= BAD_SHARE * (failed + good)):
            said = ", ".join(f"{count} {_BAD[name]}" for name, count in counts.items() if count)
            return f"{failed} of {failed + good} connects failed ({said})"
        silent, answered = sum(o.silent for o in seen), sum(o.answered for o in seen)
        if silent >= SILENT_FLOWS and not answered and self._has_elsewhere(way, "answered"):
            return f"{silent} UDP flows heard nothing, and others do through other egresses"
        return ""

    def _has_elsewhere(self, way: Way, name: str) -> bool:
        """Whether something was seen of the app through another egress."""
        return any(
            getattr(outcome, name)
            for (app, egress), seen in self._flows.items()
            if app == way[0] and egress != way[1]
            for _, outcome in seen
        )

    def _go_on(self, now_ns: int, way: Way) -> None:
        """After the quiet time few flows try it; after they did well, or nothing came, all may."""
        case = self._cases[way]
        if case.trial_since_ns is None:
            if now_ns >= case.until_ns:
                case.trial_since_ns = now_ns
                self._flows.pop(way, None)
            return
        good = sum(outcome.connected + outcome.answered for _, outcome in self._flows.get(way, ()))
        if good >= TRIAL_GOOD or now_ns - case.trial_since_ns >= TRIAL_NS:
            case.acquit(now_ns)

    # Links

    def _judge_links(self, now_ns: int, own_links: frozenset[LinkName], problems: dict[str, str]) -> None:
        most = max(1, int(len(own_links) * LINKS_SHARE))
        blamed = self._blamed()
        for case in self._link_cases.values():
            if case.is_removed and now_ns >= case.until_ns:
                case.acquit(now_ns)
        out = {name for name, case in self._link_cases.items() if case.is_removed}
        suspects = out | set(blamed)
        if len(suspects) > most or (own_links and own_links <= suspects):
            if len(suspects) > 1:
                problems[
                    f"data dies on {len(suspects)} links at once ({', '.join(sorted(suspects))}): nothing is removed"
                ] = "look at this host first: its network card, firewall, processor and memory"
            for name in out:
                self._link_cases[name].acquit(now_ns)
            return
        for name, said in sorted(blamed.items()):
            case = self._link_cases.setdefault(name, _Case())
            if not case.is_removed:
                case.convict(now_ns, said)
        if blamed:
            # What was seen is judged: after the quiet time only what is seen then counts.
            for links in [links for links in self._paths if set(links) & set(blamed)]:
                del self._paths[links]

    def _blamed(self) -> dict[LinkName, str]:
        """Links of paths that do not carry, without those that carry as parts of other paths."""
        bad: dict[tuple[LinkName, ...], str] = {}
        good: set[LinkName] = set()
        for links in self._paths:
            said, is_good = self._verdict(links)
            if said:
                bad[links] = said
            elif is_good:
                good.update(links)
        found: dict[LinkName, str] = {}
        for links, said in sorted(bad.items()):
            for name in links:
                if name not in good:
                    found.setdefault(name, said)
        return found

    def _verdict(self, links: tuple[LinkName, ...]) -> tuple[str, bool]:
        """What speaks against a path, and whether it is known to carry. Nothing, where probes say themselves that a link of it is bad."""
        if not all(name in self._probed_ms for name in links):
            return "", False
        seen = self._paths[links]
        packets = sum(report.packets for _, report, _ in seen)
        lost = sum(report.lost for _, report, _ in seen)
        heard = sum(report.bytes_in for _, report, _ in seen)
        if packets >= DEAD_PACKETS and not heard:
            return f"{packets} packets were sent, and nothing was heard, while probes pass", False
        if packets < JUDGED_PACKETS:
            return "", False
        # More can be declared lost than was sent in the time: they were sent before.
        ratio = min(1.0, lost / packets)
        if wilson(min(lost, packets), packets)[0] >= LOSS_BAD:
            return f"{ratio:.0%} of {packets} packets were lost, while probes pass", False
        slow = self._slow(links)
        return slow, not slow and ratio < LOSS_GOOD

    def _slow(self, links: tuple[LinkName, ...]) -> str:
        """Whether data is held up in all of the window where probes are not."""
        probed_ms = sum(self._probed_ms[name] for name in links)
        limit_ms = SLOW_RATIO * probed_ms + SLOW_MS
        seen = self._paths[links]
        span_s = (seen[-1][0] - seen[0][0]) / 1e9 + seen[0][2]
        is_light = all(
            max(report.bytes_out, report.bytes_in) <= LIGHT_BYTES_S * elapsed_s
            for _, report, elapsed_s in seen
        )
        # Nine tenths of the window: a report more or less is chance.
        if is_light and span_s >= 0.9 * WINDOW_NS / 1e9 and all(r.rtt_ms > limit_ms for _, r, _ in seen):
            rtt_ms = min(report.rtt_ms for _, report, _ in seen)
            return f"data takes {rtt_ms:.0f} ms there and back, probes {probed_ms:.0f} ms"
        return ""

    # Tables

    def _note(self, table: dict[_Key, deque[_Seen]], key: _Key, seen: _Seen) -> None:
        if key not in table and len(table) >= MAX_WATCHED:
            self.full += 1
            return
        table.setdefault(key, deque()).append(seen)

    def _trim(self, now_ns: int, egresses: Mapping[AppName, frozenset[PopName]]) -> None:
        for way, flows in list(self._flows.items()):
            while flows and now_ns - flows[0][0] > WINDOW_NS:
                flows.popleft()
            if not flows or way[1] not in egresses.get(way[0], frozenset()):
                del self._flows[way]
        for links, reports in list(self._paths.items()):
            while reports and now_ns - reports[0][0] > WINDOW_NS:
                reports.popleft()
            if not reports:
                del self._paths[links]
        self._cases = {
            way: case
            for way, case in self._cases.items()
            if way[1] in egresses.get(way[0], frozenset()) and _is_remembered(case, now_ns)
        }
        self._hopeless_ns = {app: at for app, at in self._hopeless_ns.items() if app in egresses}
        self._link_cases = {
            name: case for name, case in self._link_cases.items() if _is_remembered(case, now_ns)
        }

    def _marks(self) -> set[tuple[Way, bool]]:
        return {
            (way, case.trial_since_ns is not None) for way, case in self._cases.items() if case.is_removed
        }

    def _link_marks(self) -> set[LinkName]:
        return {name for name, case in self._link_cases.items() if case.is_removed}


_HOPELESS_FIX = "check the origin and what lies before it: no egress is better than another"


def _hopeless(app: AppName) -> str:
    return f"app {app}: connects to the origin fail through every egress"


def _is_remembered(case: _Case, now_ns: int) -> bool:
    return case.is_removed or now_ns - case.until_ns < FORGET_NS
