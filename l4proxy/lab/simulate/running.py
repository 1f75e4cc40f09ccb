"""Options → one simulation → its result as a document. Message by message up to `MESSAGES_MOST` PoPs, one view beyond."""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from l4proxy.lab import worldmap
from l4proxy.lab.simulate import faultfile
from l4proxy.lab.simulate.faults import Fault, random_faults, steps
from l4proxy.lab.simulate.fleet import MessageFleet
from l4proxy.lab.simulate.flows import Flows, seconds
from l4proxy.lab.simulate.invariants import (
    AT_CHANGES,
    EACH_SECOND,
    WORSE_MS,
    WORSE_RATIO,
    Check,
    Violation,
    first_violation,
)
from l4proxy.lab.simulate.scene import Scene, make_scene
from l4proxy.lab.simulate.timeline import START_NS, S, Timeline
from l4proxy.lab.simulate.weather import Weather

MESSAGES_MOST = 16
"""PoPs that are simulated message by message; their number goes into the work by its square."""

WARM_UP_S = 20.0
"""All PoPs start at once: what they do not know yet is no fault."""

FAULTS_EVERY_S = 600.0
"""Of the faults that the seed chooses: one in ten minutes, so that most happen alone and some together."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """What is simulated. `faults`: a file; None: those that the seed chooses."""

    pops: int = 8
    hours: float = 1.0
    seed: int = 1
    links: int = 2
    faults: Path | None = None


class Simulation:
    """One run, message by message."""

    def __init__(self, scene: Scene, duration_s: float, seed: int, faults: tuple[Fault, ...]) -> None:
        self.timeline = Timeline()
        self.faults = faults
        self.duration_s = duration_s
        self.fleet = MessageFleet(scene, self.timeline, seed)
        self.flows = Flows(self.fleet)
        self.check = Check(self.fleet, self.flows)
        self.violation: Violation | None = None
        Weather(self.fleet.network, self.timeline, seed).start()
        for number, fault in enumerate(faults):
            self.fleet.schedule(steps(fault, START_NS + round(WARM_UP_S * S), seed, number))

    def run(self) -> Violation | None:
        """Let it happen; ends with the first violation."""
        self.timeline.run_until(START_NS + round(WARM_UP_S * S))
        self._forget()
        self.fleet.on_step = self._step
        self._step()
        self.timeline.at(self.timeline.now_ns + S, self._second)
        end_ns = START_NS + round((WARM_UP_S + self.duration_s) * S)
        while self.violation is None and self.timeline.step(end_ns):
            pass
        return self.violation

    def _forget(self) -> None:
        for counts in (self.fleet.sent_bytes, self.fleet.messages):
            counts.update(dict.fromkeys(counts, 0))
        self.fleet.moves.clear()
        self.fleet.plan_changes.clear()
        self.flows._looked_ns = self.timeline.now_ns

    def _step(self) -> None:
        self.flows.look()
        self.check.follow()
        self._judge(first_violation(self.check, AT_CHANGES, START_NS + round(WARM_UP_S * S)))

    def _second(self) -> None:
        self.timeline.at(self.timeline.now_ns + S, self._second)
        self.flows.look()
        self.flows.compare(WORSE_RATIO, WORSE_MS)
        self._judge(first_violation(self.check, EACH_SECOND, START_NS + round(WARM_UP_S * S)))

    def _judge(self, violation: Violation | None) -> None:
        if self.violation is None:
            self.violation = violation

    def figures(self) -> Json:
        """Return what the flows got."""
        tally = self.flows.tally
        elapsed_s = max(1e-9, (self.timeline.now_ns - START_NS) / S - WARM_UP_S)
        pairs = len(self.flows.pairs)
        moves = [len(found) for found in self.fleet.moves.values()]
        repairs = sorted(tally.repairs_ns)
        rates = [bytes_ * 8 / elapsed_s for bytes_ in self.fleet.sent_bytes.values()]
        return {
            "simulated_s": round(elapsed_s, 3),
            "availability": round(1 - tally.broken_ns / max(1, tally.possible_ns), 7),
            "interruptions": len(repairs),
            "repair_s": {f"p{share}": _quantile(repairs, share) for share in (50, 95, 99)}
            | {"max": seconds(repairs[-1]) if repairs else None},
            "gain_ratio": round(1 - tally.path_ms / tally.direct_ms, 5) if tally.direct_ms else None,
            "better_than_direct_ratio": round(tally.better / max(1, tally.compared), 5),
            "worse_than_direct_ratio": round(tally.worse / max(1, tally.compared), 6),
            "longest_worse_s": seconds(tally.longest_worse_ns),
            "changes_per_path_hour": round(sum(moves) / pairs / elapsed_s * 3_600, 3),
            "most_changes_of_a_path": max(moves, default=0),
            "control_bits_s_a_pop": {
                "mean": round(sum(rates) / len(rates), 1),
                "max": round(max(rates), 1),
            },
        }


def _quantile(values: list[int], share: int) -> float | None:
    if len(values) < 2:
        return seconds(values[0]) if values else None
    return seconds(round(quantiles(values, n=100, method="inclusive")[share - 1]))


def simulate(options: Options) -> Json:
    """Run one simulation and return its document; `ok` is false where an invariant was broken. ConfigError: the file of faults is wrong."""
    scene = make_scene(worldmap.load(), options.pops, options.links, options.seed)
    duration_s = options.hours * 3_600
    if options.faults is None:
        faults = tuple(random_faults(scene.fleet, duration_s, options.seed, FAULTS_EVERY_S))
    else:
        faults = faultfile.load(options.faults, scene.fleet, duration_s)
    is_wide = options.pops > MESSAGES_MOST
    kind, figures, violation = (_wide if is_wide else _by_messages)(scene, duration_s, options.seed, faults)
    counts: dict[str, int] = {}
    for fault in faults:
        counts[fault.kind] = counts.get(fault.kind, 0) + 1
    return {
        "kind": kind,
        "pops": list(scene.fleet.pops),
        "links_a_pair": options.links,
        "hours": options.hours,
        "seed": options.seed,
        "faults": dict(sorted(counts.items())),
        **figures,
        "violation": None if violation is None else violation | {"seed": options.seed},
        "ok": violation is None,
    }


def _by_messages(
    scene: Scene, duration_s: float, seed: int, faults: tuple[Fault, ...]
) -> tuple[str, Json, Json | None]:
    run = Simulation(scene, duration_s, seed, faults)
    violation = run.run()
    return "message by message", run.figures(), None if violation is None else asdict(violation)


def _wide(
    scene: Scene, duration_s: float, seed: int, faults: tuple[Fault, ...]
) -> tuple[str, Json, Json | None]:
    # numpy's rules of routing are read for large fleets alone.
    from l4proxy.lab.simulate.wide import Wide

    run = Wide(scene, seed, faults)
    violation = run.run(duration_s)
    how = "one view of the fleet, which reaches each PoP late"
    return how, run.figures(duration_s), None if violation is None else asdict(violation)
