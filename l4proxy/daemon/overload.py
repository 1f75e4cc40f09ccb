"""Whether the engine refuses new flows to spare live ones, and what to do about it: for `status`. Pure; time is an argument."""

from collections.abc import Mapping

from l4proxy.daemon.engine_messages import Counters

MEMORY_SHORT = (
    "memory is short: new flows are refused so that live ones go on",
    "give the host or the control group more memory, or lower limits.flows of the apps",
)

FULL: Mapping[str, tuple[str, str]] = {
    "fd_limit": (
        "no descriptors are left: new flows were refused",
        "raise the limit of open files (LimitNOFILE of the unit, ulimit -n); a TCP flow takes two, a UDP session one",
    ),
    "tcp_flows_full": (
        "the table of TCP flows is full: new flows were refused",
        "see who has so many with l4proxy flow list, and set limits.flows_per_source",
    ),
    "sessions_full": (
        "the table of UDP sessions is full: new flows were refused",
        "see who has so many with l4proxy flow list, and set limits.flows_per_source",
    ),
    "overlay_memory_full": (
        "the tunnels have all the memory that they may have: fast flows between PoPs are slower than they could be",
        "raise --overlay-memory (L4PROXY_OVERLAY_MEMORY); slow clients of large downloads hold most of it",
    ),
}
"""Refusals that spare live flows: what happens, and the fix."""

REMEMBERED_S = 60.0
"""How long after the last such refusal it is still said: `status` is not looked at in the very second."""


class Overload:
    """Follows the counters of one engine."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._refused_s: dict[str, float] = {}
        """When each reason was counted last."""
        self._is_short = False
        self._told: dict[str, str] = {}
        """What was wrong when news were asked for last."""

    def look(self, counters: Counters | None, now_s: float) -> None:
        """Take the newest counters; None: there is no engine."""
        drops = {} if counters is None else {**counters.drops, **counters.values}
        self._is_short = counters is not None and bool(counters.values.get("memory_short", 0))
        for reason in FULL:
            count = drops.get(reason, 0)
            # A daemon that takes over does not know when its engine counted; one that starts anew counts from 0.
            if count > self._before.get(reason, count):
                self._refused_s[reason] = now_s
            self._before[reason] = count

    def problems(self, now_s: float) -> dict[str, str]:
        """Return what is wrong now, each with its fix."""
        late = {FULL[reason] for reason, at_s in self._refused_s.items() if now_s - at_s <= REMEMBERED_S}
        return dict(sorted(late | ({MEMORY_SHORT} if self._is_short else set())))

    def news(self, now_s: float) -> tuple[dict[str, str], list[str]]:
        """Return what has gone wrong since this was asked last, each with its fix, and what is over: for the log."""
        before, self._told = self._told, self.problems(now_s)
        begun = {what: fix for what, fix in self._told.items() if what not in before}
        return begun, [what for what in before if what not in self._told]
