"""The family `transit`: what a packet costs a PoP that only passes it on, beside a hop of WireGuard's.

Three real PoPs stand in a row; the middle one has a core for itself and is kept nearly full with packets of the first one
(`replay`). Its time is that of its engine process; what counts as a packet is what it says it has forwarded.
"""

import json
import time
from collections.abc import Iterator

from l4proxy.bench.bars import OURS
from l4proxy.bench.judged import Measurement, turns
from l4proxy.bench.overlay import wireguard
from l4proxy.bench.overlay.context import Context, Found, Skipped
from l4proxy.bench.overlay.fleet import APP_PORT, OVERLAY_PORT, Fleet
from l4proxy.bench.overlay.rows import WIREGUARD, Load
from l4proxy.bench.testbed import PYTHON, BenchmarkError

BATCH = 40
"""Packets of one system call of the sender: what QUIC sends at most, and what the kernel merges on a busy link."""
LOOKS, LOOK_S, LOOK_PPS = 3, 0.3, 200_000.0
"""Until the rate is found that keeps the transit as busy as it shall be: a packet costs less the more come at once."""
FULL = 0.8
"""Of a core: so busy that batches form, and nothing is lost yet."""
MAX_PPS = 2_000_000.0
"""More a single sender does not make."""
COUNTERS_SETTLE_S = 1.5
"""Until an engine's counters have reached its daemon."""


def measure(context: Context, loads: list[Load]) -> Iterator[Found]:
    """Take every size in turn."""
    core, other = context.measured_core, context.other_core
    with context.testbed("transit") as (bed, folder):
        names = ["alpha", "bravo", "charlie"]
        cores = dict.fromkeys((*names, "client", "origin"), other) | {"bravo": core}
        fleet = Fleet(bed, folder, names, cores)
        fleet.reflect()
        arms = [OURS]
        try:
            rival = wireguard.Row(bed, folder, core, other)
            arms.append(WIREGUARD)
        except (Skipped, BenchmarkError) as error:
            context.skipped["transit-wireguard"] = str(error)
        for repeat in range(context.repeats):
            for load in loads:
                for arm in turns(arms, repeat):
                    size = load.options["size"]
                    figures = (
                        _ours(fleet, size, context.seconds)
                        if arm == OURS
                        else rival.measure(size, context.seconds)
                    )
                    yield load.key, arm, figures


def _ours(fleet: Fleet, size: int, seconds: float) -> Measurement:
    transit = fleet.pops[fleet.names[1]]
    pid, rate = transit.engine(), LOOK_PPS
    for _ in range(LOOKS):
        look = _replay(fleet, pid, size, rate, LOOK_S)
        busy = look["cpu_ns"] / 1e9 / LOOK_S
        rate = min(MAX_PPS, rate * FULL / busy)
    time.sleep(COUNTERS_SETTLE_S)
    before = transit.counters()["overlay_packets_total forwarded"]
    answer = _replay(fleet, pid, size, rate, seconds)
    time.sleep(COUNTERS_SETTLE_S)
    forwarded = transit.counters()["overlay_packets_total forwarded"] - before
    arrived = min(1.0, forwarded / answer["sent_in_all"])
    packets = max(1.0, answer["sent"] * arrived)
    cpu_us = answer["cpu_ns"] / 1e3 / packets
    return {
        "cpu": cpu_us,
        "mpps": 1 / cpu_us,
        "loss": 1 - arrived,
        "pps": packets / seconds,
        "core": answer["cpu_ns"] / 1e9 / seconds,
    }


def _replay(fleet: Fleet, pid: int, size: int, rate: float, seconds: float) -> dict[str, float]:
    ingress, transit = fleet.ingress, fleet.pops[fleet.names[1]]
    command = [
        *PYTHON, "-m", "l4proxy.bench.overlay.replay", "--overlay", f"{ingress.address}:{OVERLAY_PORT}",
        "--to", f"{transit.address}:{OVERLAY_PORT}", "--through", f"10.214.9.2:{APP_PORT}", "--size", str(size),
        "--rate", str(rate), "--batch", str(BATCH), "--seconds", str(seconds), "--pid", str(pid),
    ]  # fmt: skip
    answer: dict[str, float] = json.loads(ingress.host.run(*command))
    return answer
