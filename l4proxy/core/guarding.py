"""What the guard of one PoP keeps from plan to plan: raw values of links, and for each app whether smart routing pays. Fed after plans."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan

import numpy as np

from l4proxy.core.app import App, Protocol
from l4proxy.core.egress import Choice
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.plan import Plan
from l4proxy.core.route import Policy
from l4proxy.core.routing.proof import Proof
from l4proxy.core.routing.raw import RawWindows
from l4proxy.core.routing.rows import no_rows

Key = tuple[AppName, Protocol]

MAX_CHANGES = 200
"""Changes of routes that are remembered for `explain`: an app in trouble makes some a minute."""


@dataclass(frozen=True, slots=True)
class Change:
    """New flows of an app took another way from here on."""

    at_ns: int
    app: AppName
    protocol: Protocol
    before: tuple[PopName, ...]
    """() before the first, or while there was none."""
    after: tuple[PopName, ...]
    links: tuple[LinkName, ...]
    reason: str


@dataclass(slots=True)
class Guarding:
    """Windows, proofs and the history of changes."""

    raw: RawWindows = field(default_factory=RawWindows)
    proofs: dict[Key, Proof] = field(default_factory=dict)
    changes: deque[Change] = field(default_factory=lambda: deque(maxlen=MAX_CHANGES))
    changes_forgotten: int = 0

    @property
    def proved(self) -> frozenset[Key]:
        """Apps and protocols for which smart routing pays."""
        return frozenset(key for key, proof in self.proofs.items() if proof.is_proved)

    def handle_plan(self, now_ns: int, before: Plan | None, plan: Plan) -> None:
        """Remember which routes have changed, and why."""
        for key, route in plan.routes.items():
            last = None if before is None or key not in before.routes else before.routes[key].chosen
            new = route.chosen
            if (last and (last.egress, last.links)) == (new and (new.egress, new.links)):
                continue
            handle = None if new is None or new.policy is None else plan.handles.get((new.egress, new.policy))
            if len(self.changes) == MAX_CHANGES:
                self.changes_forgotten += 1
            self.changes.append(
                Change(
                    now_ns,
                    *key,
                    before=() if last is None else last.path,
                    after=() if new is None else new.path,
                    links=() if new is None else new.links,
                    reason=route.reason if handle is None else f"{route.reason}; path: {handle.reason}",
                )
            )

    def handle_time(
        self,
        now_ns: int,
        pop: PopName,
        plan: Plan,
        apps: tuple[App, ...],
        newest_ms: Mapping[LinkName, float],
    ) -> None:
        """Take the values of one interval."""
        self.raw.handle_time(now_ns, pop, plan.table, plan.watched, newest_ms)
        self.proofs = {key: self.proofs.get(key) or Proof() for key in plan.routes}
        known = {app.name: app for app in apps}
        for key, route in plan.routes.items():
            traffic = Policy.of(known[route.app], route.protocol).traffic
            choices = (route.smart, route.off)
            rows = no_rows(2)
            for row, choice in enumerate(choices):
                numbers = [plan.table.number(name) for name in choice.links] if choice is not None else []
                if None not in numbers:
                    rows[row, : len(numbers)] = np.array(numbers, np.int32)
            paths_ms = self.raw.newest_costs(rows, plan.table, traffic).tolist()
            smart_ms, off_ms = (_whole(*both) for both in zip(choices, paths_ms, strict=True))
            self.proofs[key].add(smart_ms, off_ms)


def _whole(choice: Choice | None, path_ms: float) -> float:
    """Raw cost of a choice with its origin behind it; NaN: not known."""
    if choice is None or choice.origin_cost_ms is None:
        return nan
    return choice.origin_cost_ms + (0.0 if choice.policy is None else path_ms)
