"""What PoPs tell each other, in bytes: the stores and the flooding of production of a whole fleet in one process, in virtual time.

    python bench/control_traffic.py [--pops 330] [--links 3] [--seconds 120] [--noise 20] [--storm 0.1] [--json]

Every message is made, encoded and counted, and handed to the receiver's own code after the delay of its pair. Left out are engines, plans
and probes: links change as often as the RIPE traces say (1.1 labelled changes a day and link), times a margin for noise that crosses the
thresholds. All PoPs know all records at the beginning. `wire` adds to each message what carries it: stream framing, QUIC, UDP and IP
headers and its share of acknowledgements, 100 bytes in all.
"""

import argparse
import heapq
import itertools
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from l4proxy.core import bus, records
from l4proxy.core.bus import Delta, Heard, LinkState, Message, Record
from l4proxy.core.flooding import Flooding
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.records import RecordStore
from l4proxy.core.toggles import Toggles

MS = 1_000_000
S = 1_000 * MS
DAY_S = 86_400
START_NS = 1_700_000_000 * S
CHANGES_A_DAY = 1.10
"""Labelled changes of level a day and path in the RIPE Atlas traces, mean."""
SHIFT_MS_MEDIAN = 9.0
"""Their median size."""
WIRE_BYTES = 100
ONES = 10
"""PoPs whose one change is followed."""
WARM_UP_S = 20
"""Two digests of everybody."""


class Fleet:
    """All PoPs, the connections between them, and what they sent."""

    def __init__(self, count: int, links: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.pops = tuple(PopName(f"p{number:03}") for number in range(count))
        self.now_ns = START_NS
        self.sent = dict.fromkeys(self.pops, 0)
        self.messages = dict.fromkeys(self.pops, 0)
        self.kinds: dict[str, int] = {}
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.counts = itertools.count()
        self.wakes: dict[PopName, int] = {}
        self.dirty: set[PopName] = set()
        self.sizes: dict[tuple[PopName, tuple[int, int]], int] = {}
        self.checked = 0
        self.delays = {
            (a, b): self.random.randrange(5 * MS, 150 * MS) for a in self.pops for b in self.pops if a < b
        }
        self.links = {pop: self._links(pop, links) for pop in self.pops}
        self.parts = {
            pop: Flooding(RecordStore(pop, START_NS // S), Toggles(pop), self.pops, START_NS)
            for pop in self.pops
        }
        self._know_all()
        for pop in self.pops:
            self.at(self.now_ns + self.random.randrange(S), lambda pop=pop: self._tick(pop))
            self._wake(pop)

    def _links(self, pop: PopName, count: int) -> list[LinkState]:
        others = [peer for peer in self.pops if peer != pop]
        names = sorted(LinkName(f"{pop}/t{n}>{peer}/t{n}") for peer in others for n in range(count))
        rtts = [self.random.uniform(5, 300) for _ in names]
        return [
            LinkState(name, True, rtt, rtt * 0.98, 0.6, 0.0005, self.random.getrandbits(32)).rounded()
            for name, rtt in zip(names, rtts, strict=True)
        ]

    def _know_all(self) -> None:
        bases = {pop: Record(pop, START_NS // S, 1, tuple(self.links[pop]), ()) for pop in self.pops}
        for pop, part in self.parts.items():
            part.store.write(self.now_ns, bases[pop])
            for owner, base in bases.items():
                if owner != pop:
                    part.store.handle_heard(self.now_ns, owner, Heard(*base.version, 0, 0), self.pops)
                    part.store.handle_record(self.now_ns, base, self.pops)
            part.handle_connected(self.now_ns, frozenset(self.pops) - {pop})
            while part.poll_output() is not None:
                pass
            # They did not all start at this moment.
            part._digest_ns = self.now_ns + self.random.randrange(records.REFRESH_NS)

    def at(self, when_ns: int, what: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self.queue, (when_ns, next(self.counts), what))

    def _wake(self, pop: PopName) -> None:
        due_ns = self.parts[pop].poll_timeout()
        if due_ns < self.wakes.get(pop, 1 << 62):
            self.wakes[pop] = due_ns
            self.at(due_ns, lambda: self._on_wake(pop, due_ns))

    def _on_wake(self, pop: PopName, due_ns: int) -> None:
        if self.wakes.get(pop) == due_ns:
            del self.wakes[pop]
            self.parts[pop].handle_time(self.now_ns)
            self.drain(pop)

    def _tick(self, pop: PopName) -> None:
        self.at(self.now_ns + S, lambda: self._tick(pop))
        self.parts[pop].store.handle_time(self.now_ns, self.pops)
        if pop in self.dirty:
            self.publish(pop)

    def publish(self, pop: PopName) -> None:
        """Let a PoP say what has changed; what its bucket holds back it says with its next tick."""
        self.dirty.discard(pop)
        part = self.parts[pop]
        held = part.counters["held_back"]
        part.publish(self.now_ns, tuple(self.links[pop]), ())
        if part.counters["held_back"] > held:
            self.dirty.add(pop)
        self.drain(pop)

    def drain(self, pop: PopName) -> None:
        """Send what a PoP has to say."""
        part = self.parts[pop]
        while (output := part.poll_output()) is not None:
            peer, message = output
            size = self._size(message)
            self.sent[pop] += size
            self.messages[pop] += 1
            kind = kind_of(message)
            self.kinds[kind] = self.kinds.get(kind, 0) + size
            delay_ns = self.delays[min(pop, peer), max(pop, peer)]
            self.at(
                self.now_ns + delay_ns,
                lambda peer=peer, message=message, size=size: self._deliver(pop, peer, message, size),
            )
        self._wake(pop)

    def _size(self, message: Message) -> int:
        """Return how long the encoded message is. A delta goes to six neighbours of each of all PoPs: it is encoded once."""
        if not message.deltas:
            return len(bus.encode(message))
        rest = len(bus.encode(replace(message, deltas=message.deltas[:1]))) - self._delta_size(
            message.deltas[0]
        )
        header = 0 if len(message.deltas) < 16 else 2
        size = rest + header + sum(map(self._delta_size, message.deltas))
        self.checked += 1
        if self.checked % 1_000 == 0 and size != len(bus.encode(message)):
            raise AssertionError("the size of a message was counted wrong")
        return size

    def _delta_size(self, delta: Delta) -> int:
        key = (delta.owner, delta.version)
        if key not in self.sizes:
            one = len(bus.encode(Message(deltas=(delta,))))
            self.sizes[key] = one - len(bus.encode(Message())) - len("deltas") - 2
        return self.sizes[key]

    def _deliver(self, sender: PopName, peer: PopName, message: Message, size: int) -> None:
        part = self.parts[peer]
        if part.admits(self.now_ns, sender, size):
            part.handle_message(self.now_ns, sender, message)
            self.drain(peer)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now_ns + round(seconds * S)
        while self.queue and self.queue[0][0] <= end:
            self.now_ns, _, what = heapq.heappop(self.queue)
            what()
        self.now_ns = end

    def change(self, pop: PopName, place: int, **what: object) -> None:
        """Let a PoP find a link of its own otherwise."""
        self.links[pop][place] = replace(self.links[pop][place], **what)  # type: ignore[arg-type]
        self.dirty.add(pop)

    def noise(self, rate_s: float, seconds: float) -> None:
        """Let links change their level at random moments, so many a second in the whole fleet."""
        at_ns = float(self.now_ns)
        end = self.now_ns + seconds * S
        while (at_ns := at_ns + self.random.expovariate(rate_s) * S) < end:
            pop = self.random.choice(self.pops)
            place = self.random.randrange(len(self.links[pop]))
            self.at(round(at_ns), lambda pop=pop, place=place: self._shift(pop, place))

    def _shift(self, pop: PopName, place: int) -> None:
        size = self.random.lognormvariate(math.log(SHIFT_MS_MEDIAN), 1.2)
        rtt = max(1.0, self.links[pop][place].rtt_ms + size * self.random.choice((-1, 1)))
        self.change(pop, place, rtt_ms=rtt, rtt_ms_min=min(rtt, self.links[pop][place].rtt_ms_min))

    def storm(self, share: float) -> int:
        """Let a share of all links go down within a second; how many."""
        count = 0
        for pop in self.pops:
            for place in self.random.sample(range(len(self.links[pop])), round(len(self.links[pop]) * share)):
                count += 1
                self.at(
                    self.now_ns + self.random.randrange(S),
                    lambda pop=pop, place=place: self._fail(pop, place),
                )
        return count

    def _fail(self, pop: PopName, place: int) -> None:
        self.change(pop, place, is_up=False)
        self.publish(pop)

    def agree(self) -> bool:
        """Whether all have all records as their owners have them."""
        return not self.dirty and all(
            part.store.version(owner) == self.parts[owner].store.version(owner)
            for part in self.parts.values()
            for owner in self.pops
        )

    def known_everywhere_s(self, pop: PopName, **what: object) -> float:
        """Let a PoP find its first link otherwise; how many seconds it takes until all know."""
        begin_ns = self.now_ns
        self.change(pop, 0, **what)
        if what.get("is_up") is False:
            self.publish(pop)
        while self.dirty or any(
            part.store.version(pop) != self.parts[pop].store.version(pop) for part in self.parts.values()
        ):
            self.run(0.02)
            if self.now_ns - begin_ns > 60 * S:
                raise AssertionError("not known everywhere after a minute")
        return (self.now_ns - begin_ns) / S

    def restart(self, pop: PopName) -> float:
        """Start a PoP again without anything that it knew; how many seconds it takes until it knows all and all know its new record."""
        begin_ns = self.now_ns
        store = RecordStore(pop, self.now_ns // S)
        part = self.parts[pop] = Flooding(store, Toggles(pop), self.pops, self.now_ns)
        self.wakes.pop(pop, None)
        for other in self.pops:
            if other != pop:
                peers = self.parts[other]._connected
                self.parts[other].handle_connected(self.now_ns, peers - {pop})
                self.parts[other].handle_connected(self.now_ns, peers)
                self.drain(other)
        part.handle_connected(self.now_ns, frozenset(self.pops) - {pop})
        self.dirty.add(pop)
        self.drain(pop)
        while not self.agree():
            self.run(0.1)
            if self.now_ns - begin_ns > 120 * S:
                raise AssertionError("it does not know all after two minutes")
        return (self.now_ns - begin_ns) / S

    def reset(self) -> None:
        """Count from here on."""
        self.sent = dict.fromkeys(self.pops, 0)
        self.messages = dict.fromkeys(self.pops, 0)
        self.kinds = {}

    def rates(self, seconds: float) -> dict[str, float]:
        """Return kilobits a second of one PoP: mean, most, and with what carries the messages."""
        kbit = {pop: size * 8 / 1_000 / seconds for pop, size in self.sent.items()}
        wire = {
            pop: (self.sent[pop] + WIRE_BYTES * self.messages[pop]) * 8 / 1_000 / seconds for pop in self.pops
        }
        return {
            "mean_kbit_s": round(statistics.mean(kbit.values()), 1),
            "most_kbit_s": round(max(kbit.values()), 1),
            "wire_mean_kbit_s": round(statistics.mean(wire.values()), 1),
            "wire_most_kbit_s": round(max(wire.values()), 1),
            "messages_s": round(sum(self.messages.values()) / seconds / len(self.pops), 1),
        }


def kind_of(message: Message) -> str:
    """Return what a message mainly is."""
    if message.digest is not None:
        return "digests"
    if message.records:
        return "records"
    return "deltas" if message.deltas else "news" if message.news else "questions"


def share_results() -> None:
    """All stores apply the same delta to the same record: once is enough, and all records fit into memory."""
    once: dict[PopName, dict[tuple[int, int], Record]] = {}
    apply = records.apply

    def shared(record: Record, delta: Delta) -> Record:
        of_owner = once.setdefault(delta.owner, {})
        if delta.version not in of_owner:
            of_owner[delta.version] = apply(record, delta)
            if len(of_owner) > 200:
                del of_owner[next(iter(of_owner))]
        return of_owner[delta.version]

    records.apply = shared


def measure(pops: int, links: int, seconds: int, noise: float, storm: float, seed: int) -> dict[str, object]:
    """Return the figures of a fleet."""
    share_results()
    fleet = Fleet(pops, links, seed)
    count = sum(map(len, fleet.links.values()))
    rate_s = count * CHANGES_A_DAY / DAY_S * noise
    fleet.noise(rate_s, WARM_UP_S + seconds)
    fleet.run(WARM_UP_S)
    fleet.reset()
    fleet.run(seconds)
    steady = fleet.rates(seconds)
    shares = {kind: round(size * 8 / 1_000 / seconds / pops, 2) for kind, size in sorted(fleet.kinds.items())}
    oldest_ns = max(
        fleet.now_ns - at_ns for part in fleet.parts.values() for at_ns in part.store.alive_ns.values()
    )
    # The noise is over: what the storm costs, and when all know of it, is seen by itself.
    fleet.run(10)
    cuts = [fleet.known_everywhere_s(pop, is_up=False) for pop in fleet.pops[:ONES]]
    moves = [fleet.known_everywhere_s(pop, rtt_ms=1_000.0) for pop in fleet.pops[:ONES]]
    fleet.reset()
    newcomer_s = fleet.restart(fleet.pops[ONES])
    newcomer_mbytes = sum(fleet.sent.values()) / 1e6
    fleet.run(10)
    fleet.reset()
    begin_ns = fleet.now_ns
    failed = fleet.storm(storm)
    fleet.run(1)
    while not fleet.agree() and fleet.now_ns - begin_ns < 60 * S:
        fleet.run(0.1)
    known_s = (fleet.now_ns - begin_ns) / S
    kbytes = statistics.mean(fleet.sent.values()) / 1_000
    fleet.run(60 - known_s)
    minute = fleet.rates(60)
    totals: dict[str, int] = {}
    for part in fleet.parts.values():
        for reason, n in part.counters.items():
            totals[reason] = totals.get(reason, 0) + n
        totals["unanswered"] = totals.get("unanswered", 0) + part.asking.unanswered
    return {
        "pops": pops,
        "links": count,
        "changes_s": round(rate_s, 1),
        "steady": steady,
        "steady_kbit_s_by_kind": shares,
        "oldest_living_s": round(oldest_ns / S, 1),
        "one_cut_known_everywhere_s": {
            "median": round(statistics.median(cuts), 2),
            "most": round(max(cuts), 2),
        },
        "one_move_known_everywhere_s": {
            "median": round(statistics.median(moves), 2),
            "most": round(max(moves), 2),
        },
        "newcomer": {"knows_all_s": round(newcomer_s, 1), "fleet_mbytes": round(newcomer_mbytes, 2)},
        "storm_links": failed,
        "storm_known_everywhere_s": round(known_s, 1),
        "storm_kbytes_until_then": round(kbytes, 1),
        "minute_of_storm": minute,
        "counters": totals,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pops", type=int, default=330, help="PoPs of the fleet, a full mesh")
    parser.add_argument("--links", type=int, default=3, help="links of each pair and direction")
    parser.add_argument("--seconds", type=int, default=120, help="how long the steady state is measured")
    parser.add_argument("--noise", type=float, default=20.0, help="times the changes of the traces")
    parser.add_argument("--storm", type=float, default=0.1, help="share of links that go down in a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    begin = time.monotonic()
    found = measure(options.pops, options.links, options.seconds, options.noise, options.storm, options.seed)
    found["took_s"] = round(time.monotonic() - begin, 1)
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        for name, value in found.items():
            sys.stdout.write(f"{name}: {value}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
