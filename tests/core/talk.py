"""Many PoPs that tell each other, in virtual time: the stores and the flooding of production, without engines and plans."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from l4proxy.core import bus
from l4proxy.core.bus import LinkState, Message, OriginState
from l4proxy.core.flooding import Flooding
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.records import RecordStore
from l4proxy.core.toggles import Toggles
from l4proxy.lab.simulate.timeline import MS, S, Timeline


def names(count: int) -> tuple[PopName, ...]:
    """Return names of so many PoPs."""
    return tuple(PopName(f"p{number:03}") for number in range(count))


def link(owner: str, peer: str, rtt_ms: float = 80.0) -> LinkState:
    """Return the state of a link that is well."""
    return LinkState(LinkName(f"{owner}/a>{peer}/a"), True, rtt_ms, rtt_ms, 0.5, 0.0, 7)


@dataclass
class Speaker:
    """One PoP: what it says, and the part of it that tells."""

    flooding: Flooding
    links: dict[str, LinkState]
    origins: tuple[OriginState, ...] = ()

    @property
    def store(self) -> RecordStore:
        """What it knows."""
        return self.flooding.store


@dataclass
class Talk:
    """Speakers, the connections between them, and a clock that jumps from event to event."""

    pops: tuple[PopName, ...]
    delay_ms: float = 40.0
    lost: float = 0.0
    seed: int = 1
    timeline: Timeline = field(default_factory=Timeline)
    cut: set[frozenset[str]] = field(default_factory=set)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes by sender."""
    messages: int = 0
    dead: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.speakers: dict[PopName, Speaker] = {}
        self.wakes: dict[PopName, int] = {}
        for name in self.pops:
            self.at(self.now_ns + self.random.randrange(S), lambda name=name: self.start(name))

    def at(self, when_ns: int, what: Callable[[], None]) -> None:
        """Do something later."""
        self.timeline.at(when_ns, what)

    @property
    def now_ns(self) -> int:
        """This moment."""
        return self.timeline.now_ns

    def start(self, name: PopName) -> None:
        """Start a speaker, or start it again without anything that it knew."""
        store = RecordStore(name, self.now_ns // S)
        flooding = Flooding(store, Toggles(name), self.pops, self.now_ns)
        links = {peer: link(name, peer) for peer in self.pops if peer != name}
        is_again = name in self.speakers
        self.speakers[name] = Speaker(flooding, links)
        self.dead.discard(name)
        self.connect()
        if not is_again:
            self.at(self.now_ns + self.random.randrange(S), lambda: self._tick(name))

    def kill(self, name: PopName) -> None:
        """Stop a speaker for good, or until it is started."""
        self.dead.add(name)
        self.connect()

    def connect(self) -> None:
        """Say to all who is connected with whom."""
        for name, speaker in self.speakers.items():
            peers = frozenset(peer for peer in self.speakers if peer != name and self._is_joined(name, peer))
            if name not in self.dead and peers != speaker.flooding._connected:
                speaker.flooding.handle_connected(self.now_ns, peers)
                self.drain(name)

    def part(self, half: Iterable[PopName]) -> None:
        """Cut every connection between these and the others."""
        inside = set(half)
        self.cut = {frozenset((a, b)) for a in inside for b in self.pops if b not in inside}
        self.connect()

    def heal(self) -> None:
        """Join all again, in a second and in no order."""
        pairs = sorted(self.cut, key=sorted)
        for pair in pairs:
            self.at(self.now_ns + self.random.randrange(S), lambda pair=pair: self._join(pair))

    def _join(self, pair: frozenset[str]) -> None:
        self.cut.discard(pair)
        self.connect()

    def _is_joined(self, one: str, other: str) -> bool:
        return not {one, other} & self.dead and frozenset((one, other)) not in self.cut

    def change(self, owner: PopName, peer: PopName, **what: object) -> None:
        """Let a PoP find that a link of its own is otherwise; it says so at once if the link came or went, as a controller does."""
        speaker = self.speakers[owner]
        was_up = speaker.links[peer].is_up
        speaker.links[peer] = replace(speaker.links[peer], **what)  # type: ignore[arg-type]
        if speaker.links[peer].is_up != was_up:
            self.publish(owner)

    def publish(self, name: PopName) -> None:
        """Let a PoP say how things are."""
        speaker = self.speakers[name]
        speaker.flooding.publish(self.now_ns, tuple(speaker.links.values()), speaker.origins)
        self.drain(name)

    def _tick(self, name: PopName) -> None:
        self.at(self.now_ns + S, lambda: self._tick(name))
        if name not in self.dead:
            self.speakers[name].store.handle_time(self.now_ns, self.pops)
            self.publish(name)

    def run(self, seconds: float) -> "Talk":
        """Let time pass."""
        self.timeline.run_until(self.now_ns + round(seconds * S))
        return self

    def _wake(self, name: PopName) -> None:
        due_ns = max(self.now_ns, self.speakers[name].flooding.poll_timeout())
        if due_ns < self.wakes.get(name, 1 << 62):
            self.wakes[name] = due_ns
            self.at(due_ns, lambda: self._on_wake(name, due_ns))

    def _on_wake(self, name: PopName, due_ns: int) -> None:
        if self.wakes.get(name) == due_ns:
            del self.wakes[name]
            if name not in self.dead:
                self.speakers[name].flooding.handle_time(self.now_ns)
                self.drain(name)

    def until(self, is_so: Callable[[], bool], seconds: float) -> float:
        """Let time pass until something is so; how many seconds that took. Fails after `seconds`."""
        start_ns = self.now_ns
        while not is_so():
            assert self.now_ns - start_ns < seconds * S, f"not so after {seconds} s"
            self.run(0.05)
        return (self.now_ns - start_ns) / S

    def drain(self, name: PopName) -> None:
        """Send what a speaker has to say."""
        while (output := self.speakers[name].flooding.poll_output()) is not None:
            peer, message = output
            payload = bus.encode(message)
            self.sent[name] += len(payload)
            self.messages += 1
            if self._is_joined(name, peer) and self.random.random() >= self.lost:
                delay_ns = round(self.delay_ms * MS * (0.5 + self.random.random()))
                message = bus.decode(payload)
                self.at(
                    self.now_ns + delay_ns,
                    lambda message=message, peer=peer: self._deliver(name, peer, message),
                )
        self._wake(name)

    def _deliver(self, sender: PopName, peer: PopName, message: Message) -> None:
        if self._is_joined(sender, peer) and peer in self.speakers:
            self.speakers[peer].flooding.handle_message(self.now_ns, sender, message)
            self.drain(peer)

    def agree(self, among: Iterable[PopName] | None = None) -> bool:
        """Whether these have the newest record of each of themselves, as its owner has it."""
        pops = [name for name in among or self.pops if name not in self.dead]
        return all(
            self.speakers[name].store.records.get(owner) == self.speakers[owner].store.records.get(owner)
            and owner in self.speakers[owner].store.records
            for name in pops
            for owner in pops
        )
