"""What each directed link does to packets at a moment: how long they take, which are lost, and which kinds do not pass at all.

Faults and weather put effects on links and take them away. Whoever must know is told which links stopped or began to pass something.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import pi, sin
from random import Random

from l4proxy.core.ids import LinkName, PopName
from l4proxy.lab.simulate.scene import Scene
from l4proxy.lab.simulate.timeline import START_NS, S

PROBE, HELLO, DATA = 1, 2, 4
"""Kinds of packets. Control messages are data, as are the padded hellos by which an engine finds that only small packets pass."""
EVERYTHING = PROBE | HELLO | DATA

DRIFT_RATIO = 0.01
"""How far a delay drifts each way with the hour of the day: queues at busy hours are small beside what light takes."""

DAY_NS = 86_400 * S


@dataclass(frozen=True, slots=True)
class Effect:
    """What a fault or the weather adds to a link while it lasts."""

    stops: int = 0
    """Kinds of packets that vanish."""
    loss_ratio: float = 0.0
    """Each packet by itself."""
    bursts: tuple[tuple[int, int], ...] = ()
    """Times in which everything is lost: from, until; ns, ascending."""
    burst_ratio: float = 0.0
    """The share of time that they make up."""
    delay_ms: float = 0.0
    ramp_ns: int = 0
    """The delay takes so long to come to its full size; 0: it is there at once."""
    since_ns: int = 0
    jitter_ms: float = 0.0

    def delay_at(self, now_ns: int) -> float:
        """Return what it adds to the delay, ms."""
        if self.ramp_ns == 0 or not self.delay_ms:
            return self.delay_ms
        return self.delay_ms * min(1.0, max(0.0, (now_ns - self.since_ns) / self.ramp_ns))

    def is_in_burst(self, now_ns: int) -> bool:
        """Whether everything is lost at a moment."""
        place = bisect_right(self.bursts, (now_ns, 1 << 62)) - 1
        return place >= 0 and now_ns < self.bursts[place][1]


@dataclass(slots=True)
class Line:
    """One directed link. `level_ms`: what the weather's shifts add to its delay."""

    usual_ms: float
    usual_jitter_ms: float
    usual_loss: float
    phase: float
    level_ms: float = 0.0
    effects: dict[str, Effect] = field(default_factory=dict)
    stops: int = 0
    loss_ratio: float = 0.0
    """Every packet's, bursts left out."""
    mean_loss: float = 0.0
    """Bursts included."""
    jitter_ms: float = 0.0

    def follow(self) -> None:
        """Work out what the effects make together."""
        passed = passed_mean = 1 - self.usual_loss
        self.stops, self.jitter_ms = 0, self.usual_jitter_ms
        for effect in self.effects.values():
            self.stops |= effect.stops
            passed *= 1 - effect.loss_ratio
            passed_mean *= (1 - effect.loss_ratio) * (1 - effect.burst_ratio)
            self.jitter_ms += effect.jitter_ms
        self.loss_ratio, self.mean_loss = 1 - passed, 1 - passed_mean

    def delay_ms(self, now_ns: int) -> float:
        """Return the one-way delay without jitter."""
        day = sin(2 * pi * ((now_ns - START_NS) / DAY_NS + self.phase))
        delay = self.usual_ms * (1 + DRIFT_RATIO * (1 + day) / 2) + self.level_ms
        for effect in self.effects.values():
            delay += effect.delay_at(now_ns)
        return delay


@dataclass(slots=True)
class Place:
    """One PoP as a machine."""

    is_on: bool = True
    clock_ns: int = 0
    """By how much its wall clock is wrong."""
    is_deaf: bool = False
    """Its daemon gets no control messages."""
    stalls: tuple[tuple[int, int], ...] = ()
    """Times in which its probes are neither sent nor answered: from, until; ns, ascending."""

    def is_stalled(self, now_ns: int) -> bool:
        """Whether probes fail here at a moment."""
        place = bisect_right(self.stalls, (now_ns, 1 << 62)) - 1
        return place >= 0 and now_ns < self.stalls[place][1]


class Network:
    """All lines and places of a scene."""

    def __init__(self, scene: Scene, seed: int) -> None:
        dice = Random(f"{seed} network")
        self.fleet = scene.fleet
        self.dice = Random(f"{seed} packets")
        self.lines = {
            name: Line(usual.delay_ms, usual.jitter_ms, usual.loss_ratio, dice.random())
            for name, usual in scene.usual.items()
        }
        self.places = {pop: Place() for pop in scene.fleet.pops}
        self.version = 0
        """Goes up with every change of what passes where."""
        for line in self.lines.values():
            line.follow()

    def put(self, key: str, names: Iterable[LinkName], effect: Effect) -> list[LinkName]:
        """Put an effect on links under a key, in place of what is there; return those of which the passing kinds changed."""
        return self._changed(names, {key: effect})

    def take(self, key: str, names: Iterable[LinkName]) -> list[LinkName]:
        """Take an effect away; return the links of which the passing kinds changed."""
        return self._changed(names, {key: None})

    def _changed(self, names: Iterable[LinkName], effects: dict[str, Effect | None]) -> list[LinkName]:
        changed = []
        for name in names:
            line = self.lines[name]
            before = line.stops
            for key, effect in effects.items():
                if effect is None:
                    line.effects.pop(key, None)
                else:
                    line.effects[key] = effect
            line.follow()
            if line.stops != before:
                changed.append(name)
                self.version += 1
        return changed

    def passes(self, name: LinkName, kinds: int) -> bool:
        """Whether packets of all these kinds cross a link, apart from those that chance loses."""
        link = self.fleet.links[name]
        return (
            not self.lines[name].stops & kinds
            and self.places[link.from_pop].is_on
            and self.places[link.to_pop].is_on
        )

    def loses(self, name: LinkName, now_ns: int) -> bool:
        """Throw the dice for one packet that passes."""
        line = self.lines[name]
        if line.loss_ratio and self.dice.random() < line.loss_ratio:
            return True
        return any(effect.bursts and effect.is_in_burst(now_ns) for effect in line.effects.values())

    def delay_ns(self, name: LinkName, now_ns: int) -> int:
        """Throw the dice for the delay of one packet. Two delays that are exponential differ by their mean in the mean (RFC 3550)."""
        line = self.lines[name]
        return round((line.delay_ms(now_ns) + self.dice.expovariate(1 / line.jitter_ms)) * 1e6)

    def cost_ms(self, name: LinkName, now_ns: int) -> float:
        """Return what a link truly costs a game at a moment: the round trip, two deviations, and a second at certain loss.

        Worked out here once more, so that a mistake in the core's formula is not also in what it is judged by.
        """
        line, back = self.lines[name], self.lines[self.fleet.links[name].reverse_name]
        round_trip = line.delay_ms(now_ns) + line.jitter_ms + back.delay_ms(now_ns) + back.jitter_ms
        return round_trip + 2 * line.jitter_ms + 1_000 * line.mean_loss

    def rtt_ms(self, name: LinkName, now_ns: int) -> float:
        """Return the mean round trip of a link at a moment."""
        line, back = self.lines[name], self.lines[self.fleet.links[name].reverse_name]
        return line.delay_ms(now_ns) + line.jitter_ms + back.delay_ms(now_ns) + back.jitter_ms

    def place_changed(self, pop: PopName) -> list[LinkName]:
        """Note that a PoP went or came; return its links."""
        self.version += 1
        return [name for name, link in self.fleet.links.items() if pop in (link.from_pop, link.to_pop)]
