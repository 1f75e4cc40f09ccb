"""Three PoPs through an hour of network time in seconds: the daemon's own control loops on trio, whose clock jumps.

Everything is what production runs but the engine: links are functions of time, messages take as long as the links.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import trio
import trio.testing

from l4proxy.core.ids import PopName
from l4proxy.core.snapshot import Snapshot
from l4proxy.core.topology import Link
from l4proxy.daemon.clock import Clock
from l4proxy.daemon.configuration import Configuration
from l4proxy.daemon.control import Control
from l4proxy.daemon.engine_messages import BusMessage, EngineHello, Events, ProbeSample, Samples
from l4proxy.daemon.engine_session import ApplyOutcome
from l4proxy.lab.simulate.timeline import START_NS
from tests.core.fleet import make_app, make_fleet

FLEET = make_fleet("ams iad sin")
APP = make_app(egress="sin")
RTT_MS = {("ams", "iad"): 80.0, ("iad", "sin"): 90.0, ("ams", "sin"): 250.0}
"""Direct from ams to sin takes 250 ms, through iad 170 and a hop."""

S = 1_000_000_000


def virtual_ns() -> int:
    """The time of trio's clock."""
    return START_NS + round(trio.current_time() * S)


@dataclass
class Session:
    """Stands where the engine's session stands: a network of links that are functions of time."""

    world: "World"
    pop: PopName
    snapshots: list[Snapshot] = field(default_factory=list)

    def want(self, snapshot: Snapshot) -> None:
        """Put a snapshot into force at once."""
        self.snapshots.append(snapshot)
        self.world.soon(
            0.0, lambda: self.world.controls[self.pop].handle_outcome(ApplyOutcome(snapshot.generation, None))
        )

    def send_bus(self, peer: str, payload: bytes) -> None:
        """Carry a control message over the direct link, or around when that is cut."""
        a, b = sorted((self.pop, peer))
        delay_s = RTT_MS[a, b] / 2_000
        self.world.soon(delay_s, lambda: self.world.tell(PopName(peer), BusMessage(self.pop, payload)))


class World:
    """Three control loops and the links between them."""

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        self.nursery = nursery
        self.random = random.Random(seed)
        self.cut: set[frozenset[str]] = set()
        self.sessions = {pop: Session(self, pop) for pop in FLEET.pops}
        self.controls: dict[PopName, Control] = {}
        for pop, session in self.sessions.items():
            clock = Clock(virtual_ns, virtual_ns)
            control = Control(clock, session, lambda _state: None, lambda _record: None)  # type: ignore[arg-type]
            control.start(
                Configuration((APP,), FLEET, pop, None),
                None,
                EngineHello(1, "test", 1, 1, 0, pop, frozenset(), True),
                taken_over=False,
            )
            self.controls[pop] = control
            nursery.start_soon(control.run_timers)
        for pop in FLEET.pops:
            ups = [{"kind": "tunnel_up", "peer": peer} for peer in FLEET.pops if peer != pop]
            self.tell(pop, Events(tuple(ups)))
        for link in FLEET.links.values():
            nursery.start_soon(self.probe, link)

    def soon(self, seconds: float, what: Callable[[], object]) -> None:
        """Do something later."""

        async def wait() -> None:
            await anyio.sleep(seconds)
            what()

        self.nursery.start_soon(wait)

    def tell(self, pop: PopName, message: BusMessage | Events | Samples) -> None:
        """Give a control loop what its engine would say."""
        self.nursery.start_soon(self.controls[pop].handle_message, message)

    async def probe(self, link: Link) -> None:
        """Probe a link once a second for ever."""
        await anyio.sleep(self.random.random())
        a, b = sorted((link.from_pop, link.to_pop))
        received = 0
        sequence = 0
        while True:
            sent_ns = virtual_ns()
            if {a, b} in self.cut:
                sample = ProbeSample(link.name, sequence, sent_ns, None, None, None)
                self.soon(1.0, lambda sample=sample: self.tell(link.from_pop, Samples((sample,))))
            else:
                received += 1
                rtt_ns = round((RTT_MS[a, b] + self.random.random() * 0.2) * 1e6)
                sample = ProbeSample(link.name, sequence, sent_ns, rtt_ns, sent_ns + rtt_ns // 2, received)
                self.soon(rtt_ns / S, lambda sample=sample: self.tell(link.from_pop, Samples((sample,))))
            sequence += 1
            await anyio.sleep(1.0)

    def path(self, pop: str) -> tuple[str, ...]:
        """What new flows take from a PoP."""
        controller = self.controls[PopName(pop)].controller
        assert controller is not None
        assert controller.plan is not None
        chosen = controller.plan.routes[APP.name, "udp"].chosen
        return chosen.path if chosen is not None else ()


def test_an_hour_with_a_cut_and_a_toggle_from_another_pop() -> None:
    async def hour() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery, seed=1)
            await anyio.sleep(20 * 60)
            assert world.path("ams") == ("ams", "iad", "sin")
            quiet = len(world.sessions[PopName("ams")].snapshots)

            world.cut.add(frozenset(("ams", "iad")))
            await anyio.sleep(10)
            assert world.path("ams") == ("ams", "sin")
            await anyio.sleep(20 * 60 - 10)
            world.cut.clear()
            await anyio.sleep(30)
            assert world.path("ams") == ("ams", "iad", "sin")

            world.controls[PopName("sin")].set_toggle(APP.name, None, "off")
            await anyio.sleep(2)
            assert world.path("ams") == ("ams", "sin")
            world.controls[PopName("iad")].set_toggle(APP.name, None, "default")
            await anyio.sleep(20 * 60 - 32)
            assert world.path("ams") == ("ams", "iad", "sin")

            assert trio.current_time() == 3_600
            assert quiet <= 10, "noise makes no snapshots"
            assert len(world.sessions[PopName("ams")].snapshots) - quiet <= 16
            assert all(control.internal_errors == 0 for control in world.controls.values())
            nursery.cancel_scope.cancel()

    trio.run(hour, clock=trio.testing.MockClock(autojump_threshold=0))
