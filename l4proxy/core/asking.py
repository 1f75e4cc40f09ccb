"""Which record is asked of whom: one neighbour at a time for each owner, a few at once, and another one when no answer comes. Pure.

Whole records go only to who asks, so that a PoP that starts gets a fleet's records once and not once from each neighbour. A delta that
is still on its way makes most questions needless: what only lags is asked for after a while.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from l4proxy.core.bus import Version
from l4proxy.core.ids import PopName
from l4proxy.core.token_bucket import TokenBucket

GRACE_NS = 4_000_000_000
"""What is newer elsewhere is not asked for so long: its deltas are on their way, half a second a hop at most, over some five hops."""

GAP_GRACE_NS = 1_000_000_000
"""The same after a delta that came without the one before it: a neighbour tells in order, so that one is lost, or comes by another."""

TIMEOUT_NS = 3_000_000_000
"""For an answer: a large record over a slow path, and no more."""

MAX_OPEN = 16
"""Questions at once: at 26 kB for 987 links 400 kB on their way, which fills 16 Mbit/s over 200 ms."""

MAX_OFFERS = 8
"""Neighbours that are remembered for each owner; a PoP has some six."""

ASK_BURST, ASK_RATE_PER_S = 3, 0.1
"""Questions about one owner: who loses one message in ten seconds loses a connection; an owner that says more than may be passed on costs
the fleet a record each ten seconds and no more."""


@dataclass(slots=True)
class _Open:
    peer: PopName
    since_ns: int


@dataclass(slots=True)
class Asking:
    """Offers of neighbours that have newer records, and the questions that are open."""

    offers: dict[PopName, dict[PopName, tuple[Version, int]]] = field(default_factory=dict)
    """By owner and neighbour: the newest version that it has, and from when on it may be asked."""
    offers_full: int = 0
    unanswered: int = 0
    limited: int = 0
    """Questions that were put off because their owner's were too many."""
    _open: dict[PopName, _Open] = field(default_factory=dict)
    _buckets: dict[PopName, TokenBucket] = field(default_factory=dict)

    def handle_offer(self, owner: PopName, peer: PopName, version: Version, due_ns: int) -> None:
        """A neighbour has a newer record than we."""
        offers = self.offers.setdefault(owner, {})
        before = offers.get(peer)
        if before is None and len(offers) >= MAX_OFFERS:
            self.offers_full += 1
        elif before is None or version > before[0]:
            offers[peer] = (version, due_ns if before is None else min(due_ns, before[1]))

    def handle_version(self, owner: PopName, version: Version) -> None:
        """We have this version: it answers what was asked, and offers of nothing newer are over."""
        self._open.pop(owner, None)
        offers = self.offers.get(owner)
        if offers is not None:
            for peer in [peer for peer, (offered, _) in offers.items() if offered <= version]:
                del offers[peer]
            if not offers:
                del self.offers[owner]

    def handle_peers(self, connected: Collection[PopName], known: Collection[PopName]) -> None:
        """Forget those that are not connected, and owners that have left."""
        for owner in list(self.offers):
            offers = self.offers[owner]
            for peer in [peer for peer in offers if peer not in connected or owner not in known]:
                del offers[peer]
            if not offers:
                del self.offers[owner]
        for owner in [owner for owner, asked in self._open.items() if asked.peer not in connected]:
            del self._open[owner]
        for owner in [owner for owner in self._buckets if owner not in known]:
            del self._buckets[owner]

    def poll_questions(self, now_ns: int) -> dict[PopName, list[PopName]]:
        """Return what is to be asked now: neighbour → owners."""
        for owner in [o for o, asked in self._open.items() if now_ns - asked.since_ns >= TIMEOUT_NS]:
            self.unanswered += 1
            self._drop(owner, self._open.pop(owner).peer)
        found: dict[PopName, list[PopName]] = {}
        load: dict[PopName, int] = {}
        for asked in self._open.values():
            load[asked.peer] = load.get(asked.peer, 0) + 1
        for owner in sorted(self.offers):
            if len(self._open) >= MAX_OPEN:
                break
            due = [peer for peer, (_, due_ns) in self.offers[owner].items() if due_ns <= now_ns]
            if owner in self._open or not due:
                continue
            if not self._buckets.setdefault(owner, TokenBucket(ASK_BURST, ASK_RATE_PER_S)).take(now_ns):
                self.limited += 1
                self.offers[owner] = {
                    peer: (version, max(due_ns, now_ns + GRACE_NS))
                    for peer, (version, due_ns) in self.offers[owner].items()
                }
                continue
            newest = max(self.offers[owner][peer][0] for peer in due)
            peer = min(
                (peer for peer in due if self.offers[owner][peer][0] == newest),
                key=lambda peer: (load.get(peer, 0), peer),
            )
            self._open[owner] = _Open(peer, now_ns)
            load[peer] = load.get(peer, 0) + 1
            found.setdefault(peer, []).append(owner)
        return found

    def poll_timeout(self) -> int | None:
        """Return when `poll_questions` is due; None: nothing is offered and nothing open."""
        times = [asked.since_ns + TIMEOUT_NS for asked in self._open.values()]
        if len(self._open) < MAX_OPEN:
            for owner, offers in self.offers.items():
                if owner not in self._open:
                    times += [due_ns for _, due_ns in offers.values()]
        return min(times, default=None)

    def _drop(self, owner: PopName, peer: PopName) -> None:
        offers = self.offers.get(owner, {})
        offers.pop(peer, None)
        if not offers:
            self.offers.pop(owner, None)
