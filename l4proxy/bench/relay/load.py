"""The client of a measurement, a process in its namespace: one request a line on stdin, one answer a line on stdout.

A request names what to do, the target, and the processes of the relay; processor time is read right before and after
the load itself, so that nothing of this interpreter's own start is in it.
"""

import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from l4proxy import _native
from l4proxy.bench import measure_connect, measure_throughput
from l4proxy.bench.relay.tls_load import open_flow, tls_bulk, tls_connect
from l4proxy.bench.usage import Meter, kernel_bytes, pss_bytes, with_descendants
from l4proxy.errors import L4ProxyError

Figures = dict[str, float]

ANSWER_TIMEOUT_S = 2.0
FIRST_FLOWS = 100
"""Flows before those that count: what a relay takes once is not a flow's."""
WARM_UP_ROUNDS = 1.5
"""Datagrams of every flow before those that count: its session is open then."""


def bulk(target: str, pids: Sequence[int], *, seconds: float, flows: int, reverse: bool) -> Figures:
    """Return CPU s/GB, and GB/s beside it."""
    with Meter(pids) as meter:
        answer = measure_throughput(target, flows=flows, duration_s=seconds, reverse=reverse)
    moved = answer["bytes"]
    return {
        "cpu": meter.cpu_ns / moved,
        "machine": meter.machine_ns / moved,
        "gb_s": moved / 1e9 / answer["seconds"],
    }


def connect(target: str, pids: Sequence[int], *, seconds: float, in_flight: int) -> Figures:
    """Return CPU µs a connection."""
    with Meter(pids) as meter:
        answer = measure_connect(target, in_flight=in_flight, duration_s=seconds, poll=False)
    done = max(1, answer["connections"])
    return {
        "cpu": meter.cpu_ns / 1e3 / done,
        "machine": meter.machine_ns / 1e3 / done,
        "per_second": answer["per_second"],
        "loss": answer["errors"] / max(1, answer["errors"] + answer["connections"]),
    }


def ping_pong(target: str, pids: Sequence[int], *, seconds: float, protocol: str, size: int) -> Figures:
    """Return one-way µs: half of the round trip."""
    options = {"target": target, "protocol": protocol, "size": size, "duration_s": seconds}
    with Meter(pids) as meter:
        answer = _native.bench_ping_pong(options)
    trip = answer["round_trip_us"]
    if trip["count"] == 0:
        raise L4ProxyError(f"{target}: nothing came back")
    return {
        "p50": trip["p50"] / 2,
        "p99": trip["p99"] / 2,
        "cpu_us": meter.cpu_ns / 1e3 / trip["count"],
        "loss": answer["lost"] / (answer["lost"] + trip["count"]),
    }


def udp_rate(
    target: str, pids: Sequence[int], *, seconds: float, flows: int, rate: float, size: int = 160
) -> Figures:
    """Return CPU µs a packet that was forwarded; each message is one there and one back."""
    sockets = _native.BenchFlows(target, flows, size)
    sockets.run(rate, max(0.3, WARM_UP_ROUNDS * flows / rate))
    with Meter(pids) as meter:
        answer = sockets.run(rate, seconds)
    packets = max(1, 2 * answer["received"])
    return {
        "cpu": meter.cpu_ns / 1e3 / packets,
        "machine": meter.machine_ns / 1e3 / packets,
        "loss": answer["loss_ratio"],
        "p50_us": answer["from_send_us"]["p50"],
        "not_sent": answer["not_sent"],
    }


def udp_flood(
    target: str, pids: Sequence[int], *, seconds: float, flows: int, window: int, size: int = 160
) -> Figures:
    """Return CPU µs a packet while every flow sends as fast as answers come, and answers a second."""
    sockets = _native.BenchFlows(target, flows, size)
    sockets.flood(window, 0.2)
    with Meter(pids) as meter:
        answer = sockets.flood(window, seconds)
    packets = max(1, 2 * answer["received"])
    return {
        "cpu": meter.cpu_ns / 1e3 / packets,
        "machine": meter.machine_ns / 1e3 / packets,
        "loss": answer["lost"] / max(1, answer["sent"]),
        "per_second": answer["per_second"],
        "busiest": meter.busiest_ns / 1e9 / seconds,
    }


def idle(target: str, pids: Sequence[int], *, seconds: float, protocol: str, flows: int) -> Figures:
    """Return kB a flow that was used once and is silent: of the relay's processes, and of the kernel.

    It settles for so many seconds, until lists of freed objects and late closes no longer move what the kernel has taken.
    """
    open_one = OPEN[protocol]
    with ExitStack() as stack:
        for _ in range(FIRST_FLOWS):
            stack.enter_context(open_one(target))
        time.sleep(seconds)
        everything = with_descendants(pids)
        user, kernel = pss_bytes(everything), kernel_bytes()
        for _ in range(flows):
            stack.enter_context(open_one(target))
        time.sleep(seconds)
        figures = {}
        if pids:
            figures["user_kb"] = (pss_bytes(everything) - user) / flows / 1e3
        if kernel is not None and (grown := kernel_bytes()) is not None:
            figures["kernel_kb"] = (grown - kernel) / flows / 1e3
        return figures


def probe(target: str, _pids: Sequence[int], *, protocol: str) -> Figures:
    """Return at once when one byte comes back; an error otherwise."""
    OPEN[protocol](target).close()
    return {}


def _address(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


def _tcp_flow(target: str) -> socket.socket:
    flow = socket.create_connection(_address(target), ANSWER_TIMEOUT_S)
    return _used_once(flow)


def _udp_flow(target: str) -> socket.socket:
    flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flow.settimeout(ANSWER_TIMEOUT_S)
    flow.connect(_address(target))
    return _used_once(flow)


def _tls_flow(target: str) -> socket.socket:
    return _used_once(open_flow(target, ANSWER_TIMEOUT_S))


def _used_once(flow: socket.socket) -> socket.socket:
    try:
        flow.sendall(b"x")
        if flow.recv(16) != b"x":
            raise L4ProxyError("the echo is none")
    except BaseException:
        flow.close()
        raise
    return flow


OPEN: dict[str, Callable[[str], socket.socket]] = {"tcp": _tcp_flow, "udp": _udp_flow, "tls": _tls_flow}
"""How a flow is opened and used once, by protocol."""

KINDS: dict[str, Callable[..., Figures]] = {
    function.__name__: function
    for function in (
        bulk,
        connect,
        ping_pong,
        udp_rate,
        udp_flood,
        idle,
        probe,
        tls_bulk,
        tls_connect,
    )
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks for; what goes wrong is an answer, too."""
    try:
        kind = KINDS[request["kind"]]
        return {"figures": kind(request["target"], request["pids"], **request["options"])}
    except (L4ProxyError, OSError, ValueError) as error:
        return {"error": str(error) or type(error).__name__}


def main() -> None:
    """Answer until stdin ends."""
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
