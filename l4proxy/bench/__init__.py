"""The load generator: options with their bounds and defaults, targets, and the calls into the extension.

What is measured and how stands in `rust_ext/crates/bench`. Nothing here knows of apps, PoPs or the daemon.
"""

from l4proxy.bench.generator import (
    BenchError,
    Reflector,
    measure_connect,
    measure_rtt,
    measure_throughput,
)
from l4proxy.bench.target import parse_target

__all__ = [
    "BenchError",
    "Reflector",
    "measure_connect",
    "measure_rtt",
    "measure_throughput",
    "parse_target",
]
