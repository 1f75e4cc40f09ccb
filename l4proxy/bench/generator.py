"""The calls into the extension, with their answers as INTERFACE.md has them. They block; Ctrl-C ends them."""

from typing import Any, Literal

from l4proxy import _native
from l4proxy.errors import L4ProxyError

Protocol = Literal["udp", "tcp"]


class BenchError(L4ProxyError):
    """Nothing could be measured: the target refused, closed, or this machine has no socket left."""


def measure_rtt(
    target: str,
    *,
    protocol: Protocol = "udp",
    rate_pps: float = 1000.0,
    size: int = 160,
    duration_s: float = 10.0,
    flows: int = 1,
    linger_s: float = 1.0,
    poll: bool = True,
) -> dict[str, Any]:
    """Return round trips to an echo at `ADDR:PORT`, by a fixed schedule, each counted from when it was due.

    `size` is in bytes, 16 to 65,507 (udp) or 1,048,576 (tcp); `flows` 1 to 10,000 take turns; `linger_s` is how long
    the last answers are waited for; without `poll` latencies hold this machine's own wake-ups. Latencies are None when
    nothing came back. ValueError names the option out of range; BenchError when nobody can be reached.
    """
    return _call(
        _native.bench_rtt,
        {
            "target": target,
            "protocol": protocol,
            "rate_pps": rate_pps,
            "size": size,
            "duration_s": duration_s,
            "flows": flows,
            "linger_s": linger_s,
            "poll": poll,
        },
    )


def measure_throughput(
    target: str,
    *,
    flows: int = 1,
    duration_s: float = 10.0,
    total_bytes: int | None = None,
    reverse: bool = False,
) -> dict[str, Any]:
    """Return what fits through `flows` (1 to 1,000) connections to a reflector, counted where it arrives.

    It ends after `duration_s`, or when `total_bytes` have arrived, if that comes first. Errors as for `measure_rtt`.
    """
    return _call(
        _native.bench_throughput,
        {
            "target": target,
            "flows": flows,
            "duration_s": duration_s,
            "bytes": total_bytes,
            "reverse": reverse,
        },
    )


def measure_connect(
    target: str,
    *,
    rate_per_s: float = 100.0,
    in_flight: int | None = None,
    duration_s: float = 10.0,
    timeout_s: float = 5.0,
    reset: bool = True,
    poll: bool = True,
) -> dict[str, Any]:
    """Return how connections to an echo fare: connect, one byte each way, close (by RST, or by FIN).

    With `in_flight` (1 to 1,000) the next one is made as soon as fewer are open, and `rate_per_s` means nothing. A
    connection without its byte after `timeout_s` is an error. Errors as for `measure_rtt`.
    """
    return _call(
        _native.bench_connect,
        {
            "target": target,
            "rate_per_s": rate_per_s,
            "in_flight": in_flight,
            "duration_s": duration_s,
            "timeout_s": timeout_s,
            "reset": reset,
            "poll": poll,
        },
    )


class Reflector:
    """The other end: echoes UDP; echoes, swallows or sends TCP. Bound when made; BenchError if that is refused."""

    def __init__(self, listen: str) -> None:
        try:
            self._reflector = _native.BenchReflector(listen)
        except OSError as error:
            raise BenchError(_text(error)) from error

    @property
    def address(self) -> str:
        """Where it is bound, `ADDR:PORT`, for UDP and TCP."""
        return self._reflector.address

    def run(self, max_seconds: float) -> dict[str, int]:
        """Serve until `stop`, at most `max_seconds`; return what was reflected. Once only."""
        try:
            return self._reflector.run(max_seconds)
        except OSError as error:
            raise BenchError(_text(error)) from error

    def stop(self) -> None:
        """End `run`; may be called from a signal handler."""
        self._reflector.stop()


def _call(function: Any, options: dict[str, Any]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = function(options)
    except OSError as error:
        raise BenchError(_text(error)) from error
    return {
        name: _without_zeros(value) if isinstance(value, dict) else value for name, value in answer.items()
    }


def _without_zeros(quantiles: dict[str, float]) -> dict[str, float | None]:
    """Return latencies with None for what was never measured: 0 µs would be a figure."""
    if quantiles["count"] > 0:
        return dict(quantiles)
    return dict.fromkeys(quantiles) | {"count": 0}


def _text(error: OSError) -> str:
    """Return the message without the errno that Python puts before it."""
    return error.strerror or str(error)
