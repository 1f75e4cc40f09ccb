"""What can be done to links and PoPs: each kind a small function from where, when and dice to steps. Nothing is carried out here.

The kinds are those of the literature that the project measures itself by: RON and SOSR's cuts, grey loss after Gilbert and Elliott,
correlated cuts, what passes only in part, slow observers (Lifeguard), clocks, stale tables and partitions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from l4proxy.core.estimate import light_rtt_ms
from l4proxy.core.ids import LinkName, PopName
from l4proxy.core.topology import Fleet
from l4proxy.lab.simulate.network import DATA, EVERYTHING, HELLO, PROBE, Effect
from l4proxy.lab.simulate.timeline import MS, S

BURST_S = 0.2
"""Mean length of a burst of loss: 1 to 40 packets of probes and hellos at 5 and 20 Hz."""

REGION_RTT_MS = 25.0
"""PoPs this near by light are one region: 2,500 km of fibre, Europe or the East of North America."""

STALL_S, STALL_EVERY_S = 1.5, 4.0
"""A slow observer stands still for so long, again and again: longer than a probe waits for its answer."""


@dataclass(frozen=True, slots=True)
class Put:
    """An effect on links, until it is taken away."""

    at_ns: int
    key: str
    links: tuple[LinkName, ...]
    effect: Effect | None
    """None: take it away."""


@dataclass(frozen=True, slots=True)
class Act:
    """Something that happens to a PoP: `what` is a word of `fleet`, with a number where one belongs to it."""

    at_ns: int
    pop: PopName
    what: str
    stalls: tuple[tuple[int, int], ...] = ()
    clock_ns: int = 0


Step = Put | Act


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens, when and where. `at_s` since the beginning of the simulation."""

    kind: str
    at_s: float
    for_s: float
    links: tuple[LinkName, ...] = ()
    pops: tuple[PopName, ...] = ()

    @property
    def until_s(self) -> float:
        """When it ends."""
        return self.at_s + self.for_s


Model = Callable[[Fault, int, Random], Iterator[Step]]
"""(fault, the beginning of the simulation in ns, dice) → steps."""


def _times(fault: Fault, start_ns: int) -> tuple[int, int]:
    return start_ns + round(fault.at_s * S), start_ns + round(fault.until_s * S)


def _key(fault: Fault) -> str:
    return f"{fault.kind} {fault.at_s:g} {','.join(fault.links[:1])}"


def _while(fault: Fault, start_ns: int, effect: Effect) -> Iterator[Step]:
    """An effect that lasts as long as the fault."""
    begin_ns, end_ns = _times(fault, start_ns)
    yield Put(begin_ns, _key(fault), fault.links, effect)
    yield Put(end_ns, _key(fault), fault.links, None)


def grey(ratio: float) -> Model:
    """Loss of each packet by itself."""
    return lambda fault, start_ns, _dice: _while(fault, start_ns, Effect(loss_ratio=ratio))


def bursts(ratio: float) -> Model:
    """Loss in bursts after Gilbert: good and bad times of exponential length, in bad ones nothing passes."""

    def model(fault: Fault, start_ns: int, dice: Random) -> Iterator[Step]:
        now_ns, end_ns = _times(fault, start_ns)
        found = []
        while now_ns < end_ns:
            now_ns += round(dice.expovariate(ratio / (1 - ratio) / BURST_S) * S)
            until_ns = now_ns + max(MS, round(dice.expovariate(1 / BURST_S) * S))
            found.append((now_ns, until_ns))
            now_ns = until_ns
        return _while(fault, start_ns, Effect(bursts=tuple(found), burst_ratio=ratio))

    return model


def stops(kinds: int) -> Model:
    """Packets of some kinds vanish, clean and at once."""
    return lambda fault, start_ns, _dice: _while(fault, start_ns, Effect(stops=kinds))


def flap(fault: Fault, start_ns: int, dice: Random) -> Iterator[Step]:
    """Links go and come at one rate between 0.1 and 2 Hz, up as long as down."""
    now_ns, end_ns = _times(fault, start_ns)
    half_ns = round(S / (0.1 * 20 ** dice.random()) / 2)
    while now_ns < end_ns:
        yield Put(now_ns, _key(fault), fault.links, Effect(stops=EVERYTHING))
        now_ns = min(end_ns, now_ns + half_ns)
        yield Put(now_ns, _key(fault), fault.links, None)
        now_ns += half_ns


def step(delay_ms: float) -> Model:
    """The delay of one direction grows at once."""
    return lambda fault, start_ns, _dice: _while(fault, start_ns, Effect(delay_ms=delay_ms))


def ramp(fault: Fault, start_ns: int, _dice: Random) -> Iterator[Step]:
    """The delay of one direction grows by 50 ms, evenly over half of the fault's time."""
    begin_ns, end_ns = _times(fault, start_ns)
    half_ns = (end_ns - begin_ns) // 2
    return _while(fault, start_ns, Effect(delay_ms=50.0, ramp_ns=half_ns, since_ns=begin_ns))


def jitter(fault: Fault, start_ns: int, _dice: Random) -> Iterator[Step]:
    """Delays vary by 20 ms in the mean, as behind a queue that somebody else fills."""
    return _while(fault, start_ns, Effect(jitter_ms=20.0))


def lasting(begin: str, end: str) -> Model:
    """Something that begins at PoPs and ends again."""

    def model(fault: Fault, start_ns: int, _dice: Random) -> Iterator[Step]:
        begin_ns, end_ns = _times(fault, start_ns)
        for pop in fault.pops:
            yield Act(begin_ns, pop, begin)
            yield Act(end_ns, pop, end)

    return model


def once(what: str) -> Model:
    """Something that happens to PoPs at one moment."""

    def model(fault: Fault, start_ns: int, _dice: Random) -> Iterator[Step]:
        for pop in fault.pops:
            yield Act(_times(fault, start_ns)[0], pop, what)

    return model


def clock(fault: Fault, start_ns: int, dice: Random) -> Iterator[Step]:
    """The wall clock of a PoP is wrong by up to ten seconds either way, then right again."""
    begin_ns, end_ns = _times(fault, start_ns)
    off_ns = round(dice.choice((-1, 1)) * 10 ** dice.uniform(-2, 1) * S)
    for pop in fault.pops:
        yield Act(begin_ns, pop, "clock", clock_ns=off_ns)
        yield Act(end_ns, pop, "clock")


def slow(fault: Fault, start_ns: int, _dice: Random) -> Iterator[Step]:
    """A PoP's processor is busy: its probes are late beyond use, sent or answered, while traffic still passes."""
    now_ns, end_ns = _times(fault, start_ns)
    found = []
    while now_ns < end_ns:
        found.append((now_ns, now_ns + round(STALL_S * S)))
        now_ns += round(STALL_EVERY_S * S)
    for pop in fault.pops:
        yield Act(_times(fault, start_ns)[0], pop, "stall", stalls=tuple(found))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what it does, what `where` may name, and what dice choose where nothing is named."""

    model: Model
    where: str
    """`link`: one direction of one link; `line`: both; `pair`: all links between two PoPs; `transit`, `region`, `pop`, `half`."""
    words: str
    """For people."""


KINDS: dict[str, Kind] = {
    "grey-0.5": Kind(grey(0.005), "link", "0.5 % of packets lost at random, one way"),
    "grey-2": Kind(grey(0.02), "link", "2 % lost at random, one way"),
    "grey-5": Kind(grey(0.05), "line", "5 % lost at random, both ways"),
    "grey-20": Kind(grey(0.2), "line", "20 % lost at random, both ways"),
    "burst-0.5": Kind(bursts(0.005), "link", "0.5 % lost in bursts, one way"),
    "burst-2": Kind(bursts(0.02), "link", "2 % lost in bursts, one way"),
    "burst-5": Kind(bursts(0.05), "line", "5 % lost in bursts, both ways"),
    "burst-20": Kind(bursts(0.2), "line", "20 % lost in bursts, both ways"),
    "cut": Kind(stops(EVERYTHING), "pair", "nothing passes between two PoPs"),
    "cut-one-way": Kind(stops(EVERYTHING), "link", "nothing passes in one direction of a link"),
    "flap": Kind(flap, "line", "a link goes and comes, 0.1 to 2 times a second"),
    "transit-cut": Kind(stops(EVERYTHING), "transit", "one provider fails at all PoPs"),
    "region-cut": Kind(stops(EVERYTHING), "region", "a region is cut off from the rest"),
    "pop-kill": Kind(lasting("off", "on"), "pop", "a PoP dies, and comes back with what it had saved"),
    "daemon-kill": Kind(lasting("daemon-off", "daemon-on"), "pop", "a daemon dies while its engine goes on"),
    "probes-only": Kind(stops(HELLO | DATA), "line", "probes pass, data and hellos do not"),
    "data-only": Kind(stops(PROBE), "line", "data and hellos pass, probes do not"),
    "small-only": Kind(stops(DATA), "line", "probes and small hellos pass, full packets do not"),
    "step": Kind(step(50.0), "link", "50 ms more delay at once"),
    "ramp": Kind(ramp, "link", "50 ms more delay, little by little"),
    "jitter": Kind(jitter, "line", "20 ms of jitter"),
    "clock": Kind(clock, "pop", "a wall clock is wrong by up to 10 s"),
    "slow-observer": Kind(slow, "pop", "a PoP's probes stand still for 1.5 s again and again"),
    "stale": Kind(lasting("deaf", "hears"), "pop", "a PoP gets no control messages: its table grows old"),
    "partition": Kind(stops(EVERYTHING), "half", "the fleet falls in two halves, which meet again"),
    "restart": Kind(once("restart"), "pop", "a PoP starts again without anything that it had saved"),
}


def steps(fault: Fault, start_ns: int, seed: int, number: int) -> list[Step]:
    """Return what a fault does. `number` tells faults of one simulation apart, so that each has dice of its own."""
    dice = Random(f"{seed} fault {number}")
    return list(KINDS[fault.kind].model(fault, start_ns, dice))


def random_fault(fleet: Fleet, kind: str, at_s: float, for_s: float, dice: Random) -> Fault:
    """Return a fault of a kind somewhere that the dice choose."""
    pops = list(fleet.pops)
    dice_pops = dice.sample(pops, min(2, len(pops)))
    where = KINDS[kind].where
    if where == "pop":
        return Fault(kind, at_s, for_s, pops=(dice_pops[0],))
    if where == "transit":
        names = sorted({transit.name for pop in fleet.pops.values() for transit in pop.transits})
        return Fault(kind, at_s, for_s, links_of_transit(fleet, dice.choice(names)))
    if where == "region":
        return Fault(kind, at_s, for_s, links_across(fleet, region_of(fleet, dice_pops[0])))
    if where == "half":
        half = dice.sample(pops, len(pops) // 2)
        return Fault(kind, at_s, for_s, links_across(fleet, tuple(half)))
    between = links_between(fleet, dice_pops[0], dice_pops[1])
    if where == "pair":
        return Fault(kind, at_s, for_s, between)
    link = fleet.links[dice.choice([name for name in between if fleet.links[name].from_pop == dice_pops[0]])]
    return Fault(
        kind, at_s, for_s, (link.name,) if where == "link" else tuple(sorted((link.name, link.reverse_name)))
    )


def links_between(fleet: Fleet, one: PopName, other: PopName) -> tuple[LinkName, ...]:
    """Return all links that join two PoPs, both directions."""
    return tuple(name for name, link in fleet.links.items() if {link.from_pop, link.to_pop} == {one, other})


def links_of_transit(fleet: Fleet, transit: str) -> tuple[LinkName, ...]:
    """Return all links over a provider."""
    return tuple(
        name for name, link in fleet.links.items() if transit in (link.from_transit, link.to_transit)
    )


def links_across(fleet: Fleet, inside: tuple[PopName, ...]) -> tuple[LinkName, ...]:
    """Return the links between some PoPs and the others."""
    return tuple(
        name for name, link in fleet.links.items() if (link.from_pop in inside) != (link.to_pop in inside)
    )


def region_of(fleet: Fleet, pop: PopName) -> tuple[PopName, ...]:
    """Return a PoP and those near it, but never all: then there would be no rest to be cut off from."""
    here = fleet.pops[pop].location
    near = [
        name
        for name, other in fleet.pops.items()
        if name == pop or (here and other.location and light_rtt_ms(here, other.location) <= REGION_RTT_MS)
    ]
    return tuple(near[: len(fleet.pops) - 1])


def random_faults(fleet: Fleet, duration_s: float, seed: int, every_s: float) -> list[Fault]:
    """Return faults of all kinds for a simulation: Poisson, one in `every_s` in the mean, most of them minutes long."""
    dice = Random(f"{seed} faults")
    found = []
    at_s = dice.expovariate(1 / every_s)
    while at_s < duration_s:
        kind = dice.choice(list(KINDS))
        found.append(random_fault(fleet, kind, at_s, 10 ** dice.uniform(1.0, 2.5), dice))
        at_s += dice.expovariate(1 / every_s)
    return found
