"""A run: every family in turn, until all repeats of its loads are done. A family that this machine cannot run says why."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from l4proxy.bench import testbed
from l4proxy.bench.judged import Measurement
from l4proxy.bench.overlay import (
    bulk,
    cuts,
    datagrams,
    detour,
    duplication,
    experiment,
    idle,
    rows,
    transit,
    virtual,
    wan,
)
from l4proxy.bench.overlay.context import Context, Family, Skipped
from l4proxy.bench.testbed import BenchmarkError

FAMILIES: Mapping[str, Family] = {
    "transit": transit.measure,
    "datagrams": datagrams.measure,
    "bulk": bulk.measure,
    "wan": wan.measure,
    "experiment": experiment.measure,
    "udp-detour": detour.measure,
    "cuts": cuts.measure_cuts,
    "idle": idle.measure,
    "virtual": virtual.measure,
    "duplication": duplication.measure,
}


@dataclass(frozen=True, slots=True)
class Options:
    """What to run."""

    rows: Sequence[str]
    seconds: float
    repeats: int
    quick: bool = False
    cuts: int = 30


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    measured: dict[str, dict[str, list[Measurement]]] = field(default_factory=dict)
    """By load and arm."""
    skipped: dict[str, str] = field(default_factory=dict)
    """By row or load: why there is no figure."""


def missing() -> list[str]:
    """Return what this machine lacks for a run, with the way to get it; nothing when it can run."""
    programs = {"ip": "iproute2", "sysctl": "procps", "taskset": "util-linux", "unshare": "util-linux"}
    found = [
        f"{name} is not installed: {package} has it"
        for name, package in programs.items()
        if shutil.which(name) is None
    ]
    if os.geteuid() != 0:
        found.append("it takes root: namespaces, devices of the emulator, and processor time of both ends")
    elif not found and not testbed.can_make_namespaces():
        found.append("network namespaces are refused here: in a container it takes --privileged")
    if len(cores()) < 2:
        found.append("it takes two cores, one for what is measured and one for everything else")
    return found


def cores() -> list[int]:
    """Return the cores that we may use."""
    return sorted(os.sched_getaffinity(0))


def run(options: Options, say: Callable[[str], None], families: Mapping[str, Family] = FAMILIES) -> Outcome:
    """Measure. What fails is skipped with its reason, so that one family takes no other's figures with it."""
    outcome = Outcome()
    loads = rows.loads_of(options.rows)
    with tempfile.TemporaryDirectory(prefix="l4proxy-bench-") as folder:
        context = Context(
            Path(folder),
            options.seconds,
            options.repeats,
            options.quick,
            options.cuts,
            cores(),
            say,
            outcome.skipped,
        )
        for family in dict.fromkeys(load.family for load in loads):
            own = [load for load in loads if load.family == family]
            for load in own if options.quick else ():
                if not load.quick:
                    outcome.skipped[load.key] = "not part of a quick look"
            own = [load for load in own if load.key not in outcome.skipped]
            if own:
                _take(context, families[family], own, outcome)
    return outcome


def _take(context: Context, family: Family, loads: list[rows.Load], outcome: Outcome) -> None:
    context.say(", ".join(load.key for load in loads))
    try:
        for key, arm, figures in family(context, loads):
            outcome.measured.setdefault(key, {}).setdefault(arm, []).append(figures)
            text = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
            context.say(f"  {key} {arm}: {text}")
    except (Skipped, BenchmarkError) as error:
        reason = " ".join(str(error).split())[-300:]
        context.say(f"  skipped: {reason}")
        for load in loads:
            # A family that broke off has no figures: those of some repeats are not those of all.
            outcome.measured.pop(load.key, None)
            outcome.skipped.setdefault(load.key, reason)
