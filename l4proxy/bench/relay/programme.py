"""A run: client, relay and origin in namespaces of their own, every arm in turn, until all repeats are done.

client – relay – origin, two plain veth pairs. The relay has one core, everything else the others. Relays wait side by
side on ports of their own; one that grows with use is started anew for each measurement.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l4proxy.bench import testbed
from l4proxy.bench.bars import OURS
from l4proxy.bench.judged import turns
from l4proxy.bench.load_client import LoadClient
from l4proxy.bench.relay import rows
from l4proxy.bench.relay.arms import ARMS, TLS_OFFSET, Place
from l4proxy.bench.relay.rows import PEERS
from l4proxy.bench.testbed import L4PROXY, BenchmarkError, Host, Program, Testbed, wait_for

CLIENT, RELAY_CLIENT_SIDE = "10.213.1.1", "10.213.1.2"
RELAY_ORIGIN_SIDE, ORIGIN = "10.213.2.1", "10.213.2.2"
ORIGIN_PORT = 4000
FIRST_PORT, FIRST_FRESH_PORT = 7000, 7100

CORES_FOR_TWO_WORKERS = 4
"""Two for the workers, one for the client, one for the origin."""
WORKER_FLOWS, WORKER_WINDOW = 1_000, 1
"""Many flows, so that the kernel's spreading over the workers is even."""

START_S = 60.0
"""Until a relay answers; a busy machine takes its time to load an interpreter."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run."""

    peers: Sequence[str]
    """Arms, installed ones only."""
    rows: Sequence[str]
    seconds: float
    repeats: int
    realtime: bool = False


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    measured: dict[str, dict[str, list[Mapping[str, float]]]] = field(default_factory=dict)
    workers: Mapping[str, Any] | None = None
    failed: dict[str, str] = field(default_factory=dict)
    """Peers that could not be measured, `arm load`, and why."""


def missing() -> list[str]:
    """Return what this machine lacks for a run, with the way to get it; nothing when it can run."""
    programs = {"ip": "iproute2", "sysctl": "procps", "taskset": "util-linux", "unshare": "util-linux"}
    found = [
        f"{name} is not installed: {package} has it"
        for name, package in programs.items()
        if shutil.which(name) is None
    ]
    if not found and not testbed.can_make_namespaces():
        found.append(
            "network namespaces are refused here: in a container it takes --privileged"
            if os.geteuid() == 0
            else "network namespaces are refused to you: run it with sudo, or have user namespaces allowed"
        )
    if len(cores()) < 2:
        found.append("it takes two cores, one for the relay and one for everything else")
    return found


def cores() -> list[int]:
    """Return the cores that we may use."""
    return sorted(os.sched_getaffinity(0))


def run(options: Options, say: Callable[[str], None]) -> Outcome:
    """Measure. BenchmarkError when something of ours fails; a peer that fails is left out and named."""
    outcome = Outcome()
    loads = rows.loads_of(options.rows)
    with Testbed(options.realtime) as bed, tempfile.TemporaryDirectory(prefix="l4proxy-bench-") as folder:
        bench = _Bench(bed, Path(folder), options, outcome, say)
        for load in loads:
            bench.measure(load)
        if rows.WORKERS_KEY in options.rows:
            outcome.workers = bench.measure_workers()
    return outcome


@dataclass(frozen=True, slots=True)
class _Way:
    """From the client to the origin: through a relay, or routed."""

    host: str
    port: int
    program: Program | None
    udp_offset: int = 0

    def target(self, protocol: str) -> str:
        """Return `ADDR:PORT` to send to."""
        offset = {"udp": self.udp_offset, "tls": TLS_OFFSET}.get(protocol, 0)
        return f"{self.host}:{self.port + offset}"


class _Bench:
    def __init__(
        self, bed: Testbed, folder: Path, options: Options, outcome: Outcome, say: Callable[[str], None]
    ) -> None:
        self._bed, self._folder, self._options, self._outcome, self._say = bed, folder, options, outcome, say
        every = cores()
        self._every = every
        self._relay = bed.host("relay", every[-1])
        client = bed.host("client", every[0])
        origin = bed.host("origin", every[1] if len(every) > 2 else every[0])
        bed.cable(client, f"{CLIENT}/24", self._relay, f"{RELAY_CLIENT_SIDE}/24")
        bed.cable(self._relay, f"{RELAY_ORIGIN_SIDE}/24", origin, f"{ORIGIN}/24")
        client.run("ip", "route", "add", "default", "via", RELAY_CLIENT_SIDE)
        origin.run("ip", "route", "add", "default", "via", RELAY_ORIGIN_SIDE)
        reflect = [*L4PROXY, "bench", "reflect", "--listen", f"{ORIGIN}:{ORIGIN_PORT}"]
        self._reflector: Program = bed.enter(origin.program(*reflect, log=folder / "reflect.log"))
        self._client: LoadClient = bed.enter(LoadClient(client, folder / "load.log"))
        self._routed = _Way(ORIGIN, ORIGIN_PORT, None)
        self._wait_for(self._routed, "tcp", self._reflector, "the routed way")
        self._standing: dict[str, _Way] = {}
        self._starts = 0

    def measure(self, load: rows.Load) -> None:
        """Take every arm of a load in turn, as often as asked for."""
        names = [name for name in rows.arms_of(load, self._options.peers) if name not in self._outcome.failed]
        self._say(f"{load.key}: {', '.join(names)}")
        measured: dict[str, list[Mapping[str, float]]] = {name: [] for name in names}
        self._outcome.measured[load.key] = measured
        for repeat in range(self._options.repeats):
            for name in turns(names, repeat):
                if f"{name} {load.key}" in self._outcome.failed:
                    continue
                try:
                    measured[name].append(self._once(load, name))
                except BenchmarkError as error:
                    if name not in PEERS:
                        raise
                    self._say(f"  {name} is left out: {error}")
                    self._outcome.failed[f"{name} {load.key}"] = str(error)
                    del measured[name]
                    continue
                figures = " ".join(f"{key} {value:.4g}" for key, value in measured[name][-1].items())
                self._say(f"  {repeat + 1}/{self._options.repeats} {name}: {figures}")

    def _once(self, load: rows.Load, name: str) -> dict[str, float]:
        seconds = load.seconds or self._options.seconds
        with self._way(name, load.protocol, load.fresh) as way:
            figures = self._client.ask(
                load.kind, way.target(load.protocol), way.program, seconds=seconds, **load.options
            )
            if way.program is not None:
                way.program.check()
        if name == rows.ROUTED:
            # No process relays: what is left is the machine's.
            return {key: value for key, value in figures.items() if key not in ("cpu", "busiest", "cpu_us")}
        return figures

    @contextmanager
    def _way(self, name: str, protocol: str, fresh: bool) -> Iterator[_Way]:
        """Yield the way through an arm; one that stands already is used again, unless a fresh one is asked for."""
        if name == rows.ROUTED:
            yield self._routed
        elif fresh or ARMS[name].alone:
            with self._started(name, self._relay, FIRST_FRESH_PORT) as way:
                self._wait_for(way, protocol, way.program, name)
                yield way
        else:
            if name not in self._standing:
                self._standing[name] = self._bed.enter(self._started(name, self._relay, FIRST_PORT))
            way = self._standing[name]
            self._wait_for(way, protocol, way.program, name)
            yield way

    @contextmanager
    def _started(self, name: str, host: Host, first_port: int, workers: int = 1) -> Iterator[_Way]:
        self._starts += 1
        folder = self._folder / f"{self._starts}-{name}"
        folder.mkdir()
        port = first_port + list(ARMS).index(name)
        place = Place(RELAY_CLIENT_SIDE, port, ORIGIN, ORIGIN_PORT, folder, workers)
        with host.program(*ARMS[name].start(place), log=folder / "log") as program:
            yield _Way(RELAY_CLIENT_SIDE, port, program, ARMS[name].udp_offset)

    def _wait_for(self, way: _Way, protocol: str, program: Program | None, what: str) -> None:
        def answers() -> bool:
            try:
                self._client.ask("probe", way.target(protocol), None, protocol=protocol)
            except BenchmarkError:
                return False
            return True

        wait_for(f"{what}, a first answer over {protocol}", [program] if program else [], answers, START_S)

    def measure_workers(self) -> Mapping[str, Any]:
        """Return how many times one worker's load two carry, or why that cannot be known here.

        Whoever carries the load decides how much there is, so what counts is the load at which the busiest worker would
        be full: answers a second over its share of a core.
        """
        if len(self._every) < CORES_FOR_TWO_WORKERS:
            return {
                "why": f"not measurable on {len(self._every)} cores: two workers take a core each, "
                "and client and origin need their own"
            }
        self._say(f"{rows.WORKERS_KEY}: one and two")
        ratios = []
        relay = Host(self._relay.namespace, ",".join(map(str, self._every[-2:])), self._options.realtime)
        for _ in range(self._options.repeats):
            full = {}
            for workers in (1, 2):
                with self._started(OURS, relay, FIRST_FRESH_PORT, workers) as way:
                    self._wait_for(way, "udp", way.program, OURS)
                    figures = self._client.ask(
                        "udp_flood", way.target("udp"), way.program,
                        seconds=self._options.seconds, flows=WORKER_FLOWS, window=WORKER_WINDOW,
                    )  # fmt: skip
                full[workers] = figures["per_second"] / max(figures["busiest"], 1e-9)
            ratios.append(full[2] / full[1])
            self._say(f"  {ratios[-1]:.2f}")
        return {"ratio": sorted(ratios)[len(ratios) // 2], "values": ratios}
