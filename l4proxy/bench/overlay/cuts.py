"""The family `cuts`: live flows while the path under them dies at random moments.

A client keeps a TCP conversation of 50 messages a second, a paced download and a UDP flow of 50 datagrams a second. The path in use loses a
link, or its transit PoP is stopped (SIGSTOP: it holds its sockets and answers nothing); some seconds later it comes back.
What counts is the longest silence of each flow, less a round trip of the path that is taken then, and that nothing ends or is wrong.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from l4proxy.bench.bars import OURS
from l4proxy.bench.overlay.context import Context, Found
from l4proxy.bench.overlay.emulated import LATE_LIMIT_US, Wan, emulated
from l4proxy.bench.overlay.rows import Load
from l4proxy.bench.testbed import BenchmarkError
from l4proxy.lab import daemons, measure, programs

PORT, ORIGIN_PORT = 7000, 7001
ACCESS_MS = {"client": 2, "origin": 1}
PATHS_MS = {("near", "mid", "far"): 60, ("near", "far"): 90}
"""The path in use while all is well, and the one to turn to."""
FLOWS = ("tcp", "bulk", "udp")
RATE, BULK_BYTES_S = 50, 1_250_000
SETTLE_S = 3.0
WATCH_S = 2.5
"""After a cut: six times what the slowest flow may take."""
MENDED_S = 3.0
"""Until the next one: a path counts as alive after a second without a gap."""
RANDOM_S = 1.0
SEED = 5
MAX_LATE_SHARE = 0.5
"""Of all cuts that may be thrown away because the emulator was late."""


def document() -> dict[str, Any]:
    """Return the lab file."""
    return {
        "lab": "cuts",
        "pops": {name: {"workers": 1} for name in ("near", "mid", "far")},
        "hosts": {
            "client": {"near": "near", "rtt": f"{ACCESS_MS['client']}ms"},
            "origin": {"near": "far", "rtt": f"{ACCESS_MS['origin']}ms"},
        },
        "defaults": {"rate": "100Mbit/s"},
        "links": [
            {"between": ["near", "mid"], "rtt": "25ms"},
            {"between": ["mid", "far"], "rtt": "35ms"},
            {"between": ["near", "far"], "rtt": "90ms"},
        ],
        "apps": [
            {
                "name": "cuts",
                "listen": [f"tcp/{PORT}", f"udp/{PORT}"],
                "origins": [f"origin:{ORIGIN_PORT}"],
                "pops": ["near"],
                "routing": {"egress": ["far"]},
                "smart_routing": "on",
            }
        ],
    }


@dataclass(slots=True)
class Tally:
    """What all cuts together came to."""

    gaps_ms: dict[str, list[float]] = field(default_factory=lambda: {flow: [] for flow in FLOWS})
    resets: int = 0
    wrong: int = 0
    late: int = 0

    @property
    def cuts(self) -> int:
        """How many count."""
        return len(self.gaps_ms["tcp"])

    def figures(self) -> dict[str, float]:
        """Return medians and 99th percentiles, and what must not happen."""
        found: dict[str, float] = {
            "cuts": self.cuts,
            "resets": self.resets,
            "wrong": self.wrong,
            "late": self.late,
        }
        for flow, gaps in self.gaps_ms.items():
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                value = measure.percentile(sorted(gaps), share)
                found[f"{flow}_{name}"] = 0.0 if value is None else value
        return found


def is_wrong(reason: str) -> bool:
    """Whether a flow ended because bytes were wrong, and not because it was reset or closed."""
    return "wrong bytes" in reason or "came instead of" in reason


def measure_cuts(context: Context, _loads: list[Load]) -> Iterator[Found]:
    """Cut as often as asked for, and give the one measurement that all cuts make."""
    dice = random.Random(SEED)  # noqa: S311 - moments, no secret
    tally = Tally()
    with emulated(document()) as wan:
        with (wan.network.run.folder / "origin.log").open("wb") as log:
            wan.network.start("origin", programs.module("traffic", "origin", str(ORIGIN_PORT)), "origin", log)
        wan.route("near", ["near", "mid", "far"])
        while tally.cuts < context.cuts:
            with _client(wan) as client:
                while tally.cuts < context.cuts and client.is_whole():
                    _cut(wan, client, dice, tally)
                    if tally.late > max(3, MAX_LATE_SHARE * context.cuts):
                        raise BenchmarkError(
                            f"the emulator was late in {tally.late} cuts: this machine is too busy"
                        )
                    context.say(f"  cut {tally.cuts}/{context.cuts}: {_last(tally)}")
                tally.resets += client.ended(wrong=False)
                tally.wrong += client.ended(wrong=True)
                if tally.resets + tally.wrong > context.cuts:
                    raise BenchmarkError(f"flows do not live: {client.reasons()}")
    yield "cuts", OURS, tally.figures()


def _last(tally: Tally) -> str:
    return ", ".join(f"{flow} {gaps[-1]:.0f} ms" for flow, gaps in tally.gaps_ms.items() if gaps)


@dataclass(frozen=True, slots=True)
class Client:
    """The client's process and its record."""

    wan: Wan
    process: "subprocess.Popen[bytes]"
    record: str

    def flows(self) -> dict[str, measure.FlowRecord]:
        """Read what happened so far."""
        with open(self.record) as lines:  # noqa: PTH123 - a name that another process was given
            return measure.read(lines)

    def is_whole(self) -> bool:
        """Whether all flows live."""
        found = self.flows()
        return set(found) == set(FLOWS) and not any(flow.ends for flow in found.values())

    def reasons(self) -> list[str]:
        """Return why flows ended."""
        return [reason for flow in self.flows().values() for _, reason in flow.ends]

    def ended(self, *, wrong: bool) -> int:
        """Return how many flows ended, because of wrong bytes or for another reason."""
        return sum(is_wrong(reason) == wrong for reason in self.reasons())

    def path(self) -> tuple[str, ...]:
        """Return the PoPs that its TCP conversation passes now."""
        port = self.flows()["tcp"].local_port
        listed = daemons.ask(self.wan.network, "near", "flow", "list", "--app", "cuts")["flows"]
        for flow in listed:
            if flow["protocol"] == "tcp" and str(flow["client"]).endswith(f":{port}"):
                return tuple(flow["path"])
        return ()


@contextmanager
def _client(wan: Wan) -> Iterator[Client]:
    record = wan.network.run.folder / f"client-{time.monotonic_ns()}.jsonl"
    record.touch()
    command = programs.module(
        "traffic", "client", wan.address("near"), str(PORT), "--record", str(record),
        "--rate", str(RATE), "--bulk-rate", str(BULK_BYTES_S),
    )  # fmt: skip
    process = wan.network.start("client", command, "client")
    try:
        time.sleep(SETTLE_S)
        yield Client(wan, process, str(record))
    finally:
        process.terminate()
        process.wait()


def _cut(wan: Wan, client: Client, dice: random.Random, tally: Tally) -> None:
    time.sleep(dice.uniform(0, RANDOM_S))
    path = client.path()
    if path not in PATHS_MS:
        return
    stops = len(path) == 3 and dice.random() < 0.5
    wan.network.stats(reset=True)
    with _stopped(wan, path[1]) if stops else _link_cut(wan, dice.choice(list(pairwise(path)))):
        cut_ns = time.monotonic_ns()
        time.sleep(WATCH_S)
        after, end_ns = client.path(), time.monotonic_ns()
    late = wan.network.stats(reset=True)["lateness"]["p99_us"]
    time.sleep(MENDED_S)
    if late > LATE_LIMIT_US:
        tally.late += 1
        return
    rtt_ms = PATHS_MS.get(after, max(PATHS_MS.values())) + sum(ACCESS_MS.values())
    flows = client.flows()
    for name in FLOWS:
        gap = measure.longest_gap_ms(flows[name].arrivals, cut_ns, end_ns)
        tally.gaps_ms[name].append(max(0.0, gap - rtt_ms))


@contextmanager
def _link_cut(wan: Wan, ends: Sequence[str]) -> Iterator[None]:
    wan.network.cut(*ends)
    try:
        yield
    finally:
        wan.network.mend(*ends)


@contextmanager
def _stopped(wan: Wan, pop: str) -> Iterator[None]:
    """Stop a PoP: its daemon and its engine, which are ours."""
    engine = int(daemons.ask(wan.network, pop, "status")["engine_pid"])
    daemon = wan.network.run.state.find("daemon", pop)
    pids = [engine, *([daemon.pid] if daemon else [])]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
