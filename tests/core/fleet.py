"""A fleet of controllers in virtual time: links as functions of time, messages that take as long as the links."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from l4proxy.core.app import App, Listen, Origin, RoutingPolicy
from l4proxy.core.controller import Apply, Controller, Save, SavedState, SendBus
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.samples import LinkSample, OriginSample
from l4proxy.core.topology import Fleet, Link, Pop, Transit
from l4proxy.lab.simulate.timeline import MS, S, Timeline


def make_fleet(names: str, disabled: tuple[str, ...] = ()) -> Fleet:
    """Return a full mesh of PoPs with one transit each."""
    pops = {
        PopName(name): Pop(PopName(name), (Transit("a", f"10.0.0.{n}:4600", f"10.0.0.{n}:4600"),))
        for n, name in enumerate(sorted(names.split()), 1)
    }
    links = [Link(a, "a", b, "a", enabled=f"{a}>{b}" not in disabled) for a in pops for b in pops if a != b]
    return Fleet("test", pops, {link.name: link for link in links})


def make_app(name: str = "echo", egress: str | None = None, **policy: object) -> App:
    """Return an app on tcp and udp port 7."""
    admitted = None if egress is None else frozenset(map(PopName, egress.split()))
    return App(
        AppName(name),
        (Listen("tcp", "::", 7, 7), Listen("udp", "::", 7, 7)),
        (Origin("192.0.2.1:7", "192.0.2.1", 7),),
        routing=RoutingPolicy(egress=admitted, **policy),  # type: ignore[arg-type]
    )


@dataclass
class World:
    """Controllers, the links between them, and a clock that jumps from event to event."""

    fleet: Fleet
    apps: tuple[App, ...]
    rtt_ms: dict[frozenset[str], float]
    seed: int = 1
    origin_ms: dict[str, float] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)
    cut: set[frozenset[str]] = field(default_factory=set)
    loss: dict[frozenset[str], float] = field(default_factory=dict)
    applied: dict[str, list[Apply]] = field(default_factory=dict)
    saved: dict[str, SavedState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.controllers: dict[str, Controller] = {}
        self.sequences: dict[LinkName, itertools.count[int]] = {}
        self.received: dict[LinkName, int] = {}
        self.timers: dict[str, int] = {}
        for name in self.fleet.pops:
            self.start(name)
        for link in self.fleet.links.values():
            self.at(self.now_ns + self.random.randrange(S), lambda link=link: self._probe(link))

    def start(self, name: PopName) -> None:
        """Start a controller, with what it saved before."""
        self.controllers[name] = Controller(
            name, self.fleet, self.apps, self.now_ns, lambda: self.random.getrandbits(32),
            epoch=self.now_ns // S, saved=self.saved.get(name),
        )  # fmt: skip
        for peer in self.fleet.pops:
            if peer != name and peer in self.controllers:
                self.controllers[name].handle_peer(self.now_ns, peer, True)
                self.controllers[peer].handle_peer(self.now_ns, name, False)
                self.controllers[peer].handle_peer(self.now_ns, name, True)
                self.drain(peer)
        self.drain(name)

    def kill(self, name: str) -> None:
        """End a controller: it says and hears nothing, and nothing is heard over its links."""
        del self.controllers[name]
        del self.timers[name]
        self.cut |= {pair for pair in self.rtt_ms if name in pair}
        for peer, controller in self.controllers.items():
            controller.handle_peer(self.now_ns, PopName(name), False)
            self.drain(peer)

    def at(self, when_ns: int, what: Callable[[], None]) -> None:
        """Do something later."""
        self.timeline.at(when_ns, what)

    @property
    def now_ns(self) -> int:
        """This moment."""
        return self.timeline.now_ns

    def run(self, seconds: float) -> "World":
        """Let time pass."""
        end = self.now_ns + round(seconds * S)
        self.timers = {name: controller.poll_timeout() for name, controller in self.controllers.items()}
        while True:
            timer = min(self.timers.values())
            next_ns = self.timeline.next_ns
            event = end + 1 if next_ns is None else next_ns
            if min(timer, event) > end:
                break
            if event <= timer:
                self.timeline.step(event)
            else:
                self.timeline.now_ns = max(self.now_ns, timer)
                for name in [name for name, due_ns in self.timers.items() if due_ns <= self.now_ns]:
                    self.controllers[name].handle_timeout(self.now_ns)
                    self.drain(name)
        self.timeline.now_ns = end
        return self

    def drain(self, name: str) -> None:
        """Carry out what a controller wants."""
        controller = self.controllers[name]
        while (output := controller.poll_output()) is not None:
            match output:
                case SendBus(peer, payload):
                    pair = frozenset((name, peer))
                    delay = round(self.rtt_ms.get(pair, 10) / 2 * MS)
                    self.at(
                        self.now_ns + delay,
                        lambda peer=peer, payload=payload: self._deliver(name, peer, payload),
                    )
                case Apply():
                    self.applied.setdefault(name, []).append(output)
                    controller.handle_applied(self.now_ns, output.snapshot.generation)
                case Save(state):
                    self.saved[name] = state
        self.timers[name] = controller.poll_timeout()

    def _deliver(self, sender: str, peer: PopName, payload: bytes) -> None:
        if peer not in self.controllers:
            return
        self.controllers[peer].handle_bus(self.now_ns, PopName(sender), payload)
        self.drain(peer)

    def _probe(self, link: Link) -> None:
        self.at(self.now_ns + S, lambda: self._probe(link))
        pair = frozenset((link.from_pop, link.to_pop))
        sequence = next(self.sequences.setdefault(link.name, itertools.count()))
        is_lost = pair in self.cut or self.random.random() < self.loss.get(pair, 0)
        if is_lost:
            self._sample(LinkSample(link.name, sequence, self.now_ns, None), link.from_pop, self.now_ns + S)
            return
        rtt_ns = round(self.rtt_ms[pair] * MS) + self.random.randrange(MS // 5)
        self.received[link.name] = self.received.get(link.name, 0) + 1
        sample = LinkSample(
            link.name, sequence, self.now_ns, rtt_ns, self.now_ns + rtt_ns // 2, self.received[link.name]
        )
        self._sample(sample, link.from_pop, self.now_ns + rtt_ns)

    def _sample(self, sample: LinkSample, pop: PopName, when_ns: int) -> None:
        def arrive() -> None:
            if pop not in self.controllers:
                return
            self.controllers[pop].handle_samples(self.now_ns, [sample])
            self.drain(pop)

        self.at(when_ns, arrive)

    def check_origins(self, results: dict[str, float | None]) -> None:
        """Give each PoP the result of a check of every app's origin."""
        for pop, rtt_ms in results.items():
            for app in self.apps:
                sample = OriginSample(
                    app.name, app.origins[0].name, rtt_ms, None if rtt_ms is not None else "refused"
                )
                self.controllers[pop].handle_origin_sample(self.now_ns, sample)
                self.drain(pop)

    def path(self, pop: str, app: str = "echo", protocol: str = "udp") -> tuple[str, ...]:
        """What new flows of an app take from a PoP."""
        plan = self.controllers[pop].plan
        assert plan is not None
        chosen = plan.routes[AppName(app), protocol].chosen  # type: ignore[index]
        return chosen.path if chosen is not None else ()


def rtts(text: str) -> dict[frozenset[str], float]:
    """Read `ams-iad 80, iad-sin 220`."""
    found = {}
    for part in text.split(","):
        pair, rtt = part.split()
        found[frozenset(pair.split("-"))] = float(rtt)
    return found
