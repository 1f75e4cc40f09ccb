"""What the compiled extension offers Python. `stubtest` proves that this file and the extension agree."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, final

__all__ = [
    "BenchFloor",
    "BenchFlows",
    "BenchReflector",
    "LabEmulator",
    "bench_connect",
    "bench_ping_pong",
    "bench_rtt",
    "bench_throughput",
    "serve",
]

def serve(fd: int, workers: int, pop: str, overlay_memory_mib: int) -> None:
    """Run the engine on the listening Unix socket `fd`, blocking without the GIL, until a daemon ends it.

    `workers` (1 to 256) threads carry the flows of PoP `pop`, the tunnels of each in at most `overlay_memory_mib` MiB
    (64 at the least); docs/engine-protocol.md is what it speaks. ValueError for a number of workers out of range,
    OSError when the kernel refuses what it cannot be without.
    """

@final
class LabEmulator:
    """A running WAN emulator: one thread that joins hosts' devices over links with delay, loss and rate.

    `hosts`: dicts with `name, wire ("tun" or "veth"), namespace, device, mac`; `links`: dicts with
    `name, from_host, to_host, pairs [(source, destination)], properties` (as `set_link` takes them). OSError if the
    kernel refuses a device, ValueError for a network that cannot be.
    """

    def __new__(
        cls, hosts: Sequence[Mapping[str, str]], links: Sequence[Mapping[str, Any]], seed: int, precise: bool
    ) -> LabEmulator: ...
    def set_link(self, name: str, properties: Mapping[str, Any]) -> None:
        """Replace a link's properties, all of them.

        `delay_ns, jitter_ns, reorder, loss_ratio, burst_loss_ratio, burst_packets, rate_bits_s` (None: no limit),
        `queue_bytes, cut`. KeyError for an unknown link, ValueError for a wrong value.
        """

    def properties(self, name: str) -> dict[str, Any]:
        """Return a link's properties; KeyError for an unknown link."""

    def stats(self) -> dict[str, Any]:
        """Return every counter since the start, and the lateness since the last reset."""

    def reset_lateness(self) -> None:
        """Begin a new measurement of lateness."""

    def stop(self) -> None:
        """Stop the thread and close the devices. Stopping twice is fine."""

def bench_rtt(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return round trips by a schedule, in the terms of INTERFACE.md; blocks without the GIL, Ctrl-C ends it.

    `target ("ADDR:PORT"), protocol ("udp" or "tcp"), rate_pps, size, duration_s, flows, linger_s, poll`. ValueError for an
    option out of range, OSError when nobody can be reached.
    """

def bench_throughput(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return bytes a second to or from a reflector: `target, flows, duration_s, bytes (or None), reverse`. As `bench_rtt`."""

def bench_connect(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how connections fare: `target, rate_per_s, in_flight` (else None), `duration_s, timeout_s, reset` (else FIN), `poll`.

    As `bench_rtt`.
    """

def bench_ping_pong(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return round trips of one message at a time: `target, protocol, size, duration_s`. As `bench_rtt`."""

@final
class BenchReflector:
    """The other end of the benchmarks, bound to `ADDR:PORT` (UDP and TCP) when made. OSError if that is refused."""

    def __new__(cls, listen: str) -> BenchReflector: ...
    @property
    def address(self) -> str:
        """Where it is bound, with the real port."""

    def run(self, max_seconds: float) -> dict[str, int]:
        """Serve until `stop`, or a signal's handler raises, at most so long. RuntimeError the second time."""

    def stop(self) -> None:
        """End `run`, from a signal handler or another thread."""

@final
class BenchFlows:
    """Open UDP flows to `ADDR:PORT`, a socket each, for several runs. Errors as of `bench_rtt`."""

    def __new__(cls, target: str, flows: int, size: int) -> BenchFlows: ...
    def run(self, rate_pps: float, duration_s: float) -> dict[str, Any]:
        """Return what `bench_rtt` returns. RuntimeError while another run goes on."""

    def flood(self, window: int, duration_s: float) -> dict[str, Any]:
        """Return `sent, received, lost, per_second, stopped`: every flow keeps `window` (1 to 64) datagrams on their way."""

@final
class BenchFloor:
    """The least that a relay can do, "splice", "copy", "udp", bound to `ADDR:PORT` when made. OSError if that is refused.

    Or one end of a tunnel of QUIC DATAGRAM frames, "quic-ingress" and "quic-egress": these need `identity`, a folder with
    `cert.pem` and `key.pem`, the same at both ends; ValueError without.
    """

    def __new__(
        cls, floor: str, listen: str, origin: str, identity: str | PathLike[str] | None = None
    ) -> BenchFloor: ...
    @property
    def address(self) -> str:
        """Where it is bound, with the real port."""

    def run(self, max_seconds: float) -> dict[str, int]:
        """Relay until `stop`, or a signal's handler raises, at most so long; return `flows, refused`. Once only."""

    def stop(self) -> None:
        """End `run`, from a signal handler or another thread."""
