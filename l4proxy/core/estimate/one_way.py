"""What parallel links of one pair of PoPs differ by on the way there, although nobody knows what time it is at the other end.

Of a sample, a = (received − sent) − rtt / 2 = the offset of the two clocks + (there − back) / 2. The offset is the same for every link
of the pair, so in aᵢ − aⱼ it cancels: twice that is by how much more lopsided link i is than link j. A route in one direction should
compare times in that direction, 2·thereᵢ = rttᵢ + (thereᵢ − backᵢ); so each link's round trip is corrected by

    cᵢ = (2 / n) Σⱼ (aᵢ − aⱼ)     over the n links j of the pair that are known beside i, i itself among them,

after which two links of the pair differ by exactly 2·(thereᵢ − thereⱼ), and their mean stays what it was (what all of them have in common
cannot be known without a common clock). The PoP at the other end does the same for the way back. Queues make a noisy: of the differences of
the last five minutes the one counts whose two samples had waited least (the clock filter of RFC 5905, section 10). Clocks drift: two
samples are compared only if they were taken within ten seconds.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from l4proxy.core.ids import LinkName

S = 1_000_000_000

APART_NS = 10 * S
"""Within this time two clocks drift by 0.2 ms at 20 parts in a million, which is what cheap crystals do; twice that is the error of c."""

WINDOW_NS = 300 * S
"""As long as the window of the least round trip."""

MAX_KEPT = 64
"""Differences that are kept of two links: only those that waited less than all that came later, a few in practice. Beyond them the one
that waited longest goes: it would count last."""

MAX_LINKS = 64
"""Links of one pair that are compared: every transit of one PoP with every one of the other makes 25 at five each. The rest is counted."""


@dataclass(frozen=True, slots=True)
class _Latest:
    at_ns: int
    rtt_ns: int
    lopsided_ns: int
    waited_ns: int


@dataclass(slots=True)
class _Differences:
    """aᵢ − aⱼ of two links, with how long the two samples had waited: the oldest first, each later one waited longer than it."""

    kept: deque[tuple[int, int, int]] = field(default_factory=deque)

    def add(self, at_ns: int, waited_ns: int, difference_ns: int) -> None:
        while self.kept and self.kept[-1][1] >= waited_ns:
            self.kept.pop()
        if len(self.kept) >= MAX_KEPT:
            self.kept.pop()
        self.kept.append((at_ns, waited_ns, difference_ns))

    def best(self, now_ns: int) -> int | None:
        while self.kept and self.kept[0][0] < now_ns - WINDOW_NS:
            self.kept.popleft()
        return self.kept[0][2] if self.kept else None


@dataclass(slots=True)
class OneWayDifferences:
    """The links from this PoP to one other."""

    restarts: int = 0
    """Times that a clock was set, and everything known began anew."""
    impossible: int = 0
    """Differences that were larger than the round trips allow."""
    full: int = 0
    """Samples of links beyond `MAX_LINKS`."""
    _latest: dict[LinkName, _Latest] = field(default_factory=dict)
    _differences: dict[tuple[LinkName, LinkName], _Differences] = field(default_factory=dict)

    def handle_sample(
        self, now_ns: int, link: LinkName, transit_ns: int, rtt_ns: int, least_rtt_ns: int
    ) -> None:
        """Take an answered sample: `transit_ns` is received − sent by the two clocks, `least_rtt_ns` the least of the link's window."""
        if link not in self._latest and len(self._latest) >= MAX_LINKS:
            self.full += 1
            return
        lopsided_ns = transit_ns - rtt_ns // 2
        mine = _Latest(now_ns, rtt_ns, lopsided_ns, max(0, rtt_ns - least_rtt_ns))
        self._latest[link] = mine
        for name, other in self._latest.items():
            if name == link or now_ns - other.at_ns > APART_NS:
                continue
            difference_ns = mine.lopsided_ns - other.lopsided_ns
            # |there − back| is at most the round trip, so a is within half of it of the clocks' offset.
            if abs(difference_ns) > (mine.rtt_ns + other.rtt_ns) // 2:
                self.impossible += 1
                continue
            waited_ns = mine.waited_ns + other.waited_ns
            if link < name:
                self._of(link, name).add(now_ns, waited_ns, difference_ns)
            else:
                self._of(name, link).add(now_ns, waited_ns, -difference_ns)

    def handle_step(self) -> None:
        """A clock was set: what was seen before and what will be seen have nothing in common."""
        self.restarts += 1
        self._latest.clear()
        self._differences.clear()

    def handle_shift(self, link: LinkName) -> None:
        """The link takes another way now: what it differed by before is void."""
        self._differences = {pair: found for pair, found in self._differences.items() if link not in pair}

    def keep(self, links: frozenset[LinkName]) -> None:
        """Forget links that are no longer there."""
        self._latest = {name: latest for name, latest in self._latest.items() if name in links}
        self._differences = {
            pair: found for pair, found in self._differences.items() if links.issuperset(pair)
        }

    def difference_ms(self, now_ns: int, one: LinkName, other: LinkName) -> float | None:
        """Return by how many ms `one` takes longer there than `other`, beyond half of what their round trips differ by; None: not known."""
        if one == other:
            return 0.0
        pair = (one, other) if one < other else (other, one)
        found = self._differences.get(pair)
        best_ns = found.best(now_ns) if found is not None else None
        if best_ns is None:
            return None
        return (best_ns if one < other else -best_ns) / 1e6

    def corrections_ms(self, now_ns: int) -> Mapping[LinkName, float]:
        """Return what is to be added to each link's round trip where a route is chosen for this direction alone, ms.

        Where every two links of the pair are known together, the sum is 0.
        """
        found = {}
        for link in self._latest:
            known = [self.difference_ms(now_ns, link, other) for other in self._latest]
            differences = [difference for difference in known if difference is not None]
            found[link] = 2 * sum(differences) / len(differences)
        return found

    def _of(self, one: LinkName, other: LinkName) -> _Differences:
        found = self._differences.get((one, other))
        if found is None:
            found = self._differences[one, other] = _Differences()
        return found
