"""Round trips of datagrams through a lab, by `bench rtt` in its client. For the families that measure what a path does to them."""

import json
import subprocess

from l4proxy.bench.overlay.emulated import Wan
from l4proxy.bench.testbed import L4PROXY, BenchmarkError


def round_trips(wan: Wan, target: str, *, rate: int, size: int, seconds: float) -> dict[str, float]:
    """Return the median and 99th percentile, ms, of datagrams to a target, how many were sent and the share that had no answer."""
    # Asleep between datagrams: a generator that polls would take the core that the emulator needs.
    schedule = [
        "--rate",
        str(rate),
        "--size",
        str(size),
        "--duration",
        str(seconds),
        "--wait",
        "sleep",
        "--json",
    ]
    command = wan.network.command("client", [*L4PROXY, "bench", "rtt", target, *schedule])
    done = subprocess.run(
        command, env=wan.network.run.environment(), capture_output=True, text=True, timeout=seconds + 60, check=False
    )  # fmt: skip
    if done.returncode != 0:
        raise BenchmarkError(f"bench rtt: {done.stderr.strip()[-300:]}")
    answer = json.loads(done.stdout)
    trip = answer["from_send_us"]
    return {
        "rtt": trip["p50"] / 1e3,
        "p99": trip["p99"] / 1e3,
        "loss": answer["loss_ratio"],
        "sent": rate * seconds,
    }
