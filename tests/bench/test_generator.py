"""The generator through the extension, against a reflector on loopback. What it measures exactly is tested in Rust."""

import signal
import socket
import threading
import time

import pytest

from l4proxy.bench import BenchError, Reflector, measure_connect, measure_rtt, measure_throughput

FIGURES = {"count", "min", "mean", "p50", "p90", "p99", "p999", "max"}


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_round_trips_have_the_fields_of_the_interface(target: str, protocol: str) -> None:
    answer = measure_rtt(target, protocol=protocol, rate_pps=500, duration_s=0.1, flows=3)  # type: ignore[arg-type]
    assert (answer["sent"], answer["received"], answer["loss_ratio"]) == (50, 50, 0.0)
    assert (answer["reordered"], answer["duplicates"], answer["not_sent"], answer["stopped"]) == (
        0,
        0,
        0,
        False,
    )
    assert set(answer["rtt_us"]) == FIGURES
    assert answer["rtt_us"]["count"] == 50
    assert 0 < answer["rtt_us"]["min"] <= answer["rtt_us"]["p50"] <= answer["rtt_us"]["max"]
    assert answer["rate_pps"] <= 500.1
    assert answer["late_sends"] >= 0


def test_throughput_counts_what_arrived(target: str) -> None:
    for reverse in (False, True):
        answer = measure_throughput(target, flows=2, total_bytes=3_000_001, reverse=reverse)
        assert (answer["bytes"], answer["flows"]) == (3_000_001, 2)
        assert answer["mbit_s"] == pytest.approx(answer["bytes"] * 8 / 1e6 / answer["seconds"])


def test_connects_are_counted(target: str) -> None:
    for reset in (True, False):
        answer = measure_connect(target, rate_per_s=200, duration_s=0.1, reset=reset)
        assert (answer["connections"], answer["errors"]) == (20, 0)
        assert answer["latency_us"]["count"] == 20


def nobody() -> str:
    """Return an address where nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_what_was_never_measured_is_none_and_not_zero() -> None:
    answer = measure_rtt(nobody(), rate_pps=100, duration_s=0.05, linger_s=0.0)
    assert answer["loss_ratio"] == 1.0
    assert answer["rtt_us"] == dict.fromkeys(FIGURES) | {"count": 0}


def test_a_refused_target_and_a_wrong_option_are_told_apart() -> None:
    with pytest.raises(BenchError, match="cannot connect to 127"):
        measure_throughput(nobody())
    with pytest.raises(ValueError, match="size: 3"):
        measure_rtt("127.0.0.1:9", size=3)
    with pytest.raises(ValueError, match="ADDR:PORT"):
        measure_rtt("localhost:9")


def test_ctrl_c_ends_a_run_at_once(target: str) -> None:
    """Without looking after signals, a run of an hour would take an hour to interrupt."""
    started = time.monotonic()
    threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        measure_rtt(target, duration_s=3600)
    assert time.monotonic() - started < 30


def test_a_reflector_serves_once_and_says_what_it_did() -> None:
    reflector = Reflector("127.0.0.1:0")
    reflector.stop()
    answer = reflector.run(60.0)
    assert set(answer.values()) == {0}
    with pytest.raises(RuntimeError, match="served already"):
        reflector.run(1.0)
    first = Reflector("127.0.0.1:0")
    with pytest.raises(BenchError, match="in use"):
        Reflector(first.address)
