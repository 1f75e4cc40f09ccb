"""What PoPs tell each other, and when: the own record is published, what is new is passed on, digests find what was lost. Sans-IO.

After every input call `poll_output` until it gives None, then wait until `poll_timeout`. Changes go along the edges of `flood_graph` as
deltas; a base is announced, and sent to who asks. Urgent changes leave within 50 ms, numbers within half a second, in one message with
all others of that time. Nothing here is owed to one message: whatever is lost is found by the digests of the next ten seconds.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from l4proxy.core import bus
from l4proxy.core.asking import GAP_GRACE_NS, GRACE_NS, Asking
from l4proxy.core.bus import Chosen, Delta, Heard, LinkState, Message, OriginState, Record, ToggleState
from l4proxy.core.flood_graph import FloodGraph
from l4proxy.core.ids import PopName
from l4proxy.core.records import REFRESH_NS, RecordStore, is_urgent
from l4proxy.core.toggles import Toggles
from l4proxy.core.token_bucket import TokenBucket

_T = TypeVar("_T")

BATCH_NS = 500_000_000
"""How long a change of numbers waits for others: of five hops that is 2.5 s, and smoothed round trips take eight to move."""

URGENT_NS = 50_000_000
"""The same for what may be the death of a path: five hops are a quarter of a second, beside the three seconds in which a link is found to
be down. Without it a storm of cuts would be a message for each link and neighbour."""

GREET_NS = 1_000_000_000
"""Between greetings of new neighbours: when two halves of a fleet meet, connections come up one after the other."""

FOLLOW_NS = 3 * REFRESH_NS
"""Who has asked to be told stays one who is told for so long."""

MAX_FOLLOWERS = 16
"""Who asks to be told and is no neighbour of ours by the graph; a PoP has some six that are."""

MAX_PENDING = 4_000
"""Deltas that wait for one neighbour: half a second of a storm in which each of 330 PoPs says ten things."""

OWN_BURST, OWN_RATE_PER_S = 5, 1.0
"""Deltas of this PoP: five at once, then one a second, each with everything that has changed by then."""

REWRITE_BURST, REWRITE_RATE_PER_S = 2, 0.1
"""New bases of this PoP, which cost every PoP a whole record: after a start, and when somebody has a newer record of ours."""

OWNER_BURST, OWNER_RATE_PER_S = 20, 2.0
"""Deltas of another PoP that are taken and passed on: twice what it may send, and four times the burst for what was held up together."""

PEER_BURST, PEER_RATE_PER_S = 16 << 20, 1 << 20
"""Bytes that one neighbour may send: the records of 330 PoPs with 987 links each at once, which we ask for, then 1 MiB a second."""

MESSAGE_BYTES = 1_000
"""What a message counts on top of its bytes: reading it takes some time however short it is."""

SERVE_BURST, SERVE_RATE_PER_S = 400_000, 25_000
"""Items that one neighbour may have as answers: the links and origins of such a fleet, then about 1 MB a second. A line of news is an item
too, and a register of toggles: a question of thirty bytes has all of them as its answer."""

MAX_WANT = 64
"""Owners in one question; we ask for 16."""

PART_ITEMS = 2_000
"""Links, origins or toggles in one message: some 50 kB, so that what is urgent does not wait behind a megabyte, the most there may be."""


@dataclass(slots=True)
class _Pending:
    """What waits for one neighbour, in the order in which it was applied here."""

    deltas: dict[tuple[PopName, int, int], Delta] = field(default_factory=dict)
    news: set[PopName] = field(default_factory=set)


class Learnt(NamedTuple):
    """What a message has changed here: a record in a way that paths may be dead or alive of, or toggles."""

    urgent: bool
    toggles: bool


class Flooding:
    """The part of one PoP. `counters`: what was held back or not taken, by reason."""

    def __init__(self, store: RecordStore, toggles: Toggles, pops: Collection[PopName], now_ns: int) -> None:
        self.store, self.toggles = store, toggles
        self.asking = Asking()
        self.counters: Counter[str] = Counter()
        self.neighbours: tuple[PopName, ...] = ()
        self._pops: Collection[PopName] = pops
        self._graph = FloodGraph(store.own, pops)
        self._connected: frozenset[PopName] = frozenset()
        self._followers: dict[PopName, int] = {}
        self._pending: dict[PopName, _Pending] = {}
        self._flush_ns: int | None = None
        self._digest_ns = now_ns + REFRESH_NS
        self._turn = 0
        self._greet: set[PopName] = set()
        self._greeted_ns = now_ns - GREET_NS
        self._own = TokenBucket(OWN_BURST, OWN_RATE_PER_S)
        self._rewrites = TokenBucket(REWRITE_BURST, REWRITE_RATE_PER_S)
        self._owners: dict[PopName, TokenBucket] = {}
        self._from_peers: dict[PopName, TokenBucket] = {}
        self._to_peers: dict[PopName, TokenBucket] = {}
        self._outputs: deque[tuple[PopName, Message]] = deque()

    # Inputs

    def handle_fleet(self, now_ns: int, pops: Collection[PopName]) -> None:
        """Take the fleet file's PoPs."""
        self._pops = pops
        self._graph = FloodGraph(self.store.own, pops)
        for table in (self._owners, self._from_peers, self._to_peers):
            for pop in [pop for pop in table if pop not in pops]:
                del table[pop]
        self.handle_connected(now_ns, self._connected & frozenset(pops))

    def handle_connected(self, now_ns: int, connected: frozenset[PopName]) -> None:
        """Take which pair connections stand. A connection that was lost and came back is to be said as both."""
        self._connected = connected
        self.asking.handle_peers(connected, self._pops)
        for peer in [peer for peer in self._pending if peer not in connected]:
            del self._pending[peer]
        for peer in [peer for peer in self._followers if peer not in connected]:
            del self._followers[peer]
        before, self.neighbours = self.neighbours, self._graph.neighbours(connected)
        self._greet = (self._greet | set(self.neighbours) - set(before)) & set(self.neighbours)
        self.handle_time(now_ns)

    def admits(self, now_ns: int, peer: PopName, size: int) -> bool:
        """Whether a message of so many bytes is to be read at all: what one neighbour may send is bounded."""
        bucket = self._from_peers.setdefault(peer, TokenBucket(PEER_BURST, PEER_RATE_PER_S))
        if bucket.take(now_ns, size + MESSAGE_BYTES):
            return True
        self.counters["neighbour_limited"] += 1
        return False

    def handle_message(self, now_ns: int, peer: PopName, message: Message) -> Learnt:
        """Take what a neighbour says."""
        if message.follow:
            self._on_follow(now_ns, peer)
        urgent = False
        # What a message says of versions comes first: it also says whose records are of living PoPs.
        for lines in (message.digest or {}, message.news):
            for owner, heard in lines.items():
                self._on_heard(now_ns, peer, owner, heard)
        for record in message.records:
            urgent |= self._on_record(now_ns, peer, record)
        for delta in message.deltas:
            urgent |= self._on_delta(now_ns, peer, delta)
        new_toggles = self.toggles.merge(message.toggles)
        if new_toggles:
            self.tell_toggles(new_toggles, without=peer)
        if message.want:
            self._on_want(now_ns, peer, message)
        if message.digest is not None:
            news = self.store.newer_than(now_ns, message.digest, GRACE_NS)
            if news and self._may_have(now_ns, peer, len(news)):
                self._send(peer, Message(news=news))
        # Both sides ask, so that each gets what it lacks, and the answer asks nothing.
        if message.toggles_hash is not None:
            self._on_hash(now_ns, peer, message.toggles_hash)
        self.handle_time(now_ns)
        return Learnt(urgent, bool(new_toggles))

    def publish(
        self,
        now_ns: int,
        links: tuple[LinkState, ...],
        origins: tuple[OriginState, ...],
        egresses: tuple[Chosen, ...] = (),
    ) -> bool:
        """Write and tell how things are here, if that says something new and enough was not said just before; whether it was written.

        What is held back goes with the next delta: the caller comes again, each second at the latest.
        """
        change = self.store.change(links, origins, egresses)
        if change is None:
            return False
        bucket = self._own if isinstance(change, Delta) else self._rewrites
        if not bucket.take(now_ns):
            self.counters["held_back"] += 1
            return False
        old = self.store.records.get(self.store.own)
        self.store.write(now_ns, change)
        if isinstance(change, Delta) and old is not None:
            self._pass_on(now_ns, change, is_urgent(old, change), without=None)
        else:
            self._announce(now_ns, self.store.own, without=None)
        self.handle_time(now_ns)
        return True

    def tell_toggles(self, toggles: tuple[ToggleState, ...], without: PopName | None) -> None:
        """Pass on toggles at once: people wait for them."""
        for peer in self._told():
            if peer != without:
                self._send(peer, Message(toggles=toggles))

    def handle_time(self, now_ns: int) -> None:
        """Do what is due."""
        if now_ns >= self._digest_ns:
            self._digest_ns = now_ns + REFRESH_NS
            self.store.beat += 1
            self._say_digests(now_ns)
        if self._greet and now_ns >= self._greeted_ns + GREET_NS:
            self._greeted_ns = now_ns
            greeting = replace(self._digest(now_ns), follow=True)
            for peer in sorted(self._greet):
                self._send(peer, greeting)
            self._greet.clear()
        if self._flush_ns is not None and now_ns >= self._flush_ns:
            self._flush(now_ns)
        for peer, owners in self.asking.poll_questions(now_ns).items():
            self._send(peer, Message(want={owner: self.store.version(owner) for owner in owners}))

    # Outputs

    def poll_output(self) -> tuple[PopName, Message] | None:
        """Return the next message and for whom it is."""
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> int:
        """Return when `handle_time` is due."""
        times = [self._digest_ns, self._flush_ns, self.asking.poll_timeout()]
        if self._greet:
            times.append(self._greeted_ns + GREET_NS)
        return min(at_ns for at_ns in times if at_ns is not None)

    def events(self) -> dict[str, int]:
        """Return what was held back, lost or asked for in vain so far, by name."""
        asking = self.asking
        return {
            **{name: count for name, count in self.counters.items() if name != "neighbour_limited"},
            "offers_full": asking.offers_full,
            "questions_limited": asking.limited,
            "questions_unanswered": asking.unanswered,
        }

    # Inside

    def _on_follow(self, now_ns: int, peer: PopName) -> None:
        self._forget_followers(now_ns)
        if peer in self.neighbours or peer not in self._connected:
            return
        if peer not in self._followers and len(self._followers) >= MAX_FOLLOWERS:
            self.counters["followers_full"] += 1
            return
        self._followers[peer] = now_ns + FOLLOW_NS

    def _on_hash(self, now_ns: int, peer: PopName, theirs: bytes) -> None:
        ours = self.toggles.all()
        if theirs != bus.hash_of_toggles(ours) and ours and self._may_have(now_ns, peer, len(ours)):
            for part in _parts(ours, lambda _: 1):
                self._send(peer, Message(toggles=part))

    def _may_have(self, now_ns: int, peer: PopName, items: int) -> bool:
        bucket = self._to_peers.setdefault(peer, TokenBucket(SERVE_BURST, SERVE_RATE_PER_S))
        if bucket.take(now_ns, items):
            return True
        self.counters["serve_limited"] += 1
        return False

    def _forget_followers(self, now_ns: int) -> None:
        for gone in [follower for follower, until_ns in self._followers.items() if until_ns <= now_ns]:
            del self._followers[gone]

    def _on_heard(self, now_ns: int, peer: PopName, owner: PopName, heard: Heard) -> None:
        if not self.store.handle_heard(now_ns, owner, heard, self._pops):
            return
        known = self.store.version(owner)
        is_behind = known[0] == heard.epoch
        self.asking.handle_offer(owner, peer, heard.version, now_ns + (GRACE_NS if is_behind else 0))

    def _on_record(self, now_ns: int, peer: PopName, record: Record) -> bool:
        if not self.store.handle_record(now_ns, record, self._pops):
            return False
        self.asking.handle_version(record.owner, record.version)
        self._announce(now_ns, record.owner, without=peer)
        return True

    def _on_delta(self, now_ns: int, peer: PopName, delta: Delta) -> bool:
        owner = delta.owner
        old = self.store.records.get(owner)
        if old is not None and delta.version == (old.epoch, old.sequence + 1):
            bucket = self._owners.setdefault(owner, TokenBucket(OWNER_BURST, OWNER_RATE_PER_S))
            if not bucket.take(now_ns):
                self.counters["owner_limited"] += 1
                return False
        match self.store.handle_delta(now_ns, delta, self._pops):
            case "new" if old is not None:
                self.asking.handle_version(owner, delta.version)
                urgent = is_urgent(old, delta)
                self._pass_on(now_ns, delta, urgent, without=peer)
                return urgent
            case "known":
                # Who tells us has it: it need not be told.
                if (waiting := self._pending.get(peer)) is not None:
                    waiting.deltas.pop((owner, delta.epoch, delta.sequence), None)
            case "gap":
                self.counters["gaps"] += 1
                if self.store.is_alive(now_ns, owner):
                    self.asking.handle_offer(owner, peer, delta.version, now_ns + GAP_GRACE_NS)
            case _:
                pass
        return False

    def _on_want(self, now_ns: int, peer: PopName, message: Message) -> None:
        answer = []
        for owner in sorted(message.want)[:MAX_WANT]:
            record = self.store.records.get(owner)
            if record is None or record.version <= message.want[owner]:
                continue
            if not self._may_have(now_ns, peer, _items(record)):
                break
            answer.append(record)
        for part in _parts(answer, _items):
            self._send(peer, Message(records=part))

    def _told(self) -> list[PopName]:
        """Return whom news goes to: the neighbours by the graph, and who has asked."""
        return sorted({*self.neighbours, *self._followers})

    def _pass_on(self, now_ns: int, delta: Delta, urgent: bool, without: PopName | None) -> None:
        for peer in self._told():
            if peer == without:
                continue
            waiting = self._pending.setdefault(peer, _Pending())
            if len(waiting.deltas) >= MAX_PENDING:
                self.counters["pending_full"] += 1
                continue
            waiting.deltas[delta.owner, delta.epoch, delta.sequence] = delta
        self._flush_within(now_ns, URGENT_NS if urgent else BATCH_NS)

    def _announce(self, now_ns: int, owner: PopName, without: PopName | None) -> None:
        for peer in self._told():
            if peer != without:
                self._pending.setdefault(peer, _Pending()).news.add(owner)
        self._flush_within(now_ns, URGENT_NS)

    def _flush_within(self, now_ns: int, wait_ns: int) -> None:
        due_ns = now_ns + wait_ns
        self._flush_ns = due_ns if self._flush_ns is None else min(self._flush_ns, due_ns)

    def _flush(self, now_ns: int) -> None:
        self._flush_ns = None
        for peer, waiting in sorted(self._pending.items()):
            news = {
                owner: self.store.heard(now_ns, owner)
                for owner in sorted(waiting.news)
                if owner in self.store.records
            }
            if news:
                self._send(peer, Message(news=news))
            for deltas in _parts(waiting.deltas.values(), _items):
                self._send(peer, Message(deltas=deltas))
        self._pending.clear()

    def _say_digests(self, now_ns: int) -> None:
        """To all neighbours, and to one other PoP in turn: so also what no edge of the graph joins comes together."""
        self._forget_followers(now_ns)
        said = self._digest(now_ns)
        for peer in self._told():
            self._send(peer, replace(said, follow=peer in self.neighbours))
        others = sorted(self._connected - set(self._told()))
        if others:
            self._turn += 1
            self._send(others[self._turn % len(others)], said)
        self._greet.clear()

    def _digest(self, now_ns: int) -> Message:
        hashed = bus.hash_of_toggles(self.toggles.all())
        return Message(digest=self.store.digest(now_ns), toggles_hash=hashed)

    def _send(self, peer: PopName, message: Message) -> None:
        self._outputs.append((peer, message))


def _items(said: Record | Delta) -> int:
    if isinstance(said, Record):
        return len(said.links) + len(said.origins) + 1
    removed = len(said.removed_links) + len(said.removed_origins)
    return len(said.changes) + len(said.added) + len(said.origins) + removed + 2


def _parts(things: Iterable[_T], items: Callable[[_T], int]) -> Iterator[tuple[_T, ...]]:
    """Cut what is to be said into messages, in its order; what is larger than one goes alone."""
    part: list[_T] = []
    size = 0
    for thing in things:
        if part and size + items(thing) > PART_ITEMS:
            yield tuple(part)
            part, size = [], 0
        part.append(thing)
        size += items(thing)
    if part:
        yield tuple(part)
