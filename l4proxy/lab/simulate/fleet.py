"""Message by message: the real controller of every PoP, its engine's model, probes and control messages over a model network.

Control messages travel over the path that the engine's handle `off` has, and are sent again when they are lost, as QUIC does.
"""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from random import Random

from l4proxy.core.app import App, Listen, Origin, RoutingPolicy
from l4proxy.core.controller import Apply, Controller, Save, SavedState, SendBus
from l4proxy.core.ids import AppName, LinkName, PopName
from l4proxy.core.route import OFF, Policy
from l4proxy.core.samples import LinkSample
from l4proxy.core.snapshot import PathSpec
from l4proxy.lab.simulate.engine import HELLOS_A_SECOND, INTERVAL_NS, Engine, Handle, lossy
from l4proxy.lab.simulate.faults import Act, Put, Step
from l4proxy.lab.simulate.network import DATA, HELLO, PROBE, Network
from l4proxy.lab.simulate.scene import Scene
from l4proxy.lab.simulate.timeline import MS, START_NS, S, Timeline

GIVEN_UP_NS = 1 * S
"""A probe waits so long for its answer."""
SAMPLES_EVERY_NS = 100 * MS
"""An engine hands its samples over at most this often (docs/engine-protocol.md)."""
AGAIN_NS = 500 * MS
AGAIN = 3
AGAIN_MOST = 9
"""After a probe that ends otherwise than the one before: three more, half a second apart, out of an allowance of nine."""
LOST_AFTER_NS = 10 * S
"""A pair connection of which nothing arrives for so long is given up."""

APP = App(
    AppName("simulated"),
    (Listen("udp", "::", 7, 7),),
    (Origin("192.0.2.1:7", "192.0.2.1", 7),),
    routing=RoutingPolicy(min_gain_ms=1.0),
)
"""One app that all PoPs listen for; its class is `game`, so that latency, jitter and loss all count."""

POLICY = Policy.of(APP, "udp").text


class Prober:
    """The probes of one directed link."""

    def __init__(self) -> None:
        self.sequence = itertools.count()
        self.received = 0
        self.was_answered: bool | None = None
        self.allowance = AGAIN
        self.again = 0
        self.turn = 0


class MessageFleet:
    """Controllers, engines and the network between them, on one timeline."""

    def __init__(self, scene: Scene, timeline: Timeline, seed: int) -> None:
        self.scene, self.timeline, self.seed = scene, timeline, seed
        self.fleet = scene.fleet
        self.network = Network(scene, seed)
        self.dice = Random(f"{seed} fleet")
        self.controllers: dict[PopName, Controller] = {}
        self.engines: dict[PopName, Engine] = {}
        self.saved: dict[PopName, SavedState] = {}
        self.started_ns: dict[PopName, int] = {}
        self.heard_ns: dict[tuple[PopName, PopName], int] = {}
        self.probers = {name: Prober() for name in self.fleet.links}
        self.inbox: dict[PopName, list[LinkSample]] = {pop: [] for pop in self.fleet.pops}
        self.wakes: dict[PopName, int] = {}
        self.sent_bytes = dict.fromkeys(self.fleet.pops, 0)
        self.messages = dict.fromkeys(self.fleet.pops, 0)
        self.plan_changes: dict[tuple[PopName, PopName], list[int]] = {}
        self.moves: dict[tuple[PopName, PopName], list[int]] = {}
        self.on_step: Callable[[], None] = lambda: None
        """Asked after everything that could change a path."""
        for pop in self.fleet.pops:
            self._start_engine(pop)
        for pop in self.fleet.pops:
            self.start(pop)
        for pop in self.fleet.pops:
            timeline.at(timeline.now_ns + self.dice.randrange(S), partial(self._second, pop))
        for name in self.fleet.links:
            timeline.at(timeline.now_ns + self.dice.randrange(S), partial(self._probe, name, 0))

    # PoPs

    def _start_engine(self, pop: PopName) -> None:
        self.engines[pop] = Engine(
            pop,
            self.passes,
            self._round_trip_ns,
            lambda wait_ns, what: self.timeline.at(self.timeline.now_ns + wait_ns, what),
            on_change=lambda handle: self._moved(pop, handle),
        )

    def start(self, pop: PopName) -> None:
        """Start a controller, with what it saved before."""
        now_ns = self.timeline.now_ns
        self.controllers[pop] = Controller(
            pop, self.fleet, (APP,), now_ns, lambda: self.dice.getrandbits(32),
            epoch=now_ns // S, saved=self.saved.get(pop),
        )  # fmt: skip
        self.started_ns[pop] = now_ns
        for peer in self.controllers:
            if peer != pop:
                self._connect(pop, peer)
        self.drain(pop)

    def _connect(self, pop: PopName, peer: PopName) -> None:
        """A connection that is new for both."""
        now_ns = self.timeline.now_ns
        self.heard_ns[pop, peer] = self.heard_ns[peer, pop] = now_ns
        self.controllers[pop].handle_peer(now_ns, peer, True)
        self.controllers[peer].handle_peer(now_ns, pop, False)
        self.controllers[peer].handle_peer(now_ns, pop, True)
        self.drain(peer)

    def stop(self, pop: PopName) -> None:
        """End a controller."""
        self.controllers.pop(pop, None)
        self.inbox[pop].clear()

    def drain(self, pop: PopName) -> None:
        """Carry out what a controller wants."""
        controller = self.controllers[pop]
        now_ns = self.timeline.now_ns
        while (output := controller.poll_output()) is not None:
            match output:
                case SendBus(peer, payload):
                    self.sent_bytes[pop] += len(payload)
                    self.messages[pop] += 1
                    self._send(pop, peer, payload, now_ns, 0)
                case Apply(snapshot):
                    before = {handle: specs[:1] for handle, specs in self.engines[pop].handles.items()}
                    is_other = self.engines[pop].handle_snapshot(now_ns, snapshot)
                    controller.handle_applied(now_ns, snapshot.generation)
                    for (peer, policy), specs in self.engines[pop].handles.items():
                        if policy == POLICY and before.get((peer, policy), specs[:1]) != specs[:1]:
                            self.plan_changes.setdefault((pop, peer), []).append(now_ns)
                    if is_other:
                        self.network.version += 1
                        self._passing_changed()
                    self.on_step()
                case Save(state):
                    self.saved[pop] = state
        due_ns = controller.poll_timeout()
        if due_ns < self.wakes.get(pop, 1 << 62):
            self.wakes[pop] = due_ns
            self.timeline.at(due_ns, lambda: self._wake(pop, due_ns))

    def _wake(self, pop: PopName, due_ns: int) -> None:
        if self.wakes.get(pop) == due_ns:
            del self.wakes[pop]
            if pop in self.controllers:
                self.controllers[pop].handle_timeout(self.timeline.now_ns)
                self.drain(pop)

    def _moved(self, pop: PopName, handle: Handle) -> None:
        if handle[1] == POLICY:
            self.moves.setdefault((pop, handle[0]), []).append(self.timeline.now_ns)
        self.on_step()

    # Paths

    def walk(self, spec: PathSpec) -> tuple[LinkName, ...] | None:
        """Return the links that packets of a path really take, by the labels in force at each hop; None: a hop knows the label no more."""
        links = [spec.links[0]]
        for label in spec.labels:
            name = self.engines[self.fleet.links[links[-1]].to_pop].labels.get(label)
            if name is None:
                return None
            links.append(name)
        return tuple(links)

    def passes(self, spec: PathSpec) -> bool:
        """Whether hellos and full packets get over a path, apart from those that chance loses."""
        links = self.walk(spec)
        return links is not None and all(self.network.passes(name, HELLO | DATA) for name in links)

    def _round_trip_ns(self, spec: PathSpec) -> float:
        now_ns = self.timeline.now_ns
        return sum(self.network.rtt_ms(name, now_ns) for name in spec.links) * 1e6

    def _lost_hellos(self, spec: PathSpec) -> list[bool] | None:
        lines = [self.network.lines[name] for name in spec.links]
        if not lossy(line.mean_loss for line in lines):
            return None
        begin_ns = self.timeline.now_ns - S
        return [
            any(self.network.loses(name, begin_ns + number * INTERVAL_NS) for name in spec.links)
            for number in range(HELLOS_A_SECOND)
        ]

    def _passing_changed(self) -> None:
        for engine in self.engines.values():
            engine.handle_passing(self.timeline.now_ns)

    def _second(self, pop: PopName) -> None:
        """What an engine says once a second, and which connections still stand."""
        now_ns = self.timeline.now_ns
        self.timeline.at(now_ns + S, lambda: self._second(pop))
        if not self.network.places[pop].is_on:
            return
        engine = self.engines[pop]
        engine.handle_second(now_ns, self._lost_hellos)
        for peer in self.fleet.pops:
            if peer > pop:
                self._watch_connection(now_ns, pop, peer)
        if pop in self.controllers:
            self.controllers[pop].handle_uses(now_ns, engine.uses())
            self.drain(pop)

    def _watch_connection(self, now_ns: int, pop: PopName, peer: PopName) -> None:
        both = [(pop, peer), (peer, pop)]
        is_heard = all(self._bus_path(*ends) is not None for ends in both)
        was_lost = now_ns - self.heard_ns.get((pop, peer), 0) > LOST_AFTER_NS
        if is_heard:
            self.heard_ns[pop, peer] = self.heard_ns[peer, pop] = now_ns
        is_lost = now_ns - self.heard_ns.get((pop, peer), 0) > LOST_AFTER_NS
        if is_lost != was_lost:
            for one, other in both:
                if one in self.controllers:
                    self.controllers[one].handle_peer(now_ns, other, not is_lost)
                    self.drain(one)

    # Control messages

    def _bus_path(self, pop: PopName, peer: PopName) -> tuple[LinkName, ...] | None:
        """What control messages take now; None: nothing passes."""
        spec = self.engines[pop].active.get((peer, OFF))
        links = None
        if spec is not None:
            links = self.walk(spec)
        elif self.engines[pop].handles.get((peer, OFF)) is None:
            # Before the first snapshot: the handshake goes over the first link of the pair.
            links = next(
                ((name,) for name, link in self.fleet.links.items() if (link.from_pop, link.to_pop) == (pop, peer)), None
            )  # fmt: skip
        if links is None or not all(self.network.passes(name, DATA) for name in links):
            return None
        return links

    def _send(self, pop: PopName, peer: PopName, payload: bytes, sent_ns: int, attempt: int) -> None:
        now_ns = self.timeline.now_ns
        links = self._bus_path(pop, peer)
        if links is None or any(self.network.loses(name, now_ns) for name in links):
            if now_ns - sent_ns < LOST_AFTER_NS:
                wait_ns = min(S, 200 * MS << attempt)
                self.timeline.at(
                    now_ns + wait_ns, lambda: self._send(pop, peer, payload, sent_ns, attempt + 1)
                )
            return
        delay_ns = sum(self.network.delay_ns(name, now_ns) for name in links)
        self.timeline.at(now_ns + delay_ns, lambda: self._deliver(pop, peer, payload))

    def _deliver(self, sender: PopName, peer: PopName, payload: bytes) -> None:
        place = self.network.places[peer]
        if peer in self.controllers and place.is_on and not place.is_deaf:
            self.controllers[peer].handle_bus(self.timeline.now_ns, sender, payload)
            self.drain(peer)

    # Probes

    def _probe(self, name: LinkName, turn: int) -> None:
        """Send one probe, and plan the next; `turn` tells a plan that was replaced."""
        prober, now_ns = self.probers[name], self.timeline.now_ns
        if turn != prober.turn:
            return
        pop = self.fleet.links[name].from_pop
        if self.network.places[pop].is_on:
            self._ask(name, prober, now_ns)
        if prober.again:
            prober.again -= 1
            wait_ns = AGAIN_NS
        else:
            prober.allowance = min(AGAIN_MOST, prober.allowance + 1)
            wait_ns = self._interval_ns(pop, name)
        self.timeline.at(now_ns + wait_ns, lambda: self._probe(name, turn))

    def _interval_ns(self, pop: PopName, name: LinkName) -> int:
        controller = self.controllers.get(pop)
        return controller.probes.intervals_ms.get(name, 1_000) * MS if controller is not None else S

    def _ask(self, name: LinkName, prober: Prober, now_ns: int) -> None:
        link, network = self.fleet.links[name], self.network
        here, there = network.places[link.from_pop], network.places[link.to_pop]
        sequence = next(prober.sequence)
        sent_ns = now_ns + here.clock_ns
        out_ns = network.delay_ns(name, now_ns)
        arrived_ns = now_ns + out_ns
        arrives = network.passes(name, PROBE) and not here.is_stalled(now_ns)
        arrives = arrives and not network.loses(name, now_ns) and not there.is_stalled(arrived_ns)
        if arrives:
            prober.received += 1
        back = link.reverse_name
        is_answered = arrives and network.passes(back, PROBE) and not network.loses(back, arrived_ns)
        rtt_ns = out_ns + network.delay_ns(back, arrived_ns)
        if is_answered and rtt_ns < GIVEN_UP_NS and not here.is_stalled(now_ns + rtt_ns):
            sample = LinkSample(name, sequence, sent_ns, rtt_ns, arrived_ns + there.clock_ns, prober.received)
            self.timeline.at(now_ns + rtt_ns, lambda: self._sample(link.from_pop, sample))
        else:
            sample = LinkSample(name, sequence, sent_ns, None)
            self.timeline.at(now_ns + GIVEN_UP_NS, lambda: self._sample(link.from_pop, sample))

    def _sample(self, pop: PopName, sample: LinkSample) -> None:
        prober = self.probers[sample.link]
        is_answered = sample.rtt_ns is not None
        if is_answered != prober.was_answered and prober.allowance >= AGAIN and not prober.again:
            prober.again, prober.allowance = AGAIN, prober.allowance - AGAIN
            prober.turn += 1
            turn = prober.turn
            prober.again -= 1
            self.timeline.at(self.timeline.now_ns + AGAIN_NS, lambda: self._probe(sample.link, turn))
        prober.was_answered = is_answered
        if pop not in self.controllers:
            return
        if not self.inbox[pop]:
            now_ns = self.timeline.now_ns
            wait_ns = SAMPLES_EVERY_NS - (now_ns - START_NS) % SAMPLES_EVERY_NS
            self.timeline.at(now_ns + wait_ns, lambda: self._hand_over(pop))
        self.inbox[pop].append(sample)

    def _hand_over(self, pop: PopName) -> None:
        samples, self.inbox[pop] = self.inbox[pop], []
        if samples and pop in self.controllers:
            self.controllers[pop].handle_samples(self.timeline.now_ns, samples)
            self.drain(pop)

    # Faults

    def schedule(self, steps: Iterable[Step]) -> None:
        """Carry out the steps of faults when they are due."""
        for one in steps:
            self.timeline.at(one.at_ns, partial(self._do, one))

    def _do(self, one: Step) -> None:
        if isinstance(one, Put):
            put, take = self.network.put, self.network.take
            changed = take(one.key, one.links) if one.effect is None else put(one.key, one.links, one.effect)
            if changed:
                self._passing_changed()
                self.on_step()
            return
        self._act(one)
        self.on_step()

    def _act(self, act: Act) -> None:
        place, pop = self.network.places[act.pop], act.pop
        match act.what:
            case "clock":
                place.clock_ns = act.clock_ns
            case "stall":
                place.stalls = act.stalls
            case "deaf" | "hears":
                place.is_deaf = act.what == "deaf"
            case "daemon-off":
                self.stop(pop)
            case "daemon-on":
                if pop not in self.controllers and place.is_on:
                    self.start(pop)
            case "off":
                self.stop(pop)
                place.is_on = False
                self._start_engine(pop)
                self._place_changed(pop)
            case "on" if not place.is_on:
                place.is_on = True
                self._place_changed(pop)
                self.start(pop)
            case "restart" if place.is_on:
                self.stop(pop)
                self.saved.pop(pop, None)
                self._start_engine(pop)
                self._place_changed(pop)
                self.start(pop)

    def _place_changed(self, pop: PopName) -> None:
        self.network.place_changed(pop)
        self._passing_changed()

    def handle_of(self, pop: PopName, peer: PopName) -> tuple[PathSpec, ...]:
        """Return the paths of the app's handle at one PoP to another."""
        return self.engines[pop].handles.get((peer, POLICY), ())

    def active(self, pop: PopName, peer: PopName) -> PathSpec | None:
        """Return the path that flows from one PoP to another take now."""
        return self.engines[pop].active.get((peer, POLICY))
